"""Settings of every test, and what a test cannot import: records as fixtures, a small disk."""

import io
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from PIL import Image

from tests import builders
from workbench.results.records import RunInfo, TrialResult
from workbench.system.files import exclusive

# No deadline: a busy machine is not a defect. The same examples every time: a test fails for a change.
hypothesis.settings.register_profile("krishi-bench", deadline=None, derandomize=True)
hypothesis.settings.load_profile("krishi-bench")
# The tests start hundreds of processes, and without its bytecode each would compile the product anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Several tests share the processors, and threads of OpenMP that wait for a taken one wait busily: the few
# steps of training that tests make took twenty times as long. What a recipe says of threads goes before it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _server_logs_are_heard() -> None:
    """OpenVINO's reader silences the root logger, and a server started in this process its own, for good."""
    logging.getLogger("serve").setLevel(logging.INFO)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("serve") and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True


@pytest.fixture(scope="session")
def trial() -> Callable[..., TrialResult]:
    return builders.trial


@pytest.fixture(scope="session")
def absent_trial() -> Callable[..., TrialResult]:
    return builders.absent_trial


@pytest.fixture(scope="session")
def run_info() -> Callable[..., RunInfo]:
    return builders.run_info


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """A picture's bytes in a format of Pillow's."""

    def encode(image: Image.Image, form: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> builders.Once:
    """A folder by its name, made by the first of pytest's processes that asks for it; nobody writes to it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        made = shared / f"{name}.made"
        with exclusive(shared / f"{name}.lock", lambda: None):
            if not made.exists():
                shutil.rmtree(shared / name, ignore_errors=True)
                make(shared / name)
                made.touch()
        return shared / name

    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    with builders.small_disk(tmp_path / "disk", 64) as disk:
        yield disk
