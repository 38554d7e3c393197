"""Devices without machines: the driver's own code, over links that answer, fail, hang and die as told."""

import hashlib
import random
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Self

import numpy as np

from tests.builders import MACHINE, run_info, trial
from workbench import __version__
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.link import DeviceError, DeviceGone
from workbench.fleet.records import FleetFolder, FleetRun, SavedRecipe, devices_of
from workbench.fleet.run import FleetDriver, FleetOptions
from workbench.fleet.spec import DeviceSettings, FleetFile
from workbench.results.records import TrialResult
from workbench.run.pipeline import Options
from workbench.system.files import sha256_bytes, write_arrays
from workbench.system.progress import silent

Fate = Literal["well", "away", "hangs", "dies", "full", "old", "busy", "refuses", "defect"]
FATES: tuple[Fate, ...] = ("well", "away", "hangs", "dies", "full", "old", "busy", "refuses", "defect")
STATES: Mapping[Fate, str] = {
    "well": "done", "away": "gone", "hangs": "gone", "dies": "gone", "full": "failed", "old": "unfit",
    "busy": "busy", "refuses": "done", "defect": "failed",
}  # fmt: skip
PAYLOAD = b"an artifact"
FACTS = DeviceFacts(
    version=__version__,
    code="0" * 64,
    bits=64,
    machine=MACHINE,
    usable_cores=4,
    libraries={"onnxruntime": "1.27.0"},
    glibc="2.36",
    page_bytes=4096,
    governor="performance",
    turbo="on",
    celsius=50.0,
    throttled=False,
    free_memory_bytes=10**9,
    free_disk_bytes=10**10,
)


class SimulatedDevice:
    """A machine that outlives its links: what was sent to it, and who has its lease."""

    def __init__(self, name: str, fate: Fate, speedups: Mapping[str, float]) -> None:
        self.name, self.fate, self.speedups = name, fate, dict(speedups)
        self.objects: dict[str, bytes] = {}
        self.holder: object | None = "another driver" if fate == "busy" else None
        self.asked: list[str] = []
        self.lock = threading.Lock()


class SimulatedLink:
    """A link to such a device. Two that measure at once break the one promise that must hold."""

    def __init__(self, device: SimulatedDevice) -> None:
        self.device, self.folder, self.checked = device, dict[str, bytes](), list[TrialResult]()
        self.closed = False

    def ask(self, op: str, blob: bytes = b"", **fields: Any) -> Any:
        fields = {name: value for name, value in fields.items() if name not in ("timeout_s", "report")}
        device = self.device
        device.asked.append(op)
        if self.closed:
            raise DeviceGone("its worker ended with exit code 0")
        if device.fate == "away":
            raise DeviceGone("it cannot be reached")
        if device.fate == "dies" and op == "race":
            raise DeviceGone("the connection to it was lost")
        if device.fate == "hangs" and op == "check":
            raise DeviceGone("nothing was heard of it for 45 s")
        if device.fate == "full" and op == "put":
            raise DeviceError("cannot write: No space left on device")
        if device.fate == "defect" and op == "begin":
            raise ZeroDivisionError("a defect of ours")
        if op not in ("hello", "lease"):
            assert device.holder is self, f"{op} without the lease"
        return getattr(self, f"_{op}")(blob, **fields)

    def _hello(self, _blob: bytes) -> Any:
        version = "0.0.1" if self.device.fate == "old" else __version__
        return {"facts": FACTS.model_copy(update={"version": version}).model_dump(), "holder": None}, b""

    def _lease(self, _blob: bytes, **_: Any) -> Any:
        with self.device.lock:
            if self.device.holder is None:
                self.device.holder = self
            if self.device.holder is self:
                return {"holder": None}, b""
        return {"holder": {"driver": "another", "run": "r", "since": "2026-01-01T00:00:00Z"}}, b""

    def _missing(self, _blob: bytes, digests: list[str]) -> Any:
        return {"missing": {d: 0 for d in digests if d not in self.device.objects}}, b""

    def _put(self, blob: bytes, digest: str, offset: int, last: bool) -> Any:
        self.device.objects[digest] = self.device.objects.get(digest, b"")[:offset] + blob
        assert not last or sha256_bytes(self.device.objects[digest]) == digest
        return {}, b""

    def _begin(self, _blob: bytes, **_: Any) -> Any:
        return {}, b""

    def _recall(self, _blob: bytes, trial: Any, **_: Any) -> Any:
        self.checked.append(TrialResult.model_validate(trial))
        return {}, b""

    def _check(self, _blob: bytes, variant: str) -> Any:
        if self.device.fate == "refuses" and variant != "baseline":
            found = trial(variant, status="skipped", reason="this processor has no vnni", latency=None)
        else:
            found = trial(variant, latency=None)
        self.checked.append(found)
        self.folder[f"predictions/{variant}.npz"] = variant.encode()
        return {"trial": found.model_dump(mode="json")}, b""

    def _race(self, _blob: bytes, **_: Any) -> Any:
        timed = [
            trial(t.variant, speedup=self.device.speedups.get(t.variant, 1.0)) if t.status == "ok" else t
            for t in self.checked
        ]
        return {
            "info": run_info(run_id=self.device.name).model_dump(mode="json"),
            "trials": [t.model_dump(mode="json") for t in timed],
        }, b""

    def _files(self, _blob: bytes) -> Any:
        return {
            "files": [
                {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for path, data in self.folder.items()
            ]
        }, b""

    def _read(self, _blob: bytes, path: str, offset: int) -> Any:
        return {}, self.folder[path][offset:]

    def close(self) -> None:
        self.closed = True
        with self.device.lock:
            if self.device.holder is self:
                self.device.holder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SimulatedWork:
    """What a driver has prepared: nothing is built, one small file is sent."""

    def __init__(self, folder: Path, variants: list[str]) -> None:
        (folder / "payload").write_bytes(PAYLOAD)
        self.objects = {sha256_bytes(PAYLOAD): folder / "payload"}
        self.context = SimpleNamespace(baseline=_variant("baseline"))
        self.variants = [_variant(name) for name in variants]
        self.ended: dict[str, TrialResult] = {}

    def sent(self, variant: Any, _facts: DeviceFacts) -> Any:
        return SimpleNamespace(model_dump=lambda **_: variant.name)

    def shipment(self, run_id: str, _facts: DeviceFacts) -> Any:
        return SimpleNamespace(info=run_info(run_id=run_id), model_dump=lambda **_: {})

    def completed(self, found: TrialResult, _folder: Any) -> TrialResult:
        return found


def _variant(name: str) -> Any:
    return SimpleNamespace(name=name)


def fleet_of(classes: Mapping[str, str]) -> FleetFile:
    """classes: by device."""
    devices = {
        name: DeviceSettings.model_validate({"class": device_class, "ssh": name})
        for name, device_class in classes.items()
    }
    return FleetFile(devices=devices)


def random_fates(count: int, seed: int = 0) -> dict[str, Fate]:
    """Two in three devices are well; the others go wrong in every way."""
    rng = random.Random(seed)
    return {f"d{n:04}": rng.choice((*("well",) * 16, *FATES)) for n in range(count)}


def driver_over(
    results: Path, devices: Mapping[str, SimulatedDevice], classes: Mapping[str, str], variants: list[str]
) -> FleetDriver:
    """A driver in a new folder, as `run_fleet` makes one, its work simulated."""
    folder, fleet = FleetFolder.create(results), fleet_of(classes)
    write_arrays(folder.build.path / "validation.npz", labels=np.zeros(4))
    (folder.build.path / "photos.json").write_text('{"schema_version": 1, "paths": [], "sha256": []}')
    run = FleetRun(
        run_id=folder.run_id,
        created_at=run_info().created_at,
        name="leaf",
        validation_digest="d" * 64,
        recipes={name: SavedRecipe(recipe=name, text=f"name: {name}") for name in variants},
        devices=devices_of(fleet),
    )
    folder.save(run)
    work: Any = SimulatedWork(folder.build.path, variants)

    def open_simulated(name: str, _device: DeviceSettings, _log: Path) -> Any:
        return SimulatedLink(devices[name])

    settings = FleetOptions(Options(), wait_s=0.0, open=open_simulated)
    return FleetDriver(folder, run, fleet, work, settings, silent)
