"""`run --fleet`: build once, measure on every device, keep what was finished whatever happens to others."""

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.fleet.builders import Builders
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.lease import driver_name
from workbench.fleet.link import DeviceGone, DeviceLink
from workbench.fleet.pool import OpenLinks, for_all, unexpected
from workbench.fleet.progress import FleetProgress
from workbench.fleet.reach import OpenLink, open_link
from workbench.fleet.records import (
    DeviceOutcome,
    DeviceState,
    FleetFolder,
    FleetRun,
    FleetStatus,
    SavedRecipe,
    devices_of,
    find_fleet_run,
)
from workbench.fleet.session import OWN_FILES, DeviceBusy, DeviceSession, DeviceUnfit
from workbench.fleet.sharding import ClassSharding
from workbench.fleet.shipment import SentPlan, SentVariant
from workbench.fleet.spec import FleetFile
from workbench.fleet.work import FleetWork
from workbench.measure.records import BASELINE
from workbench.results.folder import RunFolder
from workbench.results.records import TrialResult
from workbench.run.pipeline import Options, begin
from workbench.run.prepare import Prepared, prepare
from workbench.system.files import sha256_file
from workbench.system.progress import Progress, Report
from workbench.workspace.recipe import Variant
from workbench.workspace.workspace import Workspace

WAIT_S = 3600.0  # for a device that another driver has

Ask = Callable[["DeviceMeasurement", DeviceLink, Report], None]


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """options: of the run on each device. wait_s: for a device that another driver has, at most.

    open: opens the link to a device. shard: share the photos of a class out over its devices.
    """

    options: Options
    wait_s: float = WAIT_S
    open: OpenLink = open_link
    shard: bool = False


def run_fleet(
    workspace: Workspace,
    fleet: FleetFile,
    variants: Sequence[Variant],
    settings: FleetOptions,
    report: Report,
) -> FleetStatus:
    """Measure the variants on every device, in a new folder of the workspace's results.

    Raises WorkbenchError where the workspace cannot be used, or the baseline cannot be built and checked
    here. A device that cannot go on ends with its reason, and the others go on.
    """
    return begin_fleet(workspace, fleet, variants, settings, report).measure(list(fleet.measuring))


def begin_fleet(
    workspace: Workspace,
    fleet: FleetFile,
    variants: Sequence[Variant],
    settings: FleetOptions,
    report: Report,
) -> "FleetDriver":
    """A fleet's run with everything built, before the first device is asked. Raises WorkbenchError."""
    folder = FleetFolder.create(workspace.results)
    try:
        prepared = _prepared(workspace, variants, report)
        run = FleetRun(
            run_id=folder.run_id,
            created_at=datetime.now(UTC),
            name=workspace.name,
            validation_digest=prepared.validation.digest,
            recipes={variant.name: _saved(variant) for variant in variants},
            devices=devices_of(fleet),
            sharded=settings.shard,
        )
        driver = _begin(prepared, folder, run, fleet, variants, settings, report)
    finally:
        folder.remove_if_never_begun()
    return driver


def resume_fleet(
    workspace: Workspace, fleet: FleetFile, run_id: str, settings: FleetOptions, report: Report
) -> FleetStatus:
    """Measure what is missing in a fleet's run: the devices that were not measured to the end, and new ones.

    Raises WorkbenchError for an unknown run, and where the photos are others by now.
    """
    folder = find_fleet_run(workspace.results, run_id)
    run, variants = folder.run(), variants_of(folder)
    prepared = _prepared(workspace, variants, report)
    if prepared.validation.digest != run.validation_digest:
        raise WorkbenchError(
            f"the validation photos are others than those of run {run.run_id}",
            hint="start a new run: `krishi-bench run --fleet`",
        )
    run = run.model_copy(update={"devices": {**run.devices, **devices_of(fleet)}})
    folder.save(run)
    left = [name for name in fleet.measuring if folder.outcome(name).state != "done"]
    if not left:
        return folder.status()
    return _begin(prepared, folder, run, fleet, variants, settings, report).measure(left)


def variants_of(folder: FleetFolder) -> list[Variant]:
    """The variants of a fleet's run. Raises WorkbenchError where this version does not know a recipe."""
    return [
        SentVariant(name=name, recipe=saved.recipe, text=saved.text).variant()
        for name, saved in folder.run().recipes.items()
    ]


def _prepared(workspace: Workspace, variants: Sequence[Variant], report: Report) -> Prepared:
    calibrate = any("calibration" in step.READS for variant in variants for step in variant.steps)
    return prepare(workspace, report, calibrate=calibrate)


def _saved(variant: Variant) -> SavedRecipe:
    sent = SentVariant.of(variant, ())
    return SavedRecipe(recipe=sent.recipe, text=sent.text)


def _begin(
    prepared: Prepared,
    folder: FleetFolder,
    run: FleetRun,
    fleet: FleetFile,
    variants: Sequence[Variant],
    settings: FleetOptions,
    report: Report,
) -> "FleetDriver":
    build, candidates = folder.build, len(variants)
    context, _ = begin(prepared, build, settings.options, report, candidates=candidates)
    work = FleetWork(context, variants)
    timeout_s = settings.options.build_timeout_s
    work.build_all(
        Builders(fleet.builders, settings.open, run.run_id, build.path / "logs", timeout_s, report)
    )
    run = run.model_copy(update={"built_on": work.built_on()})
    folder.save(run)
    return FleetDriver(folder, run, fleet, work, settings, report)


@dataclass(slots=True)
class FleetDriver:
    """Everything that is prepared, and the devices to measure on."""

    folder: FleetFolder
    run: FleetRun
    fleet: FleetFile
    work: FleetWork
    settings: FleetOptions
    report: Report
    links: OpenLinks = field(default_factory=OpenLinks)

    def measure(self, devices: Collection[str]) -> FleetStatus:
        """Measure on the devices, those of this machine last: until then it builds and sends."""
        progress = FleetProgress(self.report, len(devices))
        try:
            if self.run.sharded:
                devices = self.answer(devices, progress)
            for_all(self._waves(devices), lambda name: self._measure(name, progress), self.links)
        except KeyboardInterrupt:
            again = f"`krishi-bench run --fleet --resume {self.folder.run_id}` takes it up"
            raise KeyboardInterrupt(f"stopped; what was finished is kept: {again}") from None
        return self.folder.status()

    def _waves(self, devices: Collection[str]) -> list[list[str]]:
        here = [name for name in devices if self.fleet.devices[name].reach == "local"]
        return [[name for name in devices if name not in here], here]

    def answer(self, devices: Collection[str], progress: FleetProgress) -> list[str]:
        """Have each class of several devices answer its photos together; returns those that can go on."""
        count = Counter(device.device_class for device in self.run.devices.values())
        several = [name for name, members in count.items() if members > 1]
        return self.answer_all([ClassSharding(self.folder, c, self.work) for c in several], devices, progress)

    def answer_all(
        self, shardings: Sequence[ClassSharding], devices: Collection[str], progress: FleetProgress
    ) -> list[str]:
        """Have the photos of these classes answered; returns the devices that can go on, of all classes.

        What a device that went away was to answer goes to the others, the baseline's answers included.
        """
        left = list(devices)

        def members(sharding: ClassSharding) -> list[str]:
            return [n for n in left if self.run.devices[n].device_class == sharding.device_class]

        def next_shares() -> dict[str, tuple[ClassSharding, Sequence[int]]]:
            return {n: (each, rows) for each in shardings for n, rows in each.next(members(each)).items()}

        def answer(name: str) -> None:
            if not self._attempt(name, progress, partial(DeviceMeasurement.answer, share=wanted[name])):
                left.remove(name)

        while wanted := next_shares():
            for_all(self._waves(wanted), answer, self.links)
        for sharding in shardings:
            if there := members(sharding):
                sharding.merge(there)
        return left

    def _measure(self, name: str, progress: FleetProgress) -> None:
        if self._attempt(name, progress, DeviceMeasurement.all):
            self.folder.update(name, self.folder.outcome(name), state="done", reason=None)
            progress.end(name, "done", None)

    def _attempt(self, name: str, progress: FleetProgress, ask: Ask) -> bool:
        """Do something with a device, over a link of its own; False where it could not go on, which its
        outcome says then."""
        before = self.folder.outcome(name)
        outcome = self.folder.update(name, before, state="measuring", reason=None, sent_bytes=0)
        log = self.folder.device(name).path / "logs" / "connection.txt"
        measured = DeviceMeasurement(self, name, outcome, before)
        try:
            with self.links.using(self.settings.open(name, self.fleet.devices[name], log)) as link:
                ask(measured, link, progress.of(name))
            return True
        except WorkbenchError as error:
            state, reason = end_of(error, stopped=self.links.stopped)
        except Exception as error:
            state, reason = "failed", unexpected(error, log)
        self.folder.update(name, measured.outcome, state=state, reason=reason)
        progress.end(name, state, reason)
        return False


def end_of(error: WorkbenchError, *, stopped: bool) -> tuple[DeviceState, str]:
    """The state of a device that ended so, and why. stopped: by the user."""
    if stopped:
        return "stopped", "the run was stopped"
    match error:
        case DeviceBusy():
            return "busy", error.message
        case DeviceUnfit():
            return "unfit", error.message
        case DeviceGone():
            return "gone", error.message
        case _:
            return "failed", f"{error.message} ({error.hint})" if error.hint else error.message


@dataclass(slots=True)
class DeviceMeasurement:
    """The measurement on one device. outcome: so far; before: of an earlier session. checked: variants."""

    driver: FleetDriver
    name: str
    outcome: DeviceOutcome
    before: DeviceOutcome
    checked: set[str] = field(default_factory=set)

    def all(self, link: DeviceLink, report: Report) -> None:
        """From the lease to the last file. Raises WorkbenchError where it cannot go on."""
        driver, session = self.driver, DeviceSession(link, report)
        try:
            facts = self._take(session)
            known = self._known()
            self.checked.update(known)
            report(Progress("sending", 0, 0, "what the device lacks"))
            session.send(self._objects(known))
            shipment = driver.work.shipment(self._folder.run_id, facts)
            self._folder.save_info(shipment.info)  # what is checked can be read, whatever comes
            session.begin(shipment)
            self._check_all(session, known, report)
            self._race(session)
        finally:
            self._note(session)

    def answer(self, link: DeviceLink, report: Report, *, share: tuple[ClassSharding, Sequence[int]]) -> None:
        """Its share of the photos of its class. Raises WorkbenchError where it cannot go on."""
        session, (sharding, rows) = DeviceSession(link, report), share
        try:
            sharding.answer(session, self.name, self._take(session), rows, report)
            self._note(session, checked=len(self.driver.work.variants) + 1)
        finally:
            self._note(session)

    def _take(self, session: DeviceSession) -> DeviceFacts:
        """Lease it and see what it is. Raises WorkbenchError where it is not to be had, or unfit."""
        driver = self.driver
        session.hello()
        session.lease(driver_name(), driver.run.run_id, wait_s=driver.settings.wait_s)
        facts, _ = session.hello()  # again: while it was waited for, much may have changed
        if (problem := facts.unfit(disk_bytes=session.lacking_bytes(driver.work.objects))) is not None:
            raise DeviceUnfit(problem)
        self._note(session, facts=facts)
        return facts

    @property
    def _folder(self) -> RunFolder:
        return self.driver.folder.device(self.name)

    def _note(self, session: DeviceSession, **changed: object) -> None:
        sent = {"heard_at": session.heard_at, "sent_bytes": session.sent_bytes}
        self.outcome = self.driver.folder.update(self.name, self.outcome, **sent, **changed)

    def _known(self) -> dict[str, TrialResult]:
        """What an earlier session has checked; nothing where the device is another one by now."""
        folder, facts, before = self._folder, self.outcome.facts, self.before.facts
        known = {trial.variant: trial for trial in folder.trials()}
        baseline = known.get(BASELINE)
        usable = baseline is not None and folder.predictions(BASELINE).exists()
        usable = usable and not any(trial.latency for trial in known.values())  # half of a race
        if known and not (usable and facts and before and facts.same_as(before)):
            shutil.rmtree(folder.path)
            self.outcome = self.driver.folder.update(self.name, self.outcome, checked=0)
            return {}
        return known

    def _objects(self, known: dict[str, TrialResult]) -> dict[str, Path]:
        logits = self._folder.predictions(BASELINE)
        recalled = {sha256_file(logits): logits} if known else {}
        return {**self.driver.work.objects, **recalled}

    def _check_all(self, session: DeviceSession, known: dict[str, TrialResult], report: Report) -> None:
        work, facts = self.driver.work, self.outcome.facts
        assert facts is not None
        self._copy_photos()
        variants = [work.context.baseline, *work.variants]
        for number, variant in enumerate(variants):
            report(Progress("checking", number, len(variants), variant.name))
            if (trial := work.ended.get(variant.name)) is not None:
                self._keep(session, trial)
            elif (trial := known.get(variant.name)) is not None:
                logits = self._folder.predictions(BASELINE)
                is_baseline = variant.name == BASELINE
                session.recall(work.sent(variant, facts), trial, sha256_file(logits) if is_baseline else None)
            else:
                trial = session.check(work.sent(variant, facts))
                session.fetch(self._folder.path, skip=OWN_FILES)
                self._keep(session, work.completed(trial, self._folder))
                if variant.name == BASELINE and trial.status != "ok":
                    raise WorkbenchError(f"the baseline cannot be measured there: {trial.reason}")

    def _keep(self, session: DeviceSession, trial: TrialResult) -> None:
        self._folder.append(trial)
        self.checked.add(trial.variant)
        self._note(session, checked=len(self.checked))

    def _copy_photos(self) -> None:
        """What later analysis needs of the photos, beside the device's results."""
        for file in ("photos.json", "validation.npz"):
            shutil.copyfile(self.driver.folder.build.path / file, self._folder.path / file)

    def _race(self, session: DeviceSession) -> None:
        folder, work = self._folder, self.driver.work
        info, trials = session.race(SentPlan.of(self.driver.settings.options.plan))
        session.fetch(folder.path, skip=OWN_FILES)
        folder.save_info(info)
        for trial in trials:
            folder.append(work.completed(trial, folder))
