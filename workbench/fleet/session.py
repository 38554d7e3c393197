"""One device in a run of a fleet, from the lease to the last file, over whatever carries the protocol."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import ArtifactInfo
from workbench.errors import WorkbenchError
from workbench.fleet.build_request import BuildRequest
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.frames import CHUNK_BYTES
from workbench.fleet.lease import DeviceLease
from workbench.fleet.link import DeviceError, DeviceGone, DeviceLink
from workbench.fleet.shipment import SentPixels, SentPlan, SentVariant, Shipment
from workbench.photos.contract import Preprocess
from workbench.results.records import RunInfo, TrialResult
from workbench.run.tune.quick_look import QuickLook
from workbench.system.files import sha256_bytes, sha256_file, write_atomic
from workbench.system.progress import Report, silent

if TYPE_CHECKING:
    from workbench.steps.int8.layer_sensitivity import Times

QUICK_S = 60.0  # for what a device answers at once
PIECE_S = 300.0  # for 8 MB over a slow radio
BEGIN_S = 600.0
CHECK_S = 7200.0  # for all photos through one variant on a board
RACE_FACTOR, RACE_S = 6.0, 3600.0  # of the time budget: extras follow the rounds, and starts are slow
LEASE_EVERY_S = 2.0
TRIES = 2  # of an object that was damaged on its way
OWN_FILES = ("run.json", "trials.jsonl")  # of a run, which the driver writes itself, from the answers


class DeviceBusy(WorkbenchError):
    """Another driver kept the device for longer than was to be waited."""


class DeviceUnfit(WorkbenchError):
    """Nothing can be measured on the device."""


@dataclass(slots=True)
class DeviceSession:
    """What a driver does with one device. sent_bytes, heard_at: so far."""

    link: DeviceLink
    report: Report = silent
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    sent_bytes: int = 0
    heard_at: datetime | None = field(default=None)

    def _ask(self, op: str, blob: bytes = b"", *, timeout_s: float = QUICK_S, **fields: Any) -> Any:
        answer, _ = self._found(op, blob, timeout_s=timeout_s, **fields)
        return answer

    def _found(self, op: str, blob: bytes = b"", *, timeout_s: float = QUICK_S, **fields: Any) -> Any:
        found = self.link.ask(op, blob, timeout_s=timeout_s, report=self.report, **fields)
        self.heard_at = datetime.now(UTC)
        return found

    def hello(self) -> tuple[DeviceFacts, DeviceLease | None]:
        """What the device is, and who has it. Raises DeviceUnfit where it speaks another version."""
        answer = self._ask("hello")
        # A worker of another version may know other facts; its number is all that can be relied on.
        try:
            facts = DeviceFacts.model_validate(answer["facts"])
        except ValueError:
            version = answer["facts"].get("version", "unknown")
            raise DeviceUnfit(
                f"it has krishi-bench {version}, another than the driver: `krishi-bench fleet setup`"
            ) from None
        holder = answer["holder"]
        return facts, holder and DeviceLease.model_validate(holder)

    def lease(self, driver: str, run: str, *, wait_s: float) -> None:
        """Take the device for this driver alone. Raises DeviceBusy where another kept it for `wait_s`."""
        deadline = self.clock() + wait_s
        while (holder := self._ask("lease", driver=driver, run=run)["holder"]) is not None:
            if self.clock() >= deadline:
                raise DeviceBusy(str(DeviceLease.model_validate(holder)))
            self.sleep(LEASE_EVERY_S)

    def doctor_clock(self) -> Mapping[str, Any]:
        """The A/A test on the device: the fields of `run.doctor.Clock`."""
        clock: Mapping[str, Any] = self._ask("clock", timeout_s=BEGIN_S)["clock"]
        return clock

    def lacking_bytes(self, objects: Mapping[str, Path]) -> int:
        """What is still to be sent, by digest."""
        missing = self._ask("missing", digests=sorted(objects))["missing"]
        return sum(objects[digest].stat().st_size - have for digest, have in missing.items())

    def send(self, objects: Mapping[str, Path]) -> int:
        """Send what the device lacks, by digest; returns the bytes that travelled."""
        before = self.sent_bytes
        for digest, have in self._ask("missing", digests=sorted(objects))["missing"].items():
            self._send(digest, objects[digest], have)
        return self.sent_bytes - before

    def _send(self, digest: str, path: Path, have: int) -> None:
        """One object, in pieces, from where an earlier transfer ended; once more where it was damaged."""
        for left in reversed(range(TRIES)):
            try:
                return self._send_pieces(digest, path, have)
            except DeviceError as error:
                if "damaged" not in error.message or not left:
                    raise
                have = 0
        return None

    def _send_pieces(self, digest: str, path: Path, have: int) -> None:
        size = path.stat().st_size
        offset = have if have < size else 0
        with path.open("rb") as file:
            file.seek(offset)
            while True:
                piece = file.read(CHUNK_BYTES)
                last = offset + len(piece) >= size
                self._ask("put", piece, timeout_s=PIECE_S, digest=digest, offset=offset, last=last)
                self.sent_bytes += len(piece)
                offset += len(piece)
                if last:
                    return

    def begin(self, shipment: Shipment) -> int:
        """Returns the bytes that a worker with no runtime in it takes there."""
        answer = self._ask("begin", timeout_s=BEGIN_S, shipment=shipment.model_dump(mode="json"))
        return int(answer.get("empty_peak_bytes", 0))

    def recall(self, sent: SentVariant, trial: TrialResult, logits: str | None) -> None:
        """Have the device take up a trial of an earlier session. logits: of the baseline, as sent."""
        trial_data = trial.model_dump(mode="json")
        self._ask(
            "recall", timeout_s=CHECK_S, variant=sent.model_dump(mode="json"), trial=trial_data, logits=logits
        )

    def check(self, sent: SentVariant) -> TrialResult:
        answer = self._ask("check", timeout_s=CHECK_S, variant=sent.model_dump(mode="json"))
        return TrialResult.model_validate_json(json.dumps(answer["trial"]))

    def absent(self, variants: Sequence[SentVariant]) -> dict[str, str]:
        """The variants that cannot be tried there, and why."""
        sent = [variant.model_dump(mode="json") for variant in variants]
        return dict(self._ask("absent", timeout_s=BEGIN_S, variants=sent)["absent"])

    def look(self, sent: SentVariant, pixels: SentPixels) -> QuickLook:
        asked: dict[str, Any] = {
            "variant": sent.model_dump(mode="json"),
            "pixels": pixels.model_dump(mode="json"),
        }
        return QuickLook.model_validate(self._ask("look", timeout_s=CHECK_S, **asked)["look"])

    def profile(self, source: ArtifactInfo, quantized: ArtifactInfo, contract: Preprocess) -> "Times":
        """What the layers of a float graph and of its INT8 graph take there, by node, in ns."""
        given = {"source": source, "quantized": quantized, "contract": contract}
        asked: dict[str, Any] = {name: record.model_dump(mode="json") for name, record in given.items()}
        floats, int8 = self._ask("profile", timeout_s=CHECK_S, **asked)["times"]
        return floats, int8

    def race(
        self, plan: SentPlan, variants: Sequence[str] | None = None
    ) -> tuple[RunInfo, list[TrialResult]]:
        """variants: of those that passed; all by default."""
        timeout_s = RACE_S + RACE_FACTOR * plan.budget_s
        asked: dict[str, Any] = {
            "plan": plan.model_dump(mode="json"),
            "variants": variants and list(variants),
        }
        answer = self._ask("race", timeout_s=timeout_s, **asked)
        trials = [TrialResult.model_validate_json(json.dumps(trial)) for trial in answer["trials"]]
        return RunInfo.model_validate_json(json.dumps(answer["info"])), trials

    def fetch(self, folder: Path, *, skip: Iterable[str] = ()) -> None:
        """Bring the files of the run that are not here yet, each checked by its sha256."""
        for entry in self._ask("files", timeout_s=BEGIN_S)["files"]:
            target = folder / entry["path"]
            if not target.resolve().is_relative_to(folder.resolve()):
                raise DeviceGone(f"the device names a file outside of its run: {entry['path']}")
            if entry["path"] in skip or (target.exists() and sha256_file(target) == entry["sha256"]):
                continue
            write_atomic(target, self._pieces("read", entry["size"], path=entry["path"]))
            if sha256_file(target) != entry["sha256"]:
                target.unlink()
                raise DeviceGone(f"{entry['path']} was damaged on its way")

    def build(self, request: BuildRequest) -> ArtifactInfo:
        """Have one link built; its files are objects of the device then."""
        timeout_s = request.timeout_s + BEGIN_S
        answer = self._ask("build", timeout_s=timeout_s, request=request.model_dump(mode="json"))
        return ArtifactInfo.model_validate_json(json.dumps(answer["info"]))

    def fetch_object(self, digest: str, size: int, target: Path) -> None:
        """Bring an object of the device here, checked by its sha256."""
        data = self._pieces("get", size, digest=digest)
        if sha256_bytes(data) != digest:
            raise DeviceGone(f"the object {digest[:12]} was damaged on its way")
        write_atomic(target, data)

    def _pieces(self, op: str, size: int, **fields: Any) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._found(op, timeout_s=PIECE_S, offset=len(data), **fields)[1]
            if not piece:
                what = " ".join(map(str, fields.values()))
                raise DeviceGone(f"{what} ended after {len(data)} of {size} bytes")
            data += piece
        return bytes(data)
