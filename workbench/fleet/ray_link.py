"""A device with a raylet: an actor on it runs the worker, and carries the questions and the answers.

Ray schedules and carries, nothing more: the lease is the worker's, so that a device that is busy is waited
for here, with a deadline, and never in Ray's queue, where a task waits for ever.
"""

import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Self

from workbench.errors import Unsuited, WorkbenchError
from workbench.fleet.frames import BUILDS
from workbench.fleet.link import PROGRESS, AnswerFrame, DeviceError, DeviceGone, DeviceLink, ProcessLink
from workbench.fleet.openssh import explain
from workbench.fleet.ray_cluster import ray_environment, ray_folder, read_head
from workbench.fleet.spec import DeviceSettings
from workbench.system.child import child_environment
from workbench.system.files import cache_folder
from workbench.system.packages import require
from workbench.system.progress import Progress, Report, silent

LABEL = "krishi.device"
ADDRESS_VARIABLE = "RAY_ADDRESS"  # of a cluster that others have started, with what secures it
START_S = 90.0
POLL_S = 1.0
SILENCE_S = 60.0
_connecting = threading.Lock()


class RayGateway:
    """In the actor, on the device: a worker, and a link to it. Answers are plain data."""

    def __init__(self, python: str | None, cache: str | None, *flags: str) -> None:
        environment = {**(os.environ if python else child_environment())}
        if cache:
            environment["KRISHI_CACHE"] = str(Path(cache).expanduser())
        log = cache_folder() / "logs" / "fleet-gateway.txt"
        command = [python or sys.executable, "-P", "-m", "workbench.fleet.worker", *flags]
        self._link: DeviceLink = ProcessLink(command, log, explain, environment)
        self._progress: deque[Any] = deque(maxlen=100)

    def ready(self) -> bool:
        return True

    def ask(self, op: str, blob: bytes, timeout_s: float, fields: dict[str, Any]) -> dict[str, Any]:
        def report(progress: Progress) -> None:
            self._progress.append(PROGRESS.dump_python(progress, mode="json"))

        try:
            answer, data = self._link.ask(op, blob, timeout_s=timeout_s, report=report, **fields)
        except WorkbenchError as error:
            kind = "gone" if isinstance(error, DeviceGone) else "error"
            return {kind: error.message, "hint": error.hint, "unsuited": isinstance(error, Unsuited)}
        return {"answer": answer, "blob": data}

    def progress(self) -> list[Any]:
        """What was reported since the last call; also shows that the device is there."""
        found = []
        while self._progress:
            found.append(self._progress.popleft())
        return found


class RayLink:
    """A link through an actor. name: of the device, which is its node's label."""

    def __init__(self, name: str, device: DeviceSettings) -> None:
        connect()
        import ray

        if not _is_alive(name):
            raise DeviceGone("no raylet with its label is up: `krishi-bench fleet up` says how to start it")
        actor = ray.remote(RayGateway).options(
            num_cpus=0,
            resources={"krishi_device": 0.001},
            label_selector={LABEL: name},
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=3,
        )
        self._actor = actor.remote(device.python, device.cache, *([BUILDS] if device.builds else []))
        try:
            self._wait_for_worker(name)
        except DeviceGone:
            self.close()  # else it would start whenever the device is back
            raise

    def _wait_for_worker(self, name: str) -> None:
        """Ray itself would wait for ever for a node that is gone."""
        import ray

        reference, deadline = self._actor.ready.remote(), time.monotonic() + START_S
        while not ray.wait([reference], timeout=POLL_S)[0]:
            if not _is_alive(name):
                raise DeviceGone("its raylet ended before its worker started")
            if time.monotonic() > deadline:
                raise DeviceGone(f"its worker did not start in {START_S:.0f} s")
        self._get(reference, POLL_S, "its worker did not start")

    def _get(self, reference: Any, timeout_s: float, otherwise: str) -> Any:
        import ray

        try:
            return ray.get(reference, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise DeviceGone(f"{otherwise} in {timeout_s:.0f} s") from None
        except ray.exceptions.RayError as error:
            raise DeviceGone(f"Ray lost it: {str(error).strip().splitlines()[0]}") from None

    def ask(
        self, op: str, blob: bytes = b"", *, timeout_s: float, report: Report = silent, **fields: Any
    ) -> AnswerFrame:
        import ray

        reference = self._actor.ask.remote(op, blob, timeout_s, fields)
        deadline = time.monotonic() + timeout_s + SILENCE_S
        while True:
            done, _ = ray.wait([reference], timeout=POLL_S)
            if done or time.monotonic() > deadline:
                break
            for each in self._get(self._actor.progress.remote(), SILENCE_S, "nothing was heard of it"):
                report(PROGRESS.validate_python(each))
        answer = self._get(reference, POLL_S, f"`{op}` was not answered")
        if "gone" in answer:
            raise DeviceGone(answer["gone"])
        if "error" in answer:
            kind = Unsuited if answer["unsuited"] else DeviceError
            raise kind(answer["error"], hint=answer["hint"])
        return answer["answer"], answer["blob"]

    def close(self) -> None:
        """The actor ends, its worker with it, and with that the lease."""
        import ray

        if ray.is_initialized():
            ray.kill(self._actor, no_restart=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect() -> None:
    """Join the cluster of `fleet up`, or that of RAY_ADDRESS, once. Raises WorkbenchError."""
    require("ray", extra="fleet")
    with _connecting:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = os.environ.get(ADDRESS_VARIABLE)
        if address is None:
            address = read_head().address
            os.environ.update(ray_environment(str(ray_folder())))
        import ray

        if ray.is_initialized():
            return
        try:
            ray.init(address=address, namespace="krishi-bench", log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            line = str(error).strip().splitlines()[0]
            hint = "`krishi-bench fleet up`, and the token of that cluster"
            raise WorkbenchError(f"Ray at {address} lets nobody in: {line}", hint=hint) from error


def _is_alive(name: str) -> bool:
    import ray

    return any(node["Alive"] and node.get("Labels", {}).get(LABEL) == name for node in ray.nodes())
