"""A candidate run on sampled requests; its answers are not returned."""

import logging
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from serve.engine.model import Model
from serve.engine.predict_job import Classification, Routing, ServedModel, classify
from serve.metrics import Metrics

log = logging.getLogger("serve.shadow")

MAX_WAITING = 4  # photos queued for it; each may have 10 MB


class Shadow:
    """Runs off the response path, in one thread of low priority; skips photos while requests wait."""

    def __init__(
        self, candidate: ServedModel, share: float, metrics: Metrics, busy: Callable[[], bool]
    ) -> None:
        self.model = candidate.model
        self._routing = Routing(candidate)
        self._share = share
        self._metrics = metrics
        self._busy = busy
        self._waiting = 0
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow", initializer=_lower_priority)

    def offer(self, answer: Classification) -> None:
        """Classify a share of the answered photos too, where there is time."""
        if random.random() >= self._share:
            return
        # After a swap the primary may have other classes, whose numbers mean something else; or it may be
        # this very version, which agrees with itself.
        primary = answer.model
        if primary.class_names != self.model.class_names or primary.version == self.model.version:
            return
        with self._lock:
            shed = self._waiting >= MAX_WAITING or self._busy()
            self._waiting += not shed
        if shed:
            self._count(primary, "shed")
        else:
            self._thread.submit(self._compare, answer)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self.model.close()

    def _compare(self, answer: Classification) -> None:
        try:
            if self._busy():
                self._count(answer.model, "shed")
                return
            try:
                own = classify(self._routing, lambda: answer.photo)
            except Exception:
                log.exception("%s failed on a photo that was answered", self.model.version)
                self._count(answer.model, "failed")
                return
            self._count(answer.model, "agree" if own.class_id == answer.class_id else "disagree")
            for name, seconds in (("primary", answer.infer_s), ("shadow", own.infer_s)):
                self._metrics.shadow_inference.labels(answer.model.version, self.model.version, name).observe(
                    seconds
                )
        finally:
            with self._lock:
                self._waiting -= 1

    def _count(self, primary: Model, result: str) -> None:
        self._metrics.shadow_requests.labels(primary.version, self.model.version, result).inc()


def _lower_priority() -> None:
    """Give this thread a low priority. Linux only: elsewhere it would be the process's."""
    with suppress(AttributeError, OSError):
        if os.uname().sysname == "Linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
