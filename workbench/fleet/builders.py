"""The builders of a fleet at work: each is leased and sent what a link needs, and what it made comes here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.backends.artifact import EXECUTABLE_FORMATS, Artifact, ArtifactCache, ArtifactInfo
from workbench.errors import Unsuited, WorkbenchError, plural
from workbench.fleet.build_links import LinkTask, make_link, missing_link
from workbench.fleet.build_request import request_of, source_files
from workbench.fleet.build_schedule import BuildSchedule
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.lease import driver_name
from workbench.fleet.link import DeviceError
from workbench.fleet.pool import OpenLinks, for_all, unexpected
from workbench.fleet.reach import OpenLink
from workbench.fleet.session import DeviceBusy, DeviceSession, DeviceUnfit
from workbench.fleet.spec import DeviceSettings
from workbench.run.build import Job, code_digest
from workbench.run.pipeline import LIBRARIES
from workbench.system.child import ChildError, call
from workbench.system.packages import versions
from workbench.system.progress import Progress, Report
from workbench.workspace.recipe import Variant

STAGE = "building on the builders"


@dataclass(frozen=True, slots=True)
class Builders:
    """devices: that build, by name. logs: folder for what their connections say. timeout_s: for one link.

    lost: those that were gone or unfit, which are asked no more. links: of the whole run, through which it is
    stopped from outside.
    """

    devices: Mapping[str, DeviceSettings]
    open: OpenLink
    run_id: str
    logs: Path
    timeout_s: float
    report: Report
    lost: set[str] = field(default_factory=set)
    links: OpenLinks = field(default_factory=OpenLinks)

    def build(self, wanted: Sequence[tuple[Job, Variant]]) -> None:
        """Have the links built that the cache lacks and that are the same for all machines.

        What no builder can build is left out, and each builder that cannot go on is said in one line.
        """
        if not self.devices or not wanted:
            return
        frontier = _Frontier(wanted, exports=source_files(wanted[0][0].source) is not None)
        built = Counter[str]()
        lost = self._spread(frontier, set(self.lost), built)
        exports = [task for task in frontier.missing() if not task.made]
        if exports and len(lost) < len(self.devices) and not self.links.stopped:
            # Steps may still be made elsewhere: they need neither torch nor the user's code.
            frontier.exports = False
            _export_here(exports, self)
            self._spread(frontier, lost, built)
        shares = [f"{name} built {plural(count, 'link')}" for name, count in built.items()]
        if shares:
            self.report(Progress("builders", 0, 0, ", ".join(shares)))

    def _spread(self, frontier: "_Frontier", lost: set[str], built: Counter[str]) -> set[str]:
        """Hand out what can be built now and what comes of it; returns the builders that cannot go on.

        lost: those that could not before. built: links by builder, which are added.
        """
        there = [name for name in self.devices if name not in lost]
        if not there or not frontier.tasks():
            return lost
        schedule = BuildSchedule(frontier.tasks, there)
        work = BuildSession(self, schedule, OpenLinks())
        for_all([there], work.serve, work.links)
        built.update({name: count for name, count in schedule.built.items() if count})
        return lost | work.lost


@dataclass(slots=True)
class _Frontier:
    """wanted: jobs and variants. exports: builders can make them. known: what is in the cache, by key."""

    wanted: Sequence[tuple[Job, Variant]]
    exports: bool
    known: dict[str, Artifact] = field(default_factory=dict)

    def tasks(self) -> list[LinkTask]:
        """What a builder can make now."""
        return [task for task in self.missing() if task.made or self.exports]

    def missing(self) -> list[LinkTask]:
        """The next missing link of each variant, those that several want once."""
        found: dict[str, LinkTask] = {}
        for job, variant in self.wanted:
            try:
                task = missing_link(job, variant, self.known)
            except WorkbenchError:  # the driver's own build of it will say so
                continue
            if task is not None:
                found.setdefault(task.key, task)
        return list(found.values())


def _export_here(tasks: Sequence[LinkTask], builders: Builders) -> None:
    """Export what no builder can, as its code is installed here. Errors are for the build that follows."""
    for task in tasks:
        log = builders.logs / "exports.txt"
        given = (task.job, task.variant, task.made, task.key)
        try:
            call(make_link, *given, log=log, timeout_s=builders.timeout_s, label="the build")
        except ChildError:
            continue


@dataclass(slots=True)
class BuildSession:
    """What the threads of the builders share. said: causes that were reported already. lost: builders that
    ended before all was built."""

    builders: Builders
    schedule: BuildSchedule
    links: OpenLinks
    said: set[tuple[str, str]] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)

    def serve(self, name: str) -> None:
        """Have one builder build until nothing is left for it."""
        log = self.builders.logs / f"builder-{name}.txt"
        try:
            opened = self.builders.open(name, self.builders.devices[name], log)
            with self.builders.links.using(opened), self.links.using(opened) as link:
                self._build_all(name, DeviceSession(link))
        except WorkbenchError as error:
            self._lose(name, error.message, again=isinstance(error, DeviceBusy))
        except Exception as error:
            self._lose(name, unexpected(error, log))
        finally:
            self.schedule.leave(name)
            if self.schedule.over:
                self.links.stop()  # one that is still at what another has built by now

    def _lose(self, name: str, reason: str, *, again: bool = False) -> None:
        """Note that it cannot go on, unless its link was closed because all is built. again: ask it later."""
        if self._ended:
            return
        self.lost.add(name)
        if not again:
            self.builders.lost.add(name)
        self._say(name, reason)

    @property
    def _ended(self) -> bool:
        return self.schedule.over or self.links.stopped or self.builders.links.stopped

    def _say(self, name: str, reason: str) -> None:
        """One line, and once: that others build in its place, and why."""
        if not self._ended and (name, reason) not in self.said:
            self.said.add((name, reason))
            self.builders.report(Progress("builds elsewhere", 0, 0, f"what {name} would build: {reason}"))

    def _build_all(self, name: str, session: DeviceSession) -> None:
        session.hello()
        session.lease(driver_name(), self.builders.run_id, wait_s=0.0)
        facts, _ = session.hello()
        if (problem := facts.unfit() or other_code(facts)) is not None:
            raise DeviceUnfit(problem)
        while (task := self.schedule.next(name)) is not None:
            if (problem := other_packages(facts, task, versions(*task.packages))) is not None:
                self._say(name, problem)
                self.schedule.refuse(task.key, [name])
                continue
            try:
                self._build(name, session, task)
            except Unsuited:  # it is so on every machine: the driver's own build of it says why
                self.schedule.refuse(task.key)
            except DeviceError as error:
                self._say(name, error.message)
                self.schedule.refuse(task.key, [name])

    def _build(self, name: str, session: DeviceSession, task: LinkTask) -> None:
        (done, left), what = self.schedule.counts, f"{task.variant.name} on {name}"
        self.builders.report(Progress(STAGE, done, done + left, what))
        request, objects = request_of(task, self.builders.timeout_s)
        session.send(objects)
        info = session.build(request)
        if info.format in EXECUTABLE_FORMATS or any(Path(file).name != file for file, _ in info.files):
            raise DeviceError(f"it sent {info.format} as `{info.file}`, which is not taken from a builder")

        def fill(folder: Path) -> Artifact:
            for file, digest in info.files:
                session.fetch_object(digest, _size(info, file), folder / file)
            return Artifact(folder, info.model_copy(update={"built_on": name}))

        ArtifactCache(task.job.cache).store(task.key, fill)
        self.schedule.finish(name, task.key)


def _size(info: ArtifactInfo, file: str) -> int:
    return {info.file: info.size_bytes, **{c.file: c.size_bytes for c in info.companions}}[file]


def other_code(facts: DeviceFacts, own: str | None = None) -> str | None:
    """Why a builder whose building code is not the driver's builds nothing; None where it is.

    own: the driver's digest.
    """
    if facts.code == (own or code_digest()):
        return None
    return "its code that builds is not the driver's, in the same version: `krishi-bench fleet setup`"


def other_packages(facts: DeviceFacts, task: LinkTask, own: Mapping[str, str]) -> str | None:
    """Why a builder would build another file than the driver, with both versions; None where it would not.

    own: the driver's versions of the packages that decide the link.
    """
    for name in task.packages:
        here, there = own.get(name), facts.libraries.get(name)
        if name in LIBRARIES and here != there:
            return f"its {name} is {there or 'not installed'}, the driver's {here or 'not installed'}"
    return None
