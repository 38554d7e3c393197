"""What each layer of a static INT8 graph costs and buys, in processes of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from workbench.backends.artifact import Artifact
from workbench.model.graph.node_names import prepare
from workbench.photos.contract import Batch
from workbench.photos.dataset import Images
from workbench.run.build import Job
from workbench.steps.int8.layer_sensitivity import LayerSensitivity, Times, layers, times_of

LAYER_PHOTOS = 32
LAYER_SECONDS = 30.0


def layers_of(
    job: Job, source: Artifact, quantized: Artifact, seconds: float, times: Times | None = None
) -> list[LayerSensitivity]:
    """What each INT8 layer of `quantized` costs and buys, on calibration photos; in a process of its own.

    source: what the static_int8 step was given. seconds: for the errors; the profile takes a few more. times:
    of the nodes of both, where another machine has taken them.
    """
    assert job.calibration is not None
    photos = _some(job.calibration, LAYER_PHOTOS, raw=source.info.pixels)
    with _prepared(source) as floats:
        return layers(floats, quantized.path, photos, seconds, times)


def layer_times(photos: Images, source: Artifact, quantized: Artifact) -> Times:
    """What the nodes of both graphs take on this machine; in a process of its own."""
    with _prepared(source) as floats:
        return times_of(floats, quantized.path, _some(photos, 1, raw=source.info.pixels))


def _some(images: Images, count: int, *, raw: bool) -> Batch:
    """A batch of photos that are spread over the classes. raw: as 8-bit pixels."""
    count = min(count, len(images))
    return next(iter(replace(images, raw=raw).spread(count, count)))


@contextmanager
def _prepared(source: Artifact) -> Iterator[Path]:
    """The float graph as the static_int8 step begins with it: its nodes are named as in the INT8 graph."""
    with TemporaryDirectory() as folder:
        floats = Path(folder) / "prepared.onnx"
        prepare(source.path, floats)
        yield floats
