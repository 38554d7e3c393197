"""One variant's build: from the cache, or in a process of its own."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.backends import OrtRuntime
from workbench.backends.artifact import Artifact, ExportRecord
from workbench.errors import WorkbenchError
from workbench.measure.records import BASELINE
from workbench.model.export.settings import Export, writes_opset
from workbench.run import build
from workbench.run.prepare import Prepared
from workbench.system.child import ChildDied, ChildError, call
from workbench.system.progress import Progress, Report
from workbench.workspace.recipe import Variant


@dataclass(frozen=True, slots=True)
class Built:
    """build_s: None where everything came from the cache."""

    key: str
    artifact: Artifact
    build_s: float | None

    @property
    def export(self) -> ExportRecord:
        return self.artifact.info.export or ExportRecord()

    def after(self, passed_over: str) -> "Built":
        """With why another exporter was not taken."""
        export = self.export.model_copy(update={"passed_over": passed_over})
        info = self.artifact.info.model_copy(update={"export": export})
        return replace(self, artifact=replace(self.artifact, info=info))


def build_baseline(prepared: Prepared, timeout_s: float, report: Report) -> tuple[Variant, Built]:
    """The plain FP32 export, by the first exporter that takes the network. Raises WorkbenchError where none
    does."""
    what = "plain FP32 export, onnxruntime, 1 thread"
    variant = Variant(BASELINE, BASELINE, what, Export(), (), OrtRuntime())
    # Logged in the cache: the run folder goes where there is no baseline to begin with.
    log = prepared.job.cache / "logs" / "baseline.txt"
    report(Progress("building the baseline", 0, 1, f"opset {variant.export.opset}"))
    try:
        built = build_variant(prepared.job, variant, log, timeout_s)
    except ChildError as error:
        message = "the FP32 baseline cannot be exported, so there is nothing to compare with"
        raise WorkbenchError(f"{message}: {error.message}", hint=error.hint or f"see {log}") from error
    for sentence in built.export.sentences():
        report(Progress("model", 0, 0, sentence))
    return variant, built


def build_variant(job: build.Job, variant: Variant, log: Path, timeout_s: float) -> Built:
    """From the cache, or in a process of its own. Raises ChildError."""
    if (found := build.find(job, variant)) is not None:
        return Built(*found, build_s=None)
    started, first = time.monotonic(), variant.export
    try:
        imports = build.imports(job, variant)
        found = call(
            build.build, job, variant, log=log, timeout_s=timeout_s, label="the build", imports=imports
        )
    except ChildDied as error:
        # Out of memory, say: dynamo takes more of it than torchscript.
        torchscript = first.model_copy(update={"exporter": "torchscript"})
        if first.exporter != "auto" or not writes_opset(torchscript) or build.is_exported(job, variant):
            raise
        built = build_variant(job, replace(variant, export=torchscript), log, timeout_s)
        return built.after(f"dynamo, opset {first.opset}: {error.message}")
    return Built(*found, time.monotonic() - started)
