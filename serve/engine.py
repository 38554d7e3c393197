"""What the server serves right now: nothing yet, nothing and why, a model, or a model on its way out."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from serve.line import STUCK_S, Job, Line
from serve.metrics import Metrics
from serve.model import Model
from serve.responses import ApiError
from serve.settings import Settings
from serve.shadow import Shadow
from serve.work import Canary, Guess, Server, Serving

log = logging.getLogger("serve.engine")

Result = TypeVar("Result")
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class NotReady:
    """code: loading, no-model, bad-model, draining or stuck. message: the reason, for people."""

    code: str
    message: str


STUCK = NotReady("stuck", "the model has not answered for a minute")
DRAINING = NotReady("draining", "the server is shutting down")
NOT_LOADED = NotReady("not-ready", "no model is loaded; /readyz says why")


class Engine:
    """Answers from the model that is installed. It is told what to install by a `Loader`, from another
    thread; everything else happens on the event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._serving: Serving | None = None
        self._shadow: Shadow | None = None
        self._acknowledged: Model | None = None
        self._why_not = NotReady("loading", "the model is being loaded")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._canary: Canary | None = None
        self._line = Line(settings.queue_budget_s, metrics.queue_depth)
        self.draining = False
        self.closing = False

    # Seen by requests

    @property
    def model(self) -> Model | None:
        """The model served. After a swap it is the new one only when the old one gave its last answer."""
        return self._acknowledged

    def not_ready(self) -> NotReady | None:
        """None where requests should be sent here; else why not."""
        if self.draining:
            return DRAINING
        if self._acknowledged is None:
            return self._why_not
        return STUCK if self._line.stuck() else None

    def check_alive(self) -> None:
        """Raise ApiError (503) where every thread hangs, and only a new process will help."""
        if self._line.stuck():
            raise self._unavailable(STUCK)

    def served(self) -> Model:
        """The model served. Raises ApiError (503) where there is none."""
        if self._acknowledged is None:
            raise self._unavailable(NOT_LOADED)
        return self._acknowledged

    def ready(self) -> Model:
        """The model served, where requests should be sent here; else raises ApiError (503) saying why."""
        if (why_not := self.not_ready()) is not None:
            raise self._unavailable(why_not)
        return self.served()

    def check(self) -> None:
        """Raise ApiError where a request that comes now would get no answer: 503, or 429 when overloaded.

        Called before a body is read, so that what is refused costs next to nothing.
        """
        if self.closing:
            raise self._unavailable(DRAINING)
        if self._serving is None:
            raise self._unavailable(NOT_LOADED)
        self._line.check()

    @contextmanager
    def using(self) -> Iterator[Serving]:
        """What to answer with, kept alive until the end of the block, whatever is installed meanwhile."""
        serving = self._serving
        if serving is None:
            raise self._unavailable(NOT_LOADED)
        primary = serving.primary.model
        primary.users += 1
        try:
            yield serving
        finally:
            primary.users -= 1

    async def run(self, serving: Serving, work: Callable[[], Result], *, admitted: bool = False) -> Result:
        """Do `work` on the model's own threads, when its turn comes. Raises what it raises.

        Raises ApiError: 429 where the line is too long (unless `admitted` before), 504 where its turn came
        after the deadline.
        """
        if not admitted:
            self._line.check()
        job = Job(work, time.perf_counter() + self._settings.deadline_s)
        self._line.join(job)
        try:
            result = await serving.primary.model.threads.run(job)
        finally:
            self._line.leave(job)
        if job.started is not None:
            self._metrics.stage["queue"].observe(job.started - job.joined)
        return result

    def answered(self, guess: Guess, serving: Serving) -> None:
        """Let the shadow see what was answered. It costs the one who asked nothing."""
        if self._shadow is not None and guess.model is serving.primary.model:
            self._shadow.offer(guess)

    def _unavailable(self, why_not: NotReady) -> ApiError:
        retry_s = max(1, round(self._settings.retry_s))
        return ApiError(503, why_not.code, why_not.message, headers={"Retry-After": str(retry_s)})

    # Told by the loader, from its thread

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def refuse(self, why_not: NotReady) -> None:
        self._why_not = why_not

    def install(self, model: Model) -> Model | None:
        """Answer with `model` from now on; returns the one before, which has given its last answer."""
        return self._on_loop(self._install(model))

    def add_canary(self, model: Model, weight: float) -> None:
        async def add() -> None:
            assert self._serving is not None
            self._canary = Canary(model, self._metrics.meter(model.bundle, "canary"), weight)
            self._serving = replace(self._serving, canary=self._canary)

        self._on_loop(add())

    def add_shadow(self, model: Model, share: float) -> None:
        server = Server(model, self._metrics.meter(model.bundle, "shadow"))
        self._shadow = Shadow(server, share, self._metrics, lambda: self._line.waiting > 0)

    def close(self) -> None:
        """Free every model. Called when no request is left."""
        if self._shadow is not None:
            self._shadow.close()
        if self._canary is not None:
            self._canary.model.close()
        if self._serving is not None:
            self._serving.primary.model.close()

    async def _install(self, model: Model) -> Model | None:
        before = self._serving
        server = Server(model, self._metrics.meter(model.bundle, "primary"))
        self._line.open(model.concurrency, model.seconds)
        # One assignment: a request finds the old or the new, never a mixture.
        self._serving = Serving(server, self._canary_beside(model, before))
        if before is not None:
            # Nobody takes the old one any more; those who did still answer with it, unless a call hangs.
            old, until = before.primary.model, time.monotonic() + STUCK_S
            while old.users and time.monotonic() < until:
                await asyncio.sleep(POLL_S)
        # In a later turn of the loop than the last of its answers, which is therefore sent by now.
        await asyncio.sleep(0)
        self._acknowledged = model
        return before.primary.model if before else None

    def _canary_beside(self, primary: Model, before: Serving | None) -> Canary | None:
        """The canary, unless it knows other classes: then it rests until a primary with its own is back."""
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
            tell = self._metrics.model_loaded if fits else self._metrics.model_gone
            tell(canary.model.bundle, "canary")
        return canary if fits else None

    def _on_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
