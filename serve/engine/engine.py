"""What the server serves at this moment: a model, or the reason why there is none."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from serve.accepting import PortTurns
from serve.engine.explainer import Explainer
from serve.engine.model import Model
from serve.engine.predict_job import Canary, Classification, Routing, ServedModel
from serve.engine.queue import STUCK_S, QueuedJob, RequestQueue
from serve.engine.shadow import Shadow
from serve.errors import ApiError
from serve.metrics import Meter, Metrics
from serve.settings import Settings

log = logging.getLogger("serve.engine")

Result = TypeVar("Result")
POLL_S = 0.005


class NotReady(NamedTuple):
    """Why the server has no answer. code: stable, for programs. message: for people."""

    code: str
    message: str


STUCK = NotReady("stuck", "the model has not answered for a minute; restart the server")
DRAINING = NotReady(
    "draining", "the server is shutting down; send the request again, to another or a new one"
)
LOADING = NotReady("loading", "the model is being loaded; send the request again in a moment")


class WantedVersion(NamedTuple):
    """A version that the alias points at and that could not be loaded. next_try_at: in UTC."""

    version: str
    reason: str
    next_try_at: datetime


class ServingEngine:
    """Answers from the installed model. A `Loader` installs models from its own thread; everything else
    happens on the event loop."""

    def __init__(self, settings: Settings, metrics: Metrics, turns: PortTurns | None = None) -> None:
        self.settings = settings
        self.metrics = metrics
        # The model served. After a swap it is the new one only when the old one gave its last answer.
        self.model: Model | None = None
        self.not_ready = LOADING  # while there is no model
        self.wanted: WantedVersion | None = None  # while there is one, and another is wanted
        self.turns = turns
        self.loop: asyncio.AbstractEventLoop | None = None
        self.draining = False
        self.closing = False
        self._routing: Routing | None = None
        self._canary: Canary | None = None
        self._shadow: Shadow | None = None
        self._queue = RequestQueue(settings.queue_budget_s, metrics.queue_depth)
        self.explainer = Explainer(self._requests_wait, metrics, settings.deadline_s)

    # For requests

    def check_alive(self) -> None:
        """Raise ApiError (503) where every thread hangs: only a new process helps."""
        if self._queue.stuck():
            raise self._unavailable(STUCK)

    def loaded_model(self) -> Model:
        """The model served. Raises ApiError (503) where there is none."""
        if self.model is None:
            raise self._not_loaded()
        return self.model

    def ready_model(self) -> Model:
        """The model served. Raises ApiError (503) where requests should not be sent here."""
        if self.draining:
            raise self._unavailable(DRAINING)
        if self.model is None:
            raise self._unavailable(self.not_ready)
        self.check_alive()
        return self.model

    def check_admission(self) -> None:
        """Raise ApiError (503, or 429 when overloaded) for a new request, before its body is read."""
        if self.closing:
            raise self._unavailable(DRAINING)
        if self._routing is None:
            raise self._not_loaded()
        self._queue.check_wait()

    @contextmanager
    def routing(self) -> Iterator[Routing]:
        """The models to answer with, kept open until the end of the block. Raises ApiError (503)."""
        if (routing := self._routing) is None:
            raise self._not_loaded()
        primary = routing.primary.model
        primary.users += 1
        try:
            yield routing
        finally:
            primary.users -= 1

    async def run(self, routing: Routing, work: Callable[[], Result], *, admitted: bool = False) -> Result:
        """Run `work` in a thread of the model when its turn comes; returns or raises what it does.

        admitted: skip the check of the queue. Raises ApiError: 429 where the wait would be too long, 504
        where its turn came after the deadline.
        """
        if not admitted:
            self._queue.check_wait()
        job = QueuedJob(work, time.perf_counter() + self.settings.deadline_s)
        self._queue.add(job)
        try:
            result = await routing.primary.model.threads.run(job)
        finally:
            self._queue.remove(job)
        if job.started_at is not None:
            self.metrics.stage["queue"].observe(job.started_at - job.queued_at)
        return result

    def offer_to_shadow(self, result: Classification, routing: Routing) -> None:
        """Let the shadow classify the photo too, off the response path."""
        if self._shadow is not None and result.model is routing.primary.model:
            self._shadow.offer(result)

    @property
    def leaving(self) -> bool:
        """Whether the next request of a client should come over another connection, to another process."""
        return self.draining or (self.turns is not None and self.model is None)

    def _requests_wait(self) -> bool:
        return self._queue.waiting > 0

    def _not_loaded(self) -> ApiError:
        return self._unavailable(NotReady("not-ready", f"no model is loaded: {self.not_ready.message}"))

    def _unavailable(self, reason: NotReady) -> ApiError:
        retry_s = max(1, round(self.settings.retry_s))
        return ApiError(503, reason.code, reason.message, headers={"Retry-After": str(retry_s)})

    # For the loader, from its thread

    def install(self, model: Model) -> Model | None:
        """Answer with `model` from now on. Returns the one before, after its last answer."""
        if self.turns is not None and self.model is None:
            self.turns.take_over()
        return self._on_loop(self._install(model))

    def add_canary(self, model: Model, weight: float) -> None:
        async def add() -> None:
            assert self._routing is not None
            self._canary = Canary(model, Meter(self.metrics, model.bundle, "canary"), weight)
            self._routing = replace(self._routing, canary=self._canary)

        self._on_loop(add())

    def add_shadow(self, model: Model, share: float) -> None:
        candidate = ServedModel(model, Meter(self.metrics, model.bundle, "shadow"))
        self._shadow = Shadow(candidate, share, self.metrics, self._requests_wait)

    def close(self) -> None:
        """Free every model. Called when no request is left."""
        self.explainer.close()
        if self._shadow is not None:
            self._shadow.close()
        if self._canary is not None:
            self._canary.model.close()
        if self._routing is not None:
            self._routing.primary.model.close()

    async def _install(self, model: Model) -> Model | None:
        before = self._routing
        primary = ServedModel(model, Meter(self.metrics, model.bundle, "primary"))
        self._queue.configure(model.concurrency, model.photo_s)
        # One assignment: a request gets the old or the new routing, never a mixture.
        self._routing = Routing(primary, self._canary_beside(model, before))
        if before is not None:
            # New requests no longer use the old model; those that do still finish, unless a call hangs.
            old, until = before.primary.model, time.monotonic() + STUCK_S
            while old.users and time.monotonic() < until:
                await asyncio.sleep(POLL_S)
        # A later turn of the loop than the old model's last answer, which is therefore sent by now.
        await asyncio.sleep(0)
        self.model = model
        return before.primary.model if before else None

    def _canary_beside(self, primary: Model, before: Routing | None) -> Canary | None:
        """The canary if it knows the primary's classes; else it pauses until a primary with them is back."""
        canary = self._canary
        if canary is None:
            return None
        fits = canary.model.class_names == primary.class_names
        if fits != (before is not None and before.canary is not None):
            log.warning(
                "the canary %s %s %s",
                canary.model.version,
                "answers again, beside" if fits else "rests: it knows other classes than",
                primary.version,
            )
            self.metrics.set_loaded(canary.model.bundle, "canary", loaded=fits)
        return canary if fits else None

    def _on_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()
