"""The checks of one class, spread over its devices: each answers its photos through the baseline and through
every variant, and what the photos decide is put together here."""

import shutil
import tempfile
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.records import FleetFolder
from workbench.fleet.session import OWN_FILES, DeviceSession, DeviceUnfit
from workbench.fleet.shares import (
    ClassShares,
    PhotoShare,
    difference,
    joined,
    look_rows,
    next_shares,
    share_of,
)
from workbench.fleet.shipment import SentVariant, Shipment
from workbench.fleet.work import FleetWork
from workbench.measure.records import BASELINE
from workbench.results.folder import RunFolder
from workbench.results.reasons import Skipped
from workbench.results.records import TrialResult
from workbench.run.check_variant import Context, cause_of, ended, hold_to_source, judged, new_trial
from workbench.run.pipeline import save_golden
from workbench.system.files import load_arrays, read_plain, write_arrays
from workbench.system.progress import Progress, Report
from workbench.system.records import read_record, write_record
from workbench.workspace.recipe import Variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COPIED = ("logs", "recipes", "artifacts")  # of what a device answered, among its own results


@dataclass(slots=True)
class ClassSharding:
    """The photos of one class and who has answered them. parts: what all its devices must share.

    read: the trials of shares, by folder and variant.
    """

    fleet: FleetFolder
    device_class: str
    work: FleetWork
    parts: dict[str, str] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    read: dict[str, dict[str, TrialResult]] = field(default_factory=dict)

    @property
    def _path(self) -> Path:
        return self.fleet.path / "shares" / self.device_class

    def shares(self) -> tuple[PhotoShare, ...]:
        path = self._path / "shares.json"
        return read_record(path, ClassShares, what="list of shares").shares if path.exists() else ()

    def next(self, devices: Collection[str]) -> dict[str, tuple[int, ...]]:
        """The photos that each of these devices is to answer; empty where all is answered."""
        return next_shares(self._count, self.shares(), devices)

    @property
    def _count(self) -> int:
        return len(self.work.context.job.photos)

    def answer(
        self, session: DeviceSession, name: str, facts: DeviceFacts, rows: Sequence[int], report: Report
    ) -> None:
        """Have a device answer these photos through the baseline and every variant, or it counts for nothing.

        Raises WorkbenchError where the device cannot go on.
        """
        parts = {"processor": facts.machine.processor, **facts.libraries}
        self._check_alike(parts)
        folder = self._new_folder(name)
        whole = self.work.shipment(f"{self.fleet.run_id}/devices/{name}", facts)
        folder.save_info(whole.info)
        variants = [v for v in self._variants() if v.name not in self.work.ended]
        sent = [self.work.sent(variant, facts) for variant in variants]
        with tempfile.TemporaryDirectory() as scratch:
            self._send(session, whole, rows or look_rows(self._count), sent, Path(scratch))
        for number, (variant, each) in enumerate(zip(variants, sent, strict=True)):
            report(Progress("answering", number, len(variants), variant.name))
            trial = session.check(each)
            session.fetch(folder.path, skip=OWN_FILES)
            folder.append(self.work.completed(trial, folder))
            if variant.name == BASELINE and trial.status != "ok":
                raise WorkbenchError(f"the baseline cannot be measured there: {trial.reason}")
        self._keep(PhotoShare(device=name, rows=tuple(rows), folder=folder.path.name, parts=parts))

    def _variants(self) -> list[Variant]:
        return [self.work.context.baseline, *self.work.variants]

    def _send(
        self,
        session: DeviceSession,
        whole: Shipment,
        rows: Sequence[int],
        sent: Sequence[SentVariant],
        scratch: Path,
    ) -> None:
        objects, contents = self.work.objects, self.work.context.prepared.validation.contents
        paths = self.work.context.prepared.validation.paths
        shipment, made = share_of(whole, rows, contents, objects, scratch)
        files = {digest: objects[digest] for each in sent for digest in each.objects()}
        session.send({**files, **made, shipment.photo: paths[rows[0]]})
        session.begin(shipment)

    def _check_alike(self, parts: dict[str, str]) -> None:
        """Raise DeviceUnfit where answers of the device would not be those of its class."""
        with self.lock:
            if self.parts is None:
                self.parts = next((share.parts for share in self.shares()), parts)
        if (what := difference(parts, self.parts, self.device_class)) is not None:
            raise DeviceUnfit(f"{what}: a class whose photos are shared out must be alike")

    def _new_folder(self, name: str) -> RunFolder:
        number = next(n for n in range(1, 1000) if not (self._path / f"{name}-{n}").exists())
        for part in ("logs", "predictions"):
            (self._path / f"{name}-{number}" / part).mkdir(parents=True)
        return RunFolder(self._path / f"{name}-{number}")

    def _keep(self, share: PhotoShare) -> None:
        with self.lock:
            write_record(self._path / "shares.json", ClassShares(shares=(*self.shares(), share)))

    def merge(self, devices: Collection[str]) -> None:
        """Give every device that has none yet the checked trials of its class, as if it had checked alone.

        What was read from the session is the device's own; what the photos decide, the class's.
        """
        context = self._context()
        found = {variant.name: self._judged(context, variant) for variant in self._variants()}
        for name in devices:
            target = self.fleet.device(name)
            if not set(found) <= {trial.variant for trial in target.trials()}:
                self._give(name, target, found)

    def _context(self) -> Context:
        """The driver's, with the baseline's logits of the class."""
        baseline = self._logits(BASELINE)
        assert baseline is not None
        return replace(self.work.context, logits={BASELINE: baseline})

    def _judged(self, context: Context, variant: Variant) -> "_Judgement":
        """What the answers of all shares say of a variant."""
        if (trial := self.work.ended.get(variant.name)) is not None:
            return _Judgement(ended=trial)
        for share in self._counted():
            trial = self._trial(share, variant.name)
            if trial.status != "ok":
                return _Judgement(lacking=f"{share.device}, which has photos of it: {trial.reason}")
        logits = self._logits(variant.name)
        assert logits is not None
        artifact = self.work.links[variant.name][-1][1]
        try:
            hold_to_source(context, variant, artifact, logits)
        except WorkbenchError as error:
            own = {"preprocess": context.contracts.get(variant.name)}
            return _Judgement(ended(new_trial(variant).model_copy(update=own), cause_of(variant, error)))
        return _Judgement(fields=judged(context, variant, artifact, logits), logits=logits)

    def _counted(self) -> list[PhotoShare]:
        return [share for share in self.shares() if share.rows]

    def _trial(self, share: PhotoShare, variant: str) -> TrialResult:
        if (trials := self.read.get(share.folder)) is None:
            found = RunFolder(self._path / share.folder).trials()
            trials = self.read[share.folder] = {trial.variant: trial for trial in found}
        return trials[variant]

    def _logits(self, variant: str) -> "NDArray[np.float32] | None":
        """Of all photos; None where a share lacks its own."""
        parts = []
        for share in self._counted():
            path = RunFolder(self._path / share.folder).predictions(variant)
            if not path.exists():
                return None
            parts.append((share.rows, load_arrays(path, read_plain(path), "logits")[0]))
        return joined(self._count, parts)

    def _give(self, name: str, target: RunFolder, found: "dict[str, _Judgement]") -> None:
        own = next(share for share in self.shares() if share.device == name)
        source = RunFolder(self._path / own.folder)
        target.save_info(source.info())
        for part in COPIED:
            if (source.path / part).exists():
                shutil.copytree(source.path / part, target.path / part, dirs_exist_ok=True)
        for variant, judgement in found.items():
            if judgement.ended is None and judgement.logits is not None:
                write_arrays(target.predictions(variant), logits=judgement.logits)
                save_golden(target, self.work.context.job_of(variant).photos)
            target.append(judgement.of(None if judgement.ended else self._trial(own, variant)))


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What a class's answers say of a variant: how it ended, who lacks it, or the fields and the logits."""

    ended: TrialResult | None = None
    lacking: str | None = None
    fields: dict[str, object] = field(default_factory=dict)
    logits: "NDArray[np.float32] | None" = None

    def of(self, own: TrialResult | None) -> TrialResult:
        """The trial of one device. own: as it checked its share; None where no device has tried it."""
        if own is None:
            assert self.ended is not None
            return self.ended
        if own.status != "ok":
            return own
        if self.lacking is not None:
            return ended(own, Skipped(variant=own.variant, message=f"it does not run on {self.lacking}"))
        return own.model_copy(update=self.fields)
