"""The device's side of a run: the same code as a run of one machine, over what the driver has built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from workbench.backends.artifact import EXECUTABLE_FORMATS, Artifact, ArtifactInfo
from workbench.errors import Unsuited, WorkbenchError
from workbench.fleet import build_links
from workbench.fleet.objects import ObjectStore
from workbench.fleet.shipment import SentPixels, SentPlan, SentVariant, Shipment, placed
from workbench.measure.records import BASELINE
from workbench.measure.split import Parts
from workbench.model.source.model_source import ModelSource
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Dataset, Images
from workbench.photos.overlap import Separation
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.run import build
from workbench.run.build_variant import Built
from workbench.run.check_variant import Context, cause_of, empty_worker, ended, new_trial
from workbench.run.pipeline import checked, timed
from workbench.run.prepare import Prepared, overridden
from workbench.run.tune.layers import layer_times
from workbench.run.tune.quick_look import Looker, QuickLook
from workbench.steps.int8.layer_sensitivity import Times
from workbench.system.child import call
from workbench.system.files import exclusive, file_name, load_arrays, read_plain
from workbench.system.progress import Progress, Report
from workbench.workspace.recipe import Variant
from workbench.workspace.workspace import Workspace, WorkspacePreprocess

BUILD_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class SentPrepared(Prepared):
    """What `prepare` finds on a machine that has the photos. cut: the photos by preprocessing, as sent."""

    cut: Mapping[Preprocess, Images] = field(default_factory=dict)

    def job_for(self, contract: Preprocess, report: Report) -> build.Job:  # noqa: ARG002 - nothing is decoded
        return replace(self.job, contract=contract, photos=self.cut[contract])


class DeviceRun:
    """One run on this device. folder: of its results, in today's format; cache: of objects and builds."""

    def __init__(self, shipment: Shipment, folder: Path, cache: Path, report: Report) -> None:
        for name in ("logs", "predictions"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.folder, self._cache, self._report = RunFolder(folder), cache, report
        self._objects = ObjectStore(cache / "objects")
        self._known: list[TrialResult] = []
        self._cut: dict[Preprocess, Images] = {}
        self._labels = shipment.labels
        self._context = self._begin(shipment)
        self._looker = Looker(self._context)

    @property
    def empty_peak_bytes(self) -> int:
        """The memory of a worker with no runtime in it."""
        return self._context.empty_worker.peak_bytes

    def _begin(self, shipment: Shipment) -> Context:
        import numpy as np

        prepared, baseline = self._prepared(shipment), shipment.baseline.variant()
        info = shipment.info
        self.folder.save_info(info)
        with empty_worker(prepared.job, self.folder) as memory:
            built = self._built(prepared, baseline, shipment.baseline.links)
            empty = memory()
        return Context(
            prepared,
            self.folder,
            Parts(shipment.selection, shipment.certification, None, shipment.groups),
            info,
            baseline,
            built.artifact,
            reference=np.load(self._objects.path(shipment.reference)),
            empty_worker=empty,
            build_timeout_s=BUILD_TIMEOUT_S,
            report=self._report,
            built={BASELINE: built},
            runtimes=dict(info.runtimes),
            share=shipment.share,
        )

    def _prepared(self, shipment: Shipment) -> SentPrepared:
        own, *_ = shipment.pixels
        for sent in shipment.pixels:
            self._take_pixels(sent)
        # Nothing is read from it: the device has no source, and asks for none.
        source = ModelSource(checkpoint=Path("on the driver"))
        job = build.Job(
            source=source,
            source_digest=shipment.source_digest,
            classes=len(shipment.info.class_names),
            contract=own.contract,
            photos=self._cut[own.contract],
            calibration=None,
            cache=self._cache,
            own_size=shipment.own_size,
        )
        paths = (self._first_photo(shipment), *map(Path, shipment.paths[1:]))
        validation = Dataset(paths, shipment.labels, (), shipment.info.validation_digest)
        return SentPrepared(
            self._workspace(shipment, source),
            shipment.info.class_names,
            job,
            validation,
            calibration=None,
            source_kind=shipment.source_kind,
            calibrates=False,
            groups=shipment.groups,
            separation=shipment.info.separation or Separation(),
            cut=self._cut,
        )

    def _take_pixels(self, sent: SentPixels) -> None:
        path = self._objects.path(sent.content)
        self._cut[sent.contract] = Images(path, self._labels, sent.contract, sent.digest)

    def _workspace(self, shipment: Shipment, source: ModelSource) -> Workspace:
        folder = self.folder.path
        return Workspace(
            name=shipment.info.name,
            root=folder,
            file=None,
            model=source,
            calibration=None,
            validation=folder,
            preprocess=WorkspacePreprocess(),
            budget=shipment.info.budget,
            registry=folder,
            results=folder,
        )

    def _first_photo(self, shipment: Shipment) -> Path:
        """Under its own name, which messages show."""
        path = self.folder.path.with_name(f"{self.folder.path.name}-photo") / Path(shipment.paths[0]).name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.hardlink_to(self._objects.path(shipment.photo))
        return path

    def _adopt(self, context: Context, variant: Variant, links: Sequence[ArtifactInfo]) -> None:
        """Take what the driver has built and build what is left. Raises WorkbenchError."""
        context.built[variant.name] = self._built(context.prepared, variant, links)
        context.runtimes[variant.name] = variant.runtime

    def _built(self, prepared: Prepared, variant: Variant, links: Sequence[ArtifactInfo]) -> Built:
        made = [placed(info, self._cache, self._objects) for info in links]
        if not made or any(link.info.format in EXECUTABLE_FORMATS for link in made):
            raise Unsuited("a fleet sends no compiled code, and torch variants are nothing else")
        job = prepared.job_for(overridden(prepared.job.contract, variant.preprocess), self._report)
        log = self.folder.log(variant.name)
        # In a process of its own: the last link may be one that this machine builds.
        found = call(
            build_links.adopt, job, variant, made, log=log, timeout_s=BUILD_TIMEOUT_S, label="the build"
        )
        if len(links) < build.links_of(variant):
            self._keep_build(variant, found[1])
        return Built(*found, build_s=None)

    def _keep_build(self, variant: Variant, artifact: Artifact) -> None:
        """Leave what this machine alone has built among the files of the run, for a promotion."""
        folder = self.folder.path / "artifacts" / file_name(variant.name)
        folder.mkdir(parents=True, exist_ok=True)
        artifact.save_info()
        for file in artifact.folder.iterdir():
            (folder / file.name).hardlink_to(file)

    def absent(self, variants: Sequence[SentVariant]) -> dict[str, str]:
        """Those that cannot be tried here, and why."""
        reasons = {sent.name: self._context.not_here(sent.variant()) for sent in variants}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def look(self, sent: SentVariant, pixels: SentPixels) -> QuickLook:
        """A quick look at a candidate of a search, beside the baseline, which stays open for the next.

        pixels: the photos as the candidate's preprocessing cuts them. Raises WorkbenchError.
        """
        variant = sent.variant()
        self._take_pixels(pixels)
        self._adopt(self._context, variant, sent.links)
        return self._looker.look(variant, self._context.build(variant, BUILD_TIMEOUT_S))

    def profile(self, source: ArtifactInfo, quantized: ArtifactInfo, contract: Preprocess) -> Times:
        """What the layers of a float graph and of its INT8 graph take here, by node, in ns."""
        files = [placed(info, self._cache, self._objects) for info in (source, quantized)]
        log = self.folder.log("layers")
        return call(
            layer_times,
            self._cut[contract],
            files[0],
            files[1],
            log=log,
            timeout_s=BUILD_TIMEOUT_S,
            label="profiling",
        )

    def close(self) -> None:
        """End the session that looks leave open."""
        self._looker.close()

    def check(self, sent: SentVariant) -> TrialResult:
        """Build what is left of a variant, and check it as every run does."""
        variant, context = sent.variant(), self._context
        self._looker.close()
        if variant.name != BASELINE and context.not_here(variant) is None:
            try:
                self._adopt(context, variant, sent.links)
            except WorkbenchError as error:
                failed = ended(new_trial(variant), cause_of(variant, error))
                self.folder.append(failed)
                return self._kept(failed)
        return self._kept(checked(context, variant, Progress("checking", 0, 0, variant.name)))

    def recall(self, sent: SentVariant, trial: TrialResult, logits: str | None) -> None:
        """Take a trial that an earlier session has checked. logits: of the baseline, as an object."""
        variant, context = sent.variant(), self._context
        if trial.status == "ok" and variant.name != BASELINE:
            self._adopt(context, variant, sent.links)
            if trial.preprocess is not None:
                context.contracts[variant.name] = trial.preprocess
        if logits is not None:
            path = self._objects.path(logits)
            context.logits[variant.name] = load_arrays(path, read_plain(path), "logits")[0]
        self.folder.append(trial)
        self._kept(trial)

    def _kept(self, trial: TrialResult) -> TrialResult:
        self._known.append(trial)
        return trial

    def race(
        self, plan: SentPlan, lock: Path, variants: Sequence[str] | None = None
    ) -> tuple[RunInfo, list[TrialResult]]:
        """Time what passed. lock: that runs of this machine alone take while they time. variants: of those
        that passed; all by default."""
        passed = [trial for trial in self._known if trial.status == "ok"]
        passed = [trial for trial in passed if variants is None or trial.variant in variants]
        info = self._context.info.model_copy(update={"runtimes": self._context.runtimes})

        def waiting() -> None:
            self._report(Progress("waiting", 0, 0, "for a run of this machine's own to finish timing"))

        with exclusive(lock, waiting):
            trials = timed(self._context, info, passed, plan.plan())
        return self.folder.info(), trials
