"""`tune --fleet`: a search for each class of devices, on one of its devices, that share what they build.

The search is that of `tune`. It decides here; the builders build, or where there are none this machine;
a device takes the looks, checks and times. What was looked at is remembered on the device: after an
interruption the same command goes on from there.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from workbench.errors import WorkbenchError
from workbench.fleet.builders import Builders
from workbench.fleet.device_bench import DeviceBench
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.lease import driver_name
from workbench.fleet.link import DeviceGone
from workbench.fleet.pool import OpenLinks, for_all, unexpected
from workbench.fleet.progress import FleetProgress
from workbench.fleet.records import DeviceState, FleetDevice, FleetFolder, FleetRun, FleetStatus, SavedRecipe
from workbench.fleet.run import FleetOptions, end_of
from workbench.fleet.session import OWN_FILES, DeviceSession, DeviceUnfit
from workbench.fleet.spec import FleetFile
from workbench.fleet.work import FleetWork
from workbench.measure.records import BASELINE
from workbench.results.folder import RunFolder
from workbench.results.records import TrialResult
from workbench.run.check_variant import Context
from workbench.run.pipeline import begin
from workbench.run.prepare import prepare
from workbench.run.tune.bench import BenchLost
from workbench.run.tune.tune import Tuned, check_ours, recipes_of, tune_on
from workbench.system.progress import Progress, Report
from workbench.system.spans import Spans
from workbench.workspace.recipe import Variant
from workbench.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class FleetTuned:
    """What was found for each class; nothing for one whose search did not come to its end."""

    folder: FleetFolder
    found: Mapping[str, Tuned]

    @property
    def status(self) -> FleetStatus:
        return self.folder.status()


def tune_fleet(
    workspace: Workspace,
    fleet: FleetFile,
    variants: Sequence[Variant],
    recipes: Mapping[str, Path],
    settings: FleetOptions,
    report: Report,
) -> FleetTuned:
    """Search for each class within `settings.options.plan.budget_s`, and write its winner to its recipe.

    recipes: by class. Raises WorkbenchError where the workspace cannot be used, where a recipe is another's
    file, and where the baseline cannot be built and checked here.
    """
    for recipe in recipes.values():
        for path in recipes_of(recipe, workspace.targets).values():
            check_ours(path)
    folder = FleetFolder.create(workspace.results)
    try:
        prepared = prepare(workspace, report, calibrate=True)
        context, _ = begin(prepared, folder.build, settings.options, report, candidates=len(variants))
        run = FleetRun(
            run_id=folder.run_id,
            created_at=datetime.now(UTC),
            name=workspace.name,
            validation_digest=prepared.validation.digest,
            recipes={},
            devices={},
        )
        folder.save(run)
    finally:
        folder.remove_if_never_begun()
    tuner = FleetTuner(folder, run, fleet, context, variants, recipes, settings, report)
    tuner.search()
    return FleetTuned(folder, tuner.found)


@dataclass(slots=True)
class FleetTuner:
    """The searches of all classes. context: of this machine, where the baseline was built and checked.

    building: one search builds at a time. found: by class, those that came to their end. names: of candidates
    as files, with their digests: two that differ have two names, whichever class they are for. lost: builders
    that are asked no more.
    """

    folder: FleetFolder
    run: FleetRun
    fleet: FleetFile
    context: Context
    variants: Sequence[Variant]
    recipes: Mapping[str, Path]
    settings: FleetOptions
    report: Report
    links: OpenLinks = field(default_factory=OpenLinks)
    building: Lock = field(default_factory=Lock)
    found: dict[str, Tuned] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    _saving: Lock = field(default_factory=Lock)

    def search(self) -> None:
        """Search for every class; those of this machine last, one after the other, with nothing beside."""
        here = [name for name in self.fleet.classes if "local" in self._reaches(name)]
        away = [name for name in self.fleet.classes if name not in here]
        progress = FleetProgress(self.report, len(self.fleet.classes))
        waves = [away, *([name] for name in here)]
        for_all(waves, lambda name: self._search_class(name, progress), self.links)

    def _reaches(self, device_class: str) -> set[str]:
        return {self.fleet.devices[name].reach for name in self._devices(device_class)}

    def _devices(self, device_class: str) -> list[str]:
        return [name for name, each in self.fleet.measuring.items() if each.device_class == device_class]

    def _search_class(self, device_class: str, progress: FleetProgress) -> None:
        """On the first of its devices that can be had; a search that has begun goes to no other one."""
        devices = self._devices(device_class)
        for number, name in enumerate(devices):
            last = number == len(devices) - 1
            state, reason, begun = self._search_on(name, device_class, progress, wait=last)
            if begun or self.links.stopped:
                break
        progress.end(device_class, state, f"{name}: {reason}" if reason else name)

    def _search_on(
        self, name: str, device_class: str, progress: FleetProgress, *, wait: bool
    ) -> tuple[DeviceState, str | None, bool]:
        """How it ended on a device, why, and whether a search has begun. wait: for another driver to end."""
        device = self.fleet.devices[name]
        self._save({name: FleetDevice(device_class=device_class, reach=device.reach)}, {})
        outcome = self.folder.update(name, self.folder.outcome(name), state="measuring")
        log = self.folder.device(name).path / "logs" / "connection.txt"
        search: ClassSearch | None = None
        state: DeviceState = "done"
        reason: str | None = None
        try:
            with self.links.using(self.settings.open(name, device, log)) as link:
                search = ClassSearch(self, name, device_class, DeviceSession(link, progress.of(device_class)))
                self.found[device_class] = search.run(wait_s=self.settings.wait_s if wait else 0.0)
        except WorkbenchError as error:
            state, reason = end_of(error, stopped=self.links.stopped)
        except BenchLost as lost:
            state, reason = end_of(DeviceGone(str(lost)), stopped=self.links.stopped)
        except Exception as error:
            state, reason = "failed", unexpected(error, log)
        self.folder.update(name, outcome, state=state, reason=reason, **self._known(name, search))
        return state, reason, search is not None and search.begun

    def _known(self, name: str, search: "ClassSearch | None") -> dict[str, object]:
        """What an outcome keeps of a search."""
        if search is None:
            return {}
        checked = [trial for trial in self.folder.device(name).trials() if trial.accuracy is not None]
        session = search.session
        heard = {"heard_at": session.heard_at, "sent_bytes": session.sent_bytes}
        return {"facts": search.facts, "checked": len(checked), **heard}

    def _save(self, devices: Mapping[str, FleetDevice], recipes: Mapping[str, SavedRecipe]) -> None:
        """Add to what the run's record has."""
        with self._saving:
            both = {"devices": {**self.run.devices, **devices}, "recipes": {**self.run.recipes, **recipes}}
            self.run = self.run.model_copy(update=both)
            self.folder.save(self.run)

    def builders(self, report: Report) -> Builders:
        """The devices that build, for one class's search."""
        devices, settings, logs = self.fleet.builders, self.settings, self.folder.build.path / "logs"
        timeout_s = settings.options.build_timeout_s
        return Builders(
            devices, settings.open, self.run.run_id, logs, timeout_s, report, self.lost, self.links
        )

    def keep_recipes(self, run: RunFolder) -> None:
        """Note the variants that a device was timed with, so that the run's table has them."""
        timed = [trial for trial in run.trials() if trial.latency is not None and trial.variant != BASELINE]
        texts = {trial.variant: run.recipe(trial.variant).read_text(encoding="utf-8") for trial in timed}
        recipes = {t.variant: SavedRecipe(recipe=t.recipe, text=texts[t.variant]) for t in timed}
        self._save({}, recipes)


@dataclass(slots=True)
class ClassSearch:
    """One class's search on one device. begun: its baseline was checked there, and the search went on."""

    tuner: FleetTuner
    name: str
    device_class: str
    session: DeviceSession
    facts: DeviceFacts | None = None
    begun: bool = False

    def run(self, *, wait_s: float) -> Tuned:
        """From the lease to the recipe. Raises WorkbenchError, or BenchLost once the search has begun."""
        tuner, session = self.tuner, self.session
        session.hello()
        session.lease(driver_name(), tuner.run.run_id, wait_s=wait_s)
        started = time.monotonic()
        facts, _ = session.hello()  # again: while it was waited for, much may have changed
        self.facts = facts
        if (problem := facts.unfit()) is not None:
            raise DeviceUnfit(problem)
        bench = self._bench(facts)
        baseline = self._baseline(bench)
        self.begun = True
        recipe, plan = tuner.recipes[self.device_class], tuner.settings.options.plan
        tuned = tune_on(bench, bench.context, baseline, tuner.variants, recipe, started, plan, tuner.names)
        tuner.keep_recipes(bench.folder)
        return tuned

    def _bench(self, facts: DeviceFacts) -> DeviceBench:
        """The device with the photos and the baseline. Raises DeviceUnfit where it cannot measure."""
        tuner, session = self.tuner, self.session
        # Builds are logged beside the driver's: in its own folder the device's log has the same name.
        context = replace(
            tuner.context,
            report=session.report,
            spans=Spans(),
            built=dict(tuner.context.built),
            runtimes=dict(tuner.context.runtimes),
            contracts={},
        )
        work = FleetWork(context, [])
        session.report(Progress("building for the fleet", 0, 0, BASELINE))
        with tuner.building:
            work.build_all(tuner.builders(session.report))
        if (problem := facts.unfit(disk_bytes=session.lacking_bytes(work.objects))) is not None:
            raise DeviceUnfit(problem)
        session.send(work.objects)
        folder = tuner.folder.device(self.name)
        shipment = work.shipment(folder.run_id, facts)
        folder.save_info(shipment.info)
        for file in ("photos.json", "validation.npz"):
            shutil.copyfile(tuner.folder.build.path / file, folder.path / file)
        empty = replace(context.empty_worker, peak_bytes=session.begin(shipment))
        context = replace(context, folder=folder, info=shipment.info, empty_worker=empty)
        builders = tuner.builders(session.report)
        return DeviceBench(
            session, facts, work, context, builders, tuner.building, lambda: tuner.links.stopped
        )

    def _baseline(self, bench: DeviceBench) -> TrialResult:
        """Checked on the device. Raises WorkbenchError where it cannot be measured there."""
        trial = self.session.check(bench.work.sent(bench.context.baseline, bench.facts))
        self.session.fetch(bench.folder.path, skip=OWN_FILES)
        with bench.building:
            trial = bench.work.completed(trial, bench.folder)
        bench.folder.append(trial)
        if trial.status != "ok":
            raise WorkbenchError(f"the baseline cannot be measured there: {trial.reason}")
        return trial
