"""A candidate run on sampled requests; its answers are not returned."""

import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from serve.engine.model import Model
from serve.engine.predict_job import Classification, Routing, ServedModel, classify
from serve.engine.threads import lower_priority
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
        self._places = threading.Semaphore(MAX_WAITING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow", initializer=lower_priority)

    def offer(self, answer: Classification) -> None:
        """Classify a share of the answered photos too, where there is time."""
        if random.random() >= self._share:
            return
        # After a swap the primary may have other classes, whose numbers mean something else; or it may be
        # this very version, which agrees with itself.
        primary = answer.model
        if primary.class_names != self.model.class_names or primary.version == self.model.version:
            return
        if self._busy() or not self._places.acquire(blocking=False):
            self._count(primary, "shed")
        else:
            self._thread.submit(self._compare, answer)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        self.model.close()

    def _compare(self, answer: Classification) -> None:
        try:
            self._count(answer.model, "shed" if self._busy() else self._outcome(answer))
        finally:
            self._places.release()

    def _outcome(self, answer: Classification) -> str:
        try:
            own = classify(self._routing, lambda: answer.photo)
        except Exception:
            log.exception("%s failed on a photo that was answered", self.model.version)
            return "failed"
        seconds = partial(self._metrics.shadow_inference.labels, answer.model.version, self.model.version)
        seconds("primary").observe(answer.infer_s)
        seconds("shadow").observe(own.infer_s)
        return "agree" if own.class_id == answer.class_id else "disagree"

    def _count(self, primary: Model, result: str) -> None:
        self._metrics.shadow_requests.labels(primary.version, self.model.version, result).inc()
