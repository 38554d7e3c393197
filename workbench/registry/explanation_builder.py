"""At promotion: build the model file of the class activation maps, and check it as a server runs it."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from workbench.backends import OpenvinoRuntime, OrtRuntime, Runtime, backend_of
from workbench.backends.artifact import Artifact
from workbench.backends.heat_map import CALLS, split_maps
from workbench.backends.softmax import OutputKind, probabilities_of
from workbench.errors import Unsuited, plural
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import batch_of
from workbench.registry.bundle import class_maps_info
from workbench.registry.explanation import ClassMaps, ExplanationMethod
from workbench.registry.logits import Logits, Pixels, compare_logits, logits_of
from workbench.registry.manifest import FileEntry
from workbench.system.child import ChildError, call
from workbench.system.files import sha256_bytes

NAME = "class_maps"  # of their files, before the ending
TIMEOUT_S = 300.0
TOLERANCE = 0.1  # of the largest score; INT8 rounds the mean of the feature map, which the maps do without


@dataclass(frozen=True, slots=True)
class MapsJob:
    """A model to publish. pixels, logits, atol: its golden images, and what a session must give for them."""

    artifact: Artifact
    runtime: Runtime
    contract: Preprocess
    outputs: OutputKind
    pixels: Pixels
    logits: Logits
    atol: float


def explanation_of(job: MapsJob, log: Path) -> tuple[ExplanationMethod, dict[str, bytes]]:
    """The method, and the files that it takes, by name."""
    try:
        maps, files = call(build_maps, job, log=log, timeout_s=TIMEOUT_S, label="the class activation maps")
    except ChildError as error:
        why = f"no class activation maps, by {plural(CALLS, 'call')} of the model: {error.message}"
        return ExplanationMethod(method="occlusion", why=why), {}
    if maps.step == 1:
        why = "its head is a global average pool and a linear layer, so the mean of the maps is the scores"
        return ExplanationMethod(method="class-activation-map", why=why, maps=maps), files
    why = "its head has a hidden layer, whose slope at the mean of the places was taken"
    return ExplanationMethod(method="grad-cam", why=why, maps=maps), files


def build_maps(job: MapsJob) -> tuple[ClassMaps, dict[str, bytes]]:
    """In a child: the maps, and their files by name. Raises Unsuited where this model has none."""
    info = job.artifact.info
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maps = _write(job, folder)
        files = {file: (folder / file).read_bytes() for file in maps.files}
        entries = [
            FileEntry(path=file, size_bytes=len(data), sha256=sha256_bytes(data))
            for file, data in files.items()
        ]
        artifact = Artifact(folder, class_maps_info(info, maps, entries))
        with backend_of(job.runtime).session(artifact, job.runtime) as session:
            found = logits_of(session.infer, job.contract, job.pixels, raw=info.pixels)
    return maps.model_copy(update={"error": _error(job, found, maps)}), files


def _write(job: MapsJob, folder: Path) -> ClassMaps:
    """Write the files of the maps, whose error is not known yet."""
    from workbench.model.graph.class_maps import STEP, with_class_maps

    runtime, info = job.runtime, job.artifact.info
    if isinstance(runtime, OpenvinoRuntime):
        from workbench.backends.openvino.class_maps import write_class_maps
        from workbench.backends.openvino.ir import GRAPH, WEIGHTS

        (weights,) = job.artifact.read_companions()
        grid, step = write_class_maps(job.artifact.read(), weights, folder, STEP)
        if step != 1 and runtime.computes != "f32":
            raise Unsuited(f"its head has a hidden layer, and {runtime.computes} is too coarse for its slope")
        for written, file in ((GRAPH, f"{NAME}.xml"), (WEIGHTS, f"{NAME}.bin")):
            (folder / written).rename(folder / file)
        return ClassMaps(file=f"{NAME}.xml", companions=(f"{NAME}.bin",), grid=grid, step=step, error=0.0)
    if not isinstance(runtime, OrtRuntime) or runtime.device != "cpu":
        runs = f"{runtime.backend} on {runtime.device}"
        raise Unsuited(
            f"they are made for onnxruntime and openvino on the cpu, and this model runs in {runs}"
        )
    import onnx

    batch = batch_of(job.pixels[:1], job.contract, raw=info.pixels)
    made = with_class_maps(onnx.load_from_string(job.artifact.read()), batch)
    (folder / f"{NAME}.onnx").write_bytes(made.model.SerializeToString())
    return ClassMaps(file=f"{NAME}.onnx", grid=made.grid, step=made.step, error=0.0)


def _error(job: MapsJob, found: Logits, maps: ClassMaps) -> float:
    """`ClassMaps.error`. Raises Unsuited where it is above TOLERANCE, WorkbenchError for other answers."""
    import numpy as np

    answers, places = split_maps(found, job.artifact.info.classes, maps.grid, maps.step)
    compare_logits(answers, job.logits, job.atol)
    mean = places.mean((2, 3))
    scores = mean if job.outputs == "logits" else probabilities_of(mean, "logits")
    error = float(np.abs(scores - answers).max() / np.abs(answers).max())
    if not error <= TOLERANCE:
        raise Unsuited(f"the mean of its maps is {error:.2g} of the largest score away from its answer")
    return error
