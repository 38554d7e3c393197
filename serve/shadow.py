"""A version that sees some of the live photos and answers nobody."""

import logging
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from serve.metrics import Metrics
from serve.model import Model
from serve.work import Guess, Server, Serving, guess

log = logging.getLogger("serve.shadow")

WAITING = 4  # photos kept for it at most; each may have 10 MB


class Shadow:
    """Off the response path, in a thread that gives way to all others; the first to be shed."""

    def __init__(self, server: Server, share: float, metrics: Metrics, busy: Callable[[], bool]) -> None:
        self.model = server.model
        self._serving = Serving(server)
        self._share = share
        self._metrics = metrics
        self._busy = busy
        self._waiting = 0
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow", initializer=_give_way)

    def offer(self, answered: Guess) -> None:
        """Have a share of the photos that were answered seen by the shadow too, where there is time."""
        if random.random() >= self._share:
            return
        # After a swap the primary may know other classes, and numbers of classes agree on nothing then; or it
        # may be this very version, which agrees with itself.
        answering = answered.model
        if answering.class_names != self.model.class_names or answering.version == self.model.version:
            return
        with self._lock:
            shed = self._waiting >= WAITING or self._busy()
            self._waiting += not shed
        if shed:
            self._count(answered.model, "shed")
        else:
            self._thread.submit(self._compare, answered)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self.model.close()

    def _compare(self, answered: Guess) -> None:
        try:
            if self._busy():
                self._count(answered.model, "shed")
                return
            try:
                seen = guess(self._serving, lambda: answered.photo)
            except Exception:
                log.exception("%s failed on a photo that was answered", self.model.version)
                self._count(answered.model, "failed")
                return
            self._count(answered.model, "agree" if seen.class_id == answered.class_id else "disagree")
            for name, seconds in (("primary", answered.infer_s), ("shadow", seen.infer_s)):
                self._metrics.shadow_inference.labels(
                    answered.model.version, self.model.version, name
                ).observe(seconds)
        finally:
            with self._lock:
                self._waiting -= 1

    def _count(self, primary: Model, result: str) -> None:
        self._metrics.shadow_requests.labels(primary.version, self.model.version, result).inc()


def _give_way() -> None:
    """Linux knows a priority per thread; elsewhere this would be the process's."""
    with suppress(AttributeError, OSError):
        if os.uname().sysname == "Linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
