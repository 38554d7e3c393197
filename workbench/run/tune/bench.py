"""Where a search builds and measures its candidates: this machine, or a device of a fleet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from workbench.backends.artifact import Artifact
from workbench.measure.latency import Plan
from workbench.measure.records import BASELINE
from workbench.results.records import RunInfo, TrialResult
from workbench.run import pipeline
from workbench.run.advice.advise import Advice
from workbench.run.build_variant import Built
from workbench.run.check_variant import Context
from workbench.run.tune.layers import layers_of
from workbench.run.tune.quick_look import Looker, QuickLook
from workbench.steps.int8.layer_sensitivity import LayerSensitivity
from workbench.system.child import call
from workbench.system.progress import Progress
from workbench.workspace.recipe import Variant


class BenchLost(Exception):
    """The bench is there no more: nothing else can be measured on it. No candidate is to blame."""


class SearchBench(Protocol):
    """What a search asks of the machine that it is for. Any call may raise BenchLost."""

    def advice(self, variants: Sequence[Variant]) -> Advice: ...
    def not_here(self, variant: Variant) -> str | None:
        """Why the variant cannot be tried on it, or None."""

    def build(self, variant: Variant, timeout_s: float) -> Built:
        """Raises WorkbenchError."""

    def look(self, variant: Variant, built: Built) -> QuickLook:
        """Raises WorkbenchError where the variant cannot be opened or run."""

    def layers(
        self, variant: Variant, files: tuple[Artifact, Artifact], seconds: float, timeout_s: float
    ) -> list[LayerSensitivity]:
        """What each INT8 layer costs and buys. files: before and after quantisation. Raises ChildError."""

    def check(self, variant: Variant, stage: Progress) -> TrialResult:
        """Check a finalist in full; its result is on disk. No look follows."""

    def time(self, info: RunInfo, passed: Sequence[TrialResult], plan: Plan) -> None:
        """Time the finalists; the results are on disk, with `info`."""


@dataclass(slots=True)
class LocalBench:
    """This machine."""

    context: Context
    looker: Looker

    def advice(self, variants: Sequence[Variant]) -> Advice:
        context = self.context
        baseline = context.built[BASELINE].artifact
        return pipeline.advice_for(context.prepared, baseline, variants, context.unmade)

    def not_here(self, variant: Variant) -> str | None:
        return self.context.not_here(variant)

    def build(self, variant: Variant, timeout_s: float) -> Built:
        return self.context.build(variant, timeout_s)

    def look(self, variant: Variant, built: Built) -> QuickLook:
        return self.looker.look(variant, built)

    def layers(
        self, variant: Variant, files: tuple[Artifact, Artifact], seconds: float, timeout_s: float
    ) -> list[LayerSensitivity]:
        context = self.context
        log, job = context.folder.log(variant.name), context.job_of(variant.name)
        return call(
            layers_of, job, *files, seconds, log=log, timeout_s=timeout_s, label="profiling the layers"
        )

    def check(self, variant: Variant, stage: Progress) -> TrialResult:
        self.looker.close()
        return pipeline.checked(self.context, variant, stage)

    def time(self, info: RunInfo, passed: Sequence[TrialResult], plan: Plan) -> None:
        self.looker.close()
        pipeline.timed(self.context, info, passed, plan)
