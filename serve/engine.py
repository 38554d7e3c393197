"""What the server serves right now: nothing yet, nothing and why, a model, or a model on its way out."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from serve.metrics import Metrics
from serve.model import Guess, Model, opened
from serve.settings import Settings
from workbench.errors import WorkbenchError
from workbench.registry import Registry

log = logging.getLogger("serve.engine")


@dataclass(frozen=True, slots=True)
class NotReady:
    """code: loading, no-model, bad-model or draining. message: the reason, for people."""

    code: str
    message: str


class Engine:
    """Loads the model in a thread, so that the server answers /healthz meanwhile, and runs it in others."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._model: Model | None = None
        self._why_not = NotReady("loading", "the model is being loaded")
        self._draining = False
        self._stop = threading.Event()
        self._resources = ExitStack()
        self._loader = threading.Thread(target=self._load_until_ready, name="load", daemon=True)

    @property
    def model(self) -> Model | None:
        """The model to answer with. It goes on answering while the server drains."""
        return self._model

    @property
    def draining(self) -> bool:
        return self._draining

    def not_ready(self) -> NotReady | None:
        """None where requests should be sent here; else why not."""
        if self._draining:
            return NotReady("draining", "the server is shutting down")
        return self._why_not if self._model is None else None

    def start(self) -> None:
        self._loader.start()

    def drain(self) -> None:
        """Called from a signal handler: only sets a flag."""
        self._draining = True

    def stop(self) -> None:
        """Wait for the loader, close the session and its threads."""
        self._stop.set()
        self._loader.join()
        self._resources.close()

    async def guess(self, model: Model, photo: Callable[[], bytes]) -> Guess:
        """Classify one photo on the model's own threads. Raises what `photo` raises, and ImageError."""
        work = partial(model.guess, photo, self._metrics, time.perf_counter())
        return await asyncio.get_running_loop().run_in_executor(model.threads, work)

    def _load_until_ready(self) -> None:
        """Try until there is a model: a registry that is empty today has one tomorrow. Each reason is
        logged once."""
        while True:
            why_not = self._load()
            if why_not is None:
                return
            if why_not != self._why_not:
                log.error("not ready: %s", why_not.message)
            self._why_not = why_not
            if self._stop.wait(self._settings.retry_s):
                return

    def _load(self) -> NotReady | None:
        """Load the model the alias points at; None where that went well."""
        started = time.perf_counter()
        code = "no-model"
        try:
            bundle = Registry(self._settings.registry).resolve(self._settings.model, self._settings.alias)
            code = "bad-model"
            model = self._resources.enter_context(opened(bundle))
        except WorkbenchError as error:
            return NotReady(code, self._for_clients(error.message))
        except Exception:
            log.exception("the model could not be loaded")
            return NotReady(code, "the model could not be loaded; the server's log has the details")
        seconds = time.perf_counter() - started
        self._metrics.model_loaded(bundle, seconds)
        self._model = model
        log.info(
            "serving %s %s on %s, %d at a time (loaded in %.2f s)",
            bundle.manifest.name,
            bundle.manifest.version,
            model.session.provider,
            model.concurrency,
            seconds,
        )
        return None

    def _for_clients(self, message: str) -> str:
        """One line, without saying where on this machine the registry lies."""
        message = "; ".join(line.strip() for line in message.splitlines())
        for path in (self._settings.registry.resolve(), self._settings.registry.absolute()):
            message = message.replace(f"{path}/", "").replace(str(path), path.name)
        return message
