"""Artifacts that are measured as they are: a published version, a run's variant, an ONNX file."""

from dataclasses import dataclass, replace
from pathlib import Path

from workbench.backends import OrtRuntime, Runtime
from workbench.backends.artifact import Artifact, ArtifactCache
from workbench.errors import WorkbenchError, plural
from workbench.measure.records import BASELINE
from workbench.model.export.export import adopt_onnx
from workbench.model.export.settings import Export
from workbench.model.graph.onnx_file import artifact_info
from workbench.model.source.model_source import ModelSource, source_digest
from workbench.photos.contract import Preprocess, size_text
from workbench.results.folder import find_run
from workbench.results.history import find_trial
from workbench.results.verdict import SEEN, compare
from workbench.run.build import code_digest
from workbench.system.child import call
from workbench.system.files import cache_folder, digest_of
from workbench.workspace.recipe import Variant


@dataclass(frozen=True, slots=True)
class Given:
    """label: for people. contract: None for the workspace's. class_names: None where it states none."""

    variant: Variant
    artifact: Artifact
    label: str
    contract: Preprocess | None = None
    class_names: tuple[str, ...] | None = None

    def as_baseline(self) -> "Given":
        return replace(self, variant=replace(self.variant, name=BASELINE))

    def check(self, class_names: tuple[str, ...], contract: Preprocess) -> None:
        """Raise WorkbenchError where it cannot be measured on a workspace's photos."""
        if self.class_names is not None and self.class_names != class_names:
            raise WorkbenchError(
                f"{self.label} tells other classes apart than the workspace, or has them in another order",
                hint="what was trained for other classes cannot be compared on the same photos",
            )
        if (classes := self.artifact.info.classes) != len(class_names):
            names = plural(len(class_names), "class")
            raise WorkbenchError(f"{self.label} gives {plural(classes, 'output')}; the workspace has {names}")
        asked, taken = (self.contract or contract).size, self.artifact.info.input_shape[2:]
        if 0 not in taken and taken != asked:
            raise WorkbenchError(
                f"{self.label} is for photos of {size_text(taken)} px; `preprocess` gives {size_text(asked)}",
                hint="name the recipe that makes it, so that its own `preprocess` is known",
            )


def given(
    name: str,
    artifact: Artifact,
    runtime: Runtime,
    label: str,
    contract: Preprocess | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Given:
    variant = Variant(name, name, label, Export(), (), runtime)
    return Given(variant, artifact, label, contract, class_names)


def of_file(path: Path) -> Given:
    """An ONNX file, on onnxruntime with one thread. Raises WorkbenchError where it is no classifier."""
    cache = cache_folder()
    key = digest_of(["given", source_digest(ModelSource(checkpoint=path)), code_digest()])
    if (artifact := ArtifactCache(cache).find(key)) is None:
        log = cache / "logs" / "given.txt"
        artifact = call(adopted, path, key, cache, log=log, timeout_s=300.0, label=f"reading {path}")
    return given(path.name, artifact, OrtRuntime(), str(path))


def adopted(path: Path, key: str, cache: Path) -> Artifact:
    """The file as an artifact in the cache, under this key; in a process of its own, as it loads onnx."""

    def build(folder: Path) -> Artifact:
        adopt_onnx(path, None, folder / "model.onnx")
        return Artifact(folder, artifact_info(folder / "model.onnx"))

    return ArtifactCache(cache).store(key, build)


def of_run(results: Path, run_id: str, variant: str | None) -> Given:
    """What a run built for a variant, or for its winner, while the cache has it. Raises WorkbenchError."""
    run = find_run(results, run_id)
    info = run.info()
    variant = compare(info, run.trials()).winner if variant is None else variant
    if variant is None:
        hint = f"name one of its variants: {run_id}:VARIANT"
        raise WorkbenchError(f"run {run.run_id} has no winner", hint=hint)
    trial = find_trial(run, variant)
    runtime, cache = info.runtimes.get(variant), ArtifactCache(cache_folder())
    if trial.status not in SEEN or trial.artifact_key is None or runtime is None:
        raise WorkbenchError(f"`{variant}` of run {run.run_id} was not measured: it ended {trial.status}")
    artifact = cache.find(trial.artifact_key)
    if artifact is None or artifact.digest != trial.artifact_digest:
        hint = "run it again, or name a published version or an .onnx file"
        gone = f"what run {run.run_id} built for `{variant}` is no longer in {cache.root}"
        raise WorkbenchError(gone, hint=hint)
    label = f"{variant} of run {run.run_id}"
    return given(variant, artifact, runtime, label, trial.preprocess or info.preprocess, info.class_names)
