"""A copy of the model that is slower on small photos, for devices whose winner is to be another one."""

# As `sitecustomize.py` of a process: photos of fewer than 64 pixels are computed forty times.
SLOWER = """
import dataclasses
from contextlib import contextmanager
from workbench.backends.ort import backend
plain = backend.session

@contextmanager
def session(artifact, runtime):
    with plain(artifact, runtime) as opened:
        def infer(batch):
            for _ in range(40 if batch.shape[-1] < 64 else 0):
                opened.infer(batch)
            return opened.infer(batch)
        yield dataclasses.replace(opened, infer=infer)

backend.session = session
"""
