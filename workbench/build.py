"""Building a variant: export, then each step, every result kept under the digest of all that decides it."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import steps
from workbench.artifact import Artifact
from workbench.backends.packages import versions
from workbench.cache import ArtifactCache
from workbench.checkpoint import ModelSource, load_model
from workbench.dataset import Images
from workbench.errors import WorkbenchError
from workbench.export import Export, adopt_onnx, export_onnx, export_torch, torch_artifact_info, torch_logits
from workbench.files import digest_of, sha256_bytes, write_atomic
from workbench.images import Preprocess
from workbench.onnx_info import artifact_info, describe, logits_of
from workbench.recipe import Variant
from workbench.steps import Step
from workbench.weights import kind_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROBES = 8  # photos an export's logits are compared on
REFERENCE_BATCH = 16


@dataclass(frozen=True, slots=True)
class Job:
    """What all builds of a run share. photos: to compare logits on; calibration: for static_int8."""

    source: ModelSource
    source_digest: str
    classes: int
    contract: Preprocess
    photos: Images
    calibration: Images | None
    cache: Path

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return (1, 3, self.contract.crop, self.contract.crop)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Of the code that builds: an artifact made by other code is never taken from the cache."""
    here = Path(__file__).parent
    names = ("build", "checkpoint", "export", "exporters", "factory", "onnx_info", "weights")
    files = sorted([*here.glob("steps/*.py"), *(here / f"{name}.py" for name in names)])
    return sha256_bytes(b"".join(file.read_bytes() for file in files))


def find(job: Job, variant: Variant) -> tuple[str, Artifact] | None:
    """The finished artifact and its key, where every link of the chain is in the cache."""
    return _chain(job, variant, lambda key, _: ArtifactCache(job.cache).find(key))


def build(job: Job, variant: Variant) -> tuple[str, Artifact]:
    """Build what the cache lacks. Runs in a process of its own. Raises WorkbenchError."""
    cache = ArtifactCache(job.cache)
    built = _chain(job, variant, lambda key, make: cache.find(key) or cache.store(key, make))
    assert built is not None
    return built


def _chain(
    job: Job,
    variant: Variant,
    get: Callable[[str, Callable[[Path], Artifact]], Artifact | None],
) -> tuple[str, Artifact] | None:
    kind = "torch" if variant.runtime.backend == "torch" else "onnx"
    key = _export_key(job, variant.export, kind)
    artifact = get(key, lambda folder: _export(job, variant.export, kind, folder))
    for step in variant.steps:
        if artifact is None:
            return None
        source = artifact
        key = _step_key(job, source, step)
        artifact = get(key, lambda folder, step=step, source=source: _step(job, step, source, folder))  # type: ignore[misc]
    return (key, artifact) if artifact is not None else None


def _export_key(job: Job, export: Export, kind: str) -> str:
    return digest_of(
        [
            "export",
            code_digest(),
            kind,
            job.source_digest,
            # An ONNX source is held against what was asked for in so many words, not against defaults.
            [export.model_dump(mode="json"), sorted(export.model_fields_set)] if kind == "onnx" else None,
            job.input_shape,
            versions("torch", "onnx", "onnxscript"),
        ]
    )


def _step_key(job: Job, source: Artifact, step: Step) -> str:
    calibration = job.calibration.digest if step.use == "static_int8" and job.calibration else None
    libraries = versions(*steps.PACKAGES[step.use])
    return digest_of(
        ["step", code_digest(), source.digest, step.model_dump(mode="json"), calibration, libraries]
    )


def _export(job: Job, export: Export, kind: str, folder: Path) -> Artifact:
    onnx_file, torch_file = folder / "model.onnx", folder / "model.pt2"
    if kind_of(job.source.checkpoint) == "onnx":
        adopt_onnx(job.source.checkpoint, export, onnx_file)
        info = artifact_info(onnx_file)
    elif kind == "torch":
        written = export_torch(load_model(job.source, job.classes), torch_file, job.input_shape, _probes(job))
        info = torch_artifact_info(torch_file, written, job.input_shape)
    else:
        export_onnx(load_model(job.source, job.classes), export, onnx_file, job.input_shape, _probes(job))
        info = artifact_info(onnx_file)
    if info.classes != job.classes:
        raise WorkbenchError(
            f"the network tells {info.classes} classes apart, but there are {job.classes} class names",
            hint="mend `model.class_names`, or `num_classes` in `model.factory_args`, in krishi.yaml",
        )
    return Artifact(folder, info)


def _step(job: Job, step: Step, source: Artifact, folder: Path) -> Artifact:
    target = folder / "model.onnx"
    steps.apply(step, source.path, target, job.calibration, _probes(job))
    return Artifact(folder, artifact_info(target))


def _probes(job: Job) -> "NDArray[np.float32]":
    """(n, 3, crop, crop) of a few photos, spread over the classes."""
    return next(iter(job.photos.spread(PROBES, PROBES)))


def save_reference(job: Job, baseline: Artifact, path: Path) -> None:
    """Write (n, classes) FP32 logits of the source model on all photos, as .npy; in a process of its own.

    A model that comes as an ONNX file is its own reference: `baseline` is that file.
    """
    import numpy as np

    if kind_of(job.source.checkpoint) == "onnx":
        facts = describe(baseline.path)
        parts = [logits_of(baseline.path, facts, batch) for batch in job.photos.batches(REFERENCE_BATCH)]
    else:
        model = load_model(job.source, job.classes)
        parts = [torch_logits(model, batch) for batch in job.photos.batches(REFERENCE_BATCH)]
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(parts))
    write_atomic(path, buffer.getvalue())
