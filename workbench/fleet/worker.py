"""The worker on a device: `python -m workbench.fleet.worker`, spoken to over stdin and stdout.

It does one thing at a time, tells every few seconds that it is alive, and ends when its driver does: when
stdin ends, when stdout is closed, or when nothing has come for a minute, as over a connection that is half
open. With it end the lease and all that it measures.
"""

import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from workbench.errors import Unsuited, WorkbenchError, summary
from workbench.fleet.frames import (
    BUILDS,
    CHUNK_BYTES,
    GREETING,
    FrameError,
    Header,
    read_frame,
    write_frame,
)
from workbench.fleet.lease import DeviceLock
from workbench.fleet.objects import ObjectStore
from workbench.system.files import cache_folder, sha256_file, token
from workbench.system.packages import missing_extra
from workbench.system.progress import Progress

if TYPE_CHECKING:
    from workbench.fleet.device_run import DeviceRun

BEAT_S = 5.0
SILENCE_S = 60.0  # after which the driver is gone
Answer = tuple[Header, bytes]


class DeviceWorker:
    """What a driver may ask of a device. report: is given the progress of long work.

    cache: the folder that objects, builds and running work are kept in. builds: it may be asked to build.
    """

    def __init__(
        self, cache: Path, lock: DeviceLock, report: Callable[[Progress], None], *, builds: bool = False
    ) -> None:
        self.cache, self._lock, self._report, self._builds = cache, lock, report, builds
        self._objects = ObjectStore(cache / "objects")
        self._folder = cache / "running" / token()
        self._leased = False
        self._run: DeviceRun | None = None

    def answer(self, header: Header, blob: bytes) -> Answer:
        """Do what a header asks. Raises WorkbenchError where it cannot be done, or is not understood."""
        operations: Mapping[str, Callable[[Header, bytes], Answer]] = {
            "hello": self._hello,
            "lease": self._lease,
            "clock": self._clock,
            "missing": self._missing,
            "put": self._put,
            "get": self._get,
            "build": self._build,
            "begin": self._begin,
            "recall": self._recall,
            "check": self._check,
            "absent": self._absent,
            "look": self._look,
            "profile": self._profile,
            "race": self._race,
            "files": self._files,
            "read": self._read,
        }
        try:
            operation = operations[header["op"]]
            if not self._leased and header["op"] not in ("hello", "lease"):
                raise WorkbenchError("the device is not leased")
            return operation(header, blob)
        except (KeyError, TypeError, ValidationError) as error:
            traceback.print_exception(error)
            raise WorkbenchError(f"the driver asked for what this worker does not know: {error}") from error

    def _hello(self, _header: Header, _blob: bytes) -> Answer:
        from workbench.fleet.facts import collect_facts

        holder = None if self._leased else self._lock.holder()
        facts = collect_facts(self.cache).model_dump(mode="json")
        return {"facts": facts, "holder": holder and holder.model_dump(mode="json")}, b""

    def _lease(self, header: Header, _blob: bytes) -> Answer:
        if not self._leased:
            if (held := self._lock.take(str(header["driver"]), str(header["run"]))) is not None:
                return {"holder": held.model_dump(mode="json")}, b""
            self._leased = True
            shutil.rmtree(self._folder.parent, ignore_errors=True)  # of workers that were killed
            self._objects.remove_unused()
        return {"holder": None}, b""

    def _clock(self, _header: Header, _blob: bytes) -> Answer:
        from workbench.run.doctor import clock

        return {"clock": asdict(clock(self._report))}, b""

    def _missing(self, header: Header, _blob: bytes) -> Answer:
        return {"missing": self._objects.missing(header["digests"])}, b""

    def _put(self, header: Header, blob: bytes) -> Answer:
        self._objects.add(header["digest"], header["offset"], blob, last=header["last"])
        return {}, b""

    def _get(self, header: Header, _blob: bytes) -> Answer:
        with self._objects.path(header["digest"]).open("rb") as file:
            file.seek(header["offset"])
            return {}, file.read(CHUNK_BYTES)

    def _build(self, header: Header, _blob: bytes) -> Answer:
        from workbench.fleet.build_request import BuildRequest, build_link

        if not self._builds:  # an export runs the driver's code, which is not what every device allows
            raise WorkbenchError(f"the worker was started without `{BUILDS}`, and builds nothing for others")
        info = build_link(BuildRequest.model_validate(header["request"]), self.cache, self._objects)
        return {"info": info.model_dump(mode="json")}, b""

    def _begin(self, header: Header, _blob: bytes) -> Answer:
        from workbench.fleet.device_run import DeviceRun
        from workbench.fleet.shipment import Shipment

        shipment = Shipment.model_validate(header["shipment"])
        self._run = DeviceRun(shipment, self._folder, self.cache, self._report)
        return {"empty_peak_bytes": self._run.empty_peak_bytes}, b""

    def _recall(self, header: Header, _blob: bytes) -> Answer:
        from workbench.fleet.shipment import SentVariant
        from workbench.results.records import TrialResult

        sent = SentVariant.model_validate(header["variant"])
        self._running().recall(sent, TrialResult.model_validate(header["trial"]), header["logits"])
        return {}, b""

    def _check(self, header: Header, _blob: bytes) -> Answer:
        from workbench.fleet.shipment import SentVariant

        trial = self._running().check(SentVariant.model_validate(header["variant"]))
        return {"trial": trial.model_dump(mode="json")}, b""

    def _absent(self, header: Header, _blob: bytes) -> Answer:
        from workbench.fleet.shipment import SentVariant

        variants = [SentVariant.model_validate(sent) for sent in header["variants"]]
        return {"absent": self._running().absent(variants)}, b""

    def _look(self, header: Header, _blob: bytes) -> Answer:
        from workbench.fleet.shipment import SentPixels, SentVariant

        sent, pixels = SentVariant.model_validate(header["variant"]), header["pixels"]
        look = self._running().look(sent, SentPixels.model_validate(pixels))
        return {"look": look.model_dump(mode="json")}, b""

    def _profile(self, header: Header, _blob: bytes) -> Answer:
        from workbench.backends.artifact import ArtifactInfo
        from workbench.photos.contract import Preprocess

        source, quantized = (ArtifactInfo.model_validate(header[name]) for name in ("source", "quantized"))
        times = self._running().profile(source, quantized, Preprocess.model_validate(header["contract"]))
        return {"times": list(times)}, b""

    def _race(self, header: Header, _blob: bytes) -> Answer:
        from workbench.fleet.shipment import SentPlan

        lock = cache_folder() / "timing.lock"
        plan, variants = SentPlan.model_validate(header["plan"]), header.get("variants")
        info, trials = self._running().race(plan, lock, variants)
        return {
            "info": info.model_dump(mode="json"),
            "trials": [trial.model_dump(mode="json") for trial in trials],
        }, b""

    def _running(self) -> "DeviceRun":
        if self._run is None:
            raise WorkbenchError("no run has begun")
        return self._run

    def _files(self, _header: Header, _blob: bytes) -> Answer:
        """Every file of the run."""
        found = [path for path in sorted(self._folder.rglob("*")) if path.is_file()]
        return {
            "files": [
                {
                    "path": path.relative_to(self._folder).as_posix(),
                    "size": path.stat().st_size,
                    "sha256": sha256_file(path),
                }
                for path in found
            ]
        }, b""

    def _read(self, header: Header, _blob: bytes) -> Answer:
        path = (self._folder / header["path"]).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise WorkbenchError(f"{header['path']} is no file of the run")
        with path.open("rb") as file:
            file.seek(header["offset"])
            return {}, file.read(CHUNK_BYTES)

    def close(self) -> None:
        if self._run is not None:
            self._run.close()
        for folder in (self._folder, self._folder.with_name(f"{self._folder.name}-photo")):
            shutil.rmtree(folder, ignore_errors=True)
        self._lock.release()


class _Connection:
    """The worker's end: answers, progress and signs of life go out one at a time."""

    def __init__(self, source: IO[bytes], target: IO[bytes]) -> None:
        self._source, self._target = source, target
        self._writing, self._heard = threading.Lock(), time.monotonic()
        self.requests: queue.Queue[Answer] = queue.Queue()

    def send(self, header: Mapping[str, Any], blob: bytes = b"") -> None:
        with self._writing:
            write_frame(self._target, header, blob)

    def report(self, progress: Progress) -> None:
        self.send({"progress": TypeAdapter(Progress).dump_python(progress, mode="json")})

    def listen(self, end: Callable[[], None]) -> None:
        """Take requests until the driver is gone, then `end`, whatever the main thread is at."""
        try:
            while True:
                header, blob = read_frame(self._source)
                self._heard = time.monotonic()
                if header.get("op") != "ping":
                    self.requests.put((header, blob))
        except (EOFError, OSError, FrameError):
            end()

    def beat(self, end: Callable[[], None]) -> None:
        """Say every few seconds that the device is alive, until the driver is gone."""
        while time.monotonic() - self._heard < SILENCE_S:
            try:
                self.send({"alive": True})
            except OSError:
                break
            time.sleep(BEAT_S)
        end()


def _error_of(error: Exception) -> dict[str, Any]:
    if isinstance(error, ModuleNotFoundError):
        error = missing_extra(error) or error
    if isinstance(error, WorkbenchError):
        return {"message": error.message, "hint": error.hint, "unsuited": isinstance(error, Unsuited)}
    traceback.print_exception(error)
    return {"message": summary(error), "hint": None, "unsuited": False}


def main() -> None:
    # Nothing that a library prints may come between the frames: it goes where errors go.
    target, source = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    target.write(GREETING)
    target.flush()
    connection = _Connection(source, target)
    builds = BUILDS in sys.argv[1:]
    worker = DeviceWorker(cache_folder() / "fleet", DeviceLock(), connection.report, builds=builds)

    def end() -> None:
        worker.close()
        os._exit(0)  # the main thread may be in the middle of a race; its children end with it

    for loop in (connection.listen, connection.beat):
        threading.Thread(target=loop, args=(end,), daemon=True).start()
    while True:
        try:
            answer, data = worker.answer(*connection.requests.get())
        except Exception as error:
            # The one place where anything may be caught: it becomes the device's reason.
            answer, data = {"error": _error_of(error)}, b""
        try:
            connection.send({"answer": answer}, data)
        except OSError:
            end()


if __name__ == "__main__":
    # The module by its own name: what is pickled here as `__main__` could not be read by a child.
    from workbench.fleet.worker import main as run

    run()
