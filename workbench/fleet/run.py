"""`run --fleet`: build once, measure on every device, keep what was finished whatever happens to others."""

import os
import shutil
import socket
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from workbench.errors import WorkbenchError, summary
from workbench.fleet.link import DeviceGone, DeviceLink
from workbench.fleet.pool import OpenLinks, for_all
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
from workbench.fleet.session import DeviceBusy, DeviceSession, DeviceUnfit
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


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """options: of the run on each device. wait_s: for a device that another driver has, at most.

    open: opens the link to a device.
    """

    options: Options
    wait_s: float = WAIT_S
    open: OpenLink = open_link


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
    return begin_fleet(workspace, fleet, variants, settings, report).measure(list(fleet.devices))


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
        )
        driver = _begin(prepared, folder, run, fleet, variants, settings, report)
        folder.save(run)
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
    run = folder.run()
    variants = [
        SentVariant(name=name, recipe=saved.recipe, text=saved.text).variant()
        for name, saved in run.recipes.items()
    ]
    prepared = _prepared(workspace, variants, report)
    if prepared.validation.digest != run.validation_digest:
        raise WorkbenchError(
            f"the validation photos are others than those of run {run.run_id}",
            hint="start a new run: `krishi-bench run --fleet`",
        )
    run = run.model_copy(update={"devices": {**run.devices, **devices_of(fleet)}})
    folder.save(run)
    left = [name for name in fleet.devices if folder.outcome(name).state != "done"]
    if not left:
        return folder.status()
    return _begin(prepared, folder, run, fleet, variants, settings, report).measure(left)


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
    work.build_all()
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
        here = [name for name in devices if self.fleet.devices[name].reach == "local"]
        waves = [[name for name in devices if name not in here], here]
        progress = FleetProgress(self.report, len(devices))
        for_all(waves, lambda name: self._measure(name, progress), self.links)
        return self.folder.status()

    def _measure(self, name: str, progress: FleetProgress) -> None:
        before = self.folder.outcome(name)
        outcome = self.folder.update(name, before, state="measuring", reason=None, sent_bytes=0)
        log = self.folder.device(name).path / "logs" / "connection.txt"
        state: DeviceState = "done"
        reason: str | None = None
        measured = DeviceMeasurement(self, name, outcome, before)
        try:
            link = self.settings.open(name, self.fleet.devices[name], log)
            self.links.add(link)
            try:
                with link:
                    measured.all(link, progress.of(name))
            finally:
                self.links.remove(link)
        except WorkbenchError as error:
            state, reason = end_of(error, stopped=self.links.stopped)
        except Exception as error:
            # The other devices go on; the trace is in the log of this one.
            state, reason = "failed", summary(error)
            with log.open("a") as file:
                traceback.print_exception(error, file=file)
        self.folder.update(name, measured.outcome, state=state, reason=reason)
        progress.end(name, state, reason)


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
            session.hello()
            session.lease(driver_name(), driver.run.run_id, wait_s=driver.settings.wait_s)
            facts, _ = session.hello()  # again: while it was waited for, much may have changed
            if (problem := facts.unfit(disk_bytes=session.lacking_bytes(driver.work.objects))) is not None:
                raise DeviceUnfit(problem)
            self._note(session, facts=facts)
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


OWN_FILES = ("run.json", "trials.jsonl")  # that the driver writes itself, from the answers


def driver_name() -> str:
    """Who holds a lease."""
    return f"user {os.geteuid()} of {socket.gethostname()}, process {os.getpid()}"
