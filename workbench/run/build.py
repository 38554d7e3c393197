"""Building a variant: export, then each step, every result kept under the digest of all that decides it."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVarTuple

from workbench import steps
from workbench.backends import (
    Backend,
    Runtime,
    TorchRuntime,
    backend_of,
    takes_onnx,
    takes_program,
)
from workbench.backends.artifact import Artifact, ArtifactCache, ArtifactInfo, ExportRecord
from workbench.errors import Unsuited, WorkbenchError, plural
from workbench.measure.records import Saturation
from workbench.measure.saturation.emulator import saturation_of
from workbench.model.export.comparison import torch_logits
from workbench.model.export.export import (
    adopt_onnx,
    export_onnx,
    export_program,
    export_torch,
    torch_artifact_info,
)
from workbench.model.export.reparameterize import write_merged
from workbench.model.graph.facts import NetworkFacts, facts_of
from workbench.model.graph.onnx_file import artifact_info, describe, load, logits_of
from workbench.model.source.checkpoint_file import kind_of
from workbench.model.source.model_source import ModelSource, load_model
from workbench.photos.contract import Batch, Preprocess, size_text
from workbench.photos.dataset import Images
from workbench.photos.preprocess import batch_of, normalize
from workbench.steps import Step
from workbench.steps.base import Reads
from workbench.system import machine
from workbench.system.child import call
from workbench.system.environments import VirtualEnvironment
from workbench.system.files import digest_of, sha256_file, write_atomic
from workbench.system.packages import versions
from workbench.workspace.recipe import Variant, scaled_side

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


Arguments = TypeVarTuple("Arguments")

RUNS_ONNX = ("numpy", "onnx", "onnxruntime")
EXPORT_PACKAGES = ("torch", "onnx", "onnxscript", "transformers", "timm")  # that decide an export
PROBES = 8  # photos an export's logits are compared on
REFERENCE_BATCH = 16
SATURATION_PHOTOS = 8
ENVIRONMENT_TIMEOUT_S = 3600.0  # at most: the build around it has a limit of its own
OTHER_SCALES = (0.86, 0.71, 0.57)


@dataclass(frozen=True, slots=True)
class Job:
    """What all builds of a run share, of one preprocessing.

    photos: to compare logits on. own_size: (height, width) of the workspace's input; a recipe may ask for
    another. choosing: rows of the photos that a step may choose by, without those that certify; None: all.
    """

    source: ModelSource
    source_digest: str
    classes: int
    contract: Preprocess
    photos: Images
    calibration: Images | None
    cache: Path
    own_size: tuple[int, int]
    choosing: tuple[int, ...] | None = None

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return (1, 3, *self.contract.size)


# The packages and modules whose code decides what an artifact holds.
BUILDING = ("backends", "measure/agreement", "measure/saturation", "model", "photos", "run/build", "steps")


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Of the code that builds: an artifact made by other code is never taken from the cache."""
    return digest_of_code(Path(__file__).parents[1], BUILDING)


def digest_of_code(root: Path, parts: Sequence[str]) -> str:
    """Of the modules and of every file in the packages named, however deep, with their places below `root`.

    Raises WorkbenchError where one is missing: a moved module must not drop out of the digest unseen.
    """
    files: set[Path] = set()
    for part in parts:
        found = [root / f"{part}.py"] if (root / f"{part}.py").is_file() else [*(root / part).rglob("*.py")]
        if not found:
            raise WorkbenchError(f"{root / part} is neither a module nor a package")
        files.update(found)
    return digest_of([[file.relative_to(root).as_posix(), sha256_file(file)] for file in sorted(files)])


def find(job: Job, variant: Variant) -> tuple[str, Artifact] | None:
    """The finished artifact and its key, where every link of the chain is in the cache.

    None where the backend keeps an engine elsewhere: `build` looks, and is quick where nothing is missing.
    """
    if backend_of(variant.runtime).prepare is not None:
        return None
    return chain(job, variant, lambda key, _: ArtifactCache(job.cache).find(key))


def build(job: Job, variant: Variant) -> tuple[str, Artifact]:
    """Build what the cache lacks, in a process of its own. Raises WorkbenchError.

    An engine that the backend prepares is kept for this machine, where opening the artifact finds it.
    """
    cache = ArtifactCache(job.cache)
    built = chain(job, variant, lambda key, make: cache.find(key) or cache.store(key, make))
    assert built is not None
    if (prepare := backend_of(variant.runtime).prepare) is not None:
        prepare(built[1], variant.runtime)
    return built


def imports(job: Job, variant: Variant) -> tuple[str, ...]:
    """The modules that a build imports, takes long to, and that start no threads."""
    exported = ArtifactCache(job.cache).holds(_export_key(job, variant))
    if exported or kind_of(job.source.checkpoint) == "onnx":
        return RUNS_ONNX
    dynamo = takes_onnx(variant.runtime) and variant.export.exporter != "torchscript"
    return (*RUNS_ONNX, "torch", *(("torch._dynamo", "onnxscript") if dynamo else ()))


def links_of(variant: Variant) -> int:
    """How many links the chain of a variant has."""
    backend = backend_of(variant.runtime)
    converts = backend.convert is not None and not any(_native(step, backend) for step in variant.steps)
    return 1 + len(variant.steps) + converts


def onnx_links(job: Job, variant: Variant) -> list[Artifact]:
    """The ONNX files on the way to the built variant, the export first; none where it needs no ONNX."""
    cache, links = ArtifactCache(job.cache), list[Artifact]()

    def found(key: str, _: object) -> Artifact | None:
        artifact = cache.find(key)
        links.extend([artifact] if artifact is not None and artifact.info.format == "onnx" else [])
        return artifact

    chain(job, variant, found)
    return links


def chain(
    job: Job, variant: Variant, get: Callable[[str, Callable[[Path], Artifact]], Artifact | None]
) -> tuple[str, Artifact] | None:
    """Every link in its order by `get`, which is given a key and what makes the link; None where it finds
    none. Raises WorkbenchError."""
    steps.check_sequence(variant.steps)
    key = _export_key(job, variant)
    artifact = get(key, partial(_export, job, variant))
    steps_left: list[Step | None] = list(variant.steps)
    if links_of(variant) > 1 + len(variant.steps):
        steps_left.append(None)  # the conversion to what the backend opens
    exported = artifact
    for step in steps_left:
        if artifact is None:
            return None
        key, source = _link_key(job, artifact, step, variant.runtime), artifact
        artifact = get(key, partial(_apply, job, step, variant.runtime, source))
    if artifact is None or exported is None:
        return None
    # Not read from the links: two exports may have given the same bytes.
    return key, replace(artifact, info=artifact.info.model_copy(update={"export": exported.info.export}))


def is_exported(job: Job, variant: Variant) -> bool:
    """Whether the first link of the chain is in the cache."""
    return ArtifactCache(job.cache).find(_export_key(job, variant)) is not None


def _native(step: Step, backend: Backend[Any]) -> bool:
    """Whether the step writes what the backend opens, where that is no ONNX file."""
    return bool(step.NATIVE & backend.FORMATS)


def _export_key(job: Job, variant: Variant) -> str:
    runtime, export = variant.runtime, variant.export
    onnx = takes_onnx(runtime)
    return digest_of(
        [
            "export",
            code_digest(),
            "onnx" if onnx else "program" if takes_program(runtime) else runtime.backend,
            runtime.decides(),
            job.source_digest,
            # An ONNX source is held against what was asked for in so many words, not against defaults.
            [export.model_dump(mode="json"), sorted(export.model_fields_set)]
            if onnx
            else export.reparameterize,
            job.input_shape,
            versions(*EXPORT_PACKAGES),
        ]
    )


def _link_key(job: Job, source: Artifact, step: Step | None, runtime: Runtime) -> str:
    backend = backend_of(runtime)
    if step is None:
        packages = packages_of(backend.PACKAGES, runtime.environment())
        return digest_of(["convert", backend.NAME, code_digest(), source.digest, packages])
    reads: dict[Reads, Callable[[], object]] = {
        "calibration": lambda: (job.calibration or job.photos).digest,
        "validation": lambda: [job.photos.digest, job.choosing],
        "contract": lambda: job.contract.model_dump(mode="json"),
        "processor": lambda: machine.collect().processor,
    }
    read = [reads[what]() for what in sorted(step.READS)]
    native = backend.NAME if _native(step, backend) else None
    given = [step.model_dump(mode="json"), packages_of(step.PACKAGES, step.environment(runtime)), native]
    return digest_of(["step", code_digest(), source.digest, *given, *read])


def packages_of(names: Sequence[str], environment: VirtualEnvironment | None) -> object:
    """The packages that decide the result of a step or a conversion, with their versions."""
    return versions(*names) if environment is None else environment.key


def _export(job: Job, variant: Variant, folder: Path) -> Artifact:
    onnx_file, export, checkpoint = folder / "model.onnx", variant.export, job.source.checkpoint
    if checkpoint is not None and kind_of(checkpoint) == "onnx":
        adopt_onnx(checkpoint, export, onnx_file)
        info = artifact_info(onnx_file)
        if 0 not in info.input_shape[2:] and info.input_shape[2:] != job.input_shape[2:]:
            made, asked = size_text(info.input_shape[2:]), size_text(job.contract.size)
            raise Unsuited(
                f"the model comes as an ONNX file for {made} pixels, not {asked}",
                hint="give the torch checkpoint, or an ONNX file that leaves height and width free",
            )
        facts = describe(onnx_file)
        _check_size(job, partial(logits_of, onnx_file, facts), raw=facts.pixels)
    else:
        model = load_model(job.source, job.classes)
        samples = normalize(_few(job.photos), job.contract)
        _check_size(job, partial(torch_logits, model), raw=False)
        write = partial(_write, job, variant, folder, samples)
        info, merging = write_merged(model, samples, torch_logits, write, merge=export.reparameterize)
        # After the export: a forward may keep what it made of another size (Swin of transformers does).
        any_size = _takes_other_sizes(job, model)
        record = (info.export or ExportRecord()).model_copy(update={"merging": merging, "any_size": any_size})
        info = info.model_copy(update={"export": record})
    if info.classes != job.classes:
        raise WorkbenchError(
            f"the network tells {plural(info.classes, 'class')} apart, but there are "
            f"{plural(job.classes, 'class name')}",
            hint="mend `model.class_names`, or `num_classes` in `model.factory_args`, in krishi.yaml",
        )
    return Artifact(folder, info)


def _takes_other_sizes(job: Job, model: "torch.nn.Module") -> bool:
    """Whether the network takes photos of another size. Its export may not: it freezes adaptive pools."""
    import numpy as np

    own = job.contract.size
    # Those of shipped recipes, and what a network that halves its input five times takes.
    scaled = [tuple(scaled_side(side, scale) for side in own) for scale in OTHER_SCALES]
    others = {*scaled, tuple(max(32, side // 64 * 32) for side in own), tuple(2 * side for side in own)}
    for height, width in sorted(others - {own}):
        try:
            logits = torch_logits(model, np.full((2, 3, height, width), 0.5, np.float32))
        except WorkbenchError:
            continue
        if logits.shape[1] == job.classes:
            return True
    return False


def _write(
    job: Job, variant: Variant, folder: Path, samples: "NDArray[np.float32]", model: "torch.nn.Module"
) -> ArtifactInfo:
    """Export the network for the variant's runtime, into `folder`."""
    onnx_file, torch_file, runtime = folder / "model.onnx", folder / "model.pt2", variant.runtime
    if isinstance(runtime, TorchRuntime):
        written = export_torch(model, torch_file, job.input_shape, samples, runtime)
        return torch_artifact_info(torch_file, written, job.input_shape)
    if takes_program(runtime):
        return export_program(model, torch_file, job.input_shape, samples)
    report = export_onnx(model, variant.export, onnx_file, job.input_shape, samples)
    record = ExportRecord(exporter=report.exporter, passed_over=report.passed_over)
    return artifact_info(onnx_file).model_copy(update={"export": record})


def _check_size(job: Job, run: Callable[[Batch], object], *, raw: bool) -> None:
    """Raise Unsuited where a recipe asks for an input size that the network cannot take."""
    if job.contract.size == job.own_size:
        return
    try:
        run(batch_of(_few(job.photos)[:1], job.contract, raw=raw))
    except WorkbenchError as error:
        own, asked = size_text(job.own_size), size_text(job.contract.size)
        raise Unsuited(
            f"the network takes {own} px only, not {asked}: {error.message}",
            hint="networks with a fixed number of patches or a flattened feature map need their own size",
        ) from error


def _apply(job: Job, step: Step | None, runtime: Runtime, source: Artifact, folder: Path) -> Artifact:
    backend = backend_of(runtime)
    if step is None:
        assert backend.convert is not None
        return Artifact(folder, _in(runtime.environment(), job, backend.convert, source, folder))
    raw = source.info.pixels
    photos = steps.Photos(
        job.contract,
        job.calibration and replace(job.calibration, raw=raw),
        replace(job.photos, raw=raw) if "validation" in step.READS else None,
        batch_of(_few(job.photos), job.contract, raw=raw),
        job.choosing,
    )
    if _native(step, backend):
        info = _in(step.environment(runtime), job, steps.apply_native, step, source.path, folder, photos)
        return Artifact(folder, info)
    target = folder / "model.onnx"
    steps.apply(step, source.path, target, photos)
    bound_to, note = step.bound_to() or source.info.bound_to, step.note_of(target) or source.info.note
    return Artifact(folder, artifact_info(target).model_copy(update={"bound_to": bound_to, "note": note}))


def _in(
    environment: VirtualEnvironment | None,
    job: Job,
    function: Callable[[*Arguments], ArtifactInfo],
    *arguments: *Arguments,
) -> ArtifactInfo:
    """Call it here, or in a process of that environment. Raises WorkbenchError."""
    if environment is None:
        return function(*arguments)
    log = job.cache / "logs" / f"{environment.name}.txt"
    return call(
        function,
        *arguments,
        log=log,
        timeout_s=ENVIRONMENT_TIMEOUT_S,
        label="the conversion",
        environment=environment,
    )


def _few(images: Images, count: int = PROBES, *, raw: bool = True) -> Batch:
    """A batch of photos that are spread over the classes. raw: as 8-bit pixels."""
    count = min(count, len(images))
    return next(iter(replace(images, raw=raw).spread(count, count)))


def save_reference(job: Job, baseline: Artifact, path: Path) -> None:
    """Write (n, classes) FP32 logits of the source model on all photos, as .npy; in a process of its own.

    A model that comes as an ONNX file is its own reference: `baseline` is that file.
    """
    import numpy as np

    photos = job.photos
    if kind_of(job.source.checkpoint) == "onnx":
        run: Callable[[Batch], Batch] = partial(logits_of, baseline.path, describe(baseline.path))
        photos = replace(photos, raw=baseline.info.pixels)
    else:
        run = partial(torch_logits, load_model(job.source, job.classes))
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate([run(batch) for batch in photos.batches(REFERENCE_BATCH)]))
    write_atomic(path, buffer.getvalue())


def saturation(job: Job, artifact: Artifact) -> Saturation | None:
    """What 16-bit accumulation would change on a few calibration photos; in a process of its own."""
    assert job.calibration is not None
    return saturation_of(artifact.path, _few(job.calibration, SATURATION_PHOTOS, raw=artifact.info.pixels))


def network(baseline: Artifact) -> NetworkFacts:
    """What the network is made of; in a process of its own, because it loads onnx."""
    facts, record = facts_of(load(baseline.path)), baseline.info.export
    # An ONNX source takes what the file takes.
    return facts if record is None else facts.model_copy(update={"any_size": record.any_size})
