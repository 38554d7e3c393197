"""Follows the alias: finds, tries, loads and installs what it points at, in a thread of its own."""

import logging
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from serve import children, memory
from serve.engine import Engine, NotReady
from serve.metrics import Metrics, Role
from serve.model import Model, load
from serve.settings import Settings
from workbench.errors import WorkbenchError
from workbench.registry.bundle import Bundle
from workbench.registry.store import Registry

log = logging.getLogger("serve.loader")

TRIAL_TIMEOUT_S = {"cpu": 300.0, "cuda": 1800.0}  # a GPU runtime may have to build its engine first
TRIAL_POLL_S = 0.1
STOP_TIMEOUT_S = 10.0


class Stopped(Exception):
    """The server ends, and nothing is loaded any more."""


class Loader:
    """The first model is tried for until there is one: a registry that is empty today has one tomorrow.

    From then on a new one is taken whenever the alias moves. One that cannot be served is logged and counted,
    the one before goes on serving, and nothing is tried again until the alias moves once more.
    """

    def __init__(self, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._registry = Registry(settings.registry)
        self._served: Model | None = None
        self._seen: object = None  # the stamp of the alias file when it was last read
        self._why_not: NotReady | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="loader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def look(self) -> None:
        """Look at the alias now. Called from a signal handler: only sets a flag."""
        self._wake.set()

    def stop(self) -> None:
        """Returns when the thread has ended, or after a while where a model is just being read, which nothing
        can interrupt. Not from the event loop: the thread may be waiting for that."""
        self._stop.set()
        self._wake.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _follow(self) -> None:
        while not self._stop.is_set():
            if self._served is None:
                self._first()
            elif self._settings.pin is None:
                self._next(self._served)
            pause = self._settings.retry_s if self._served is None else self._settings.watch_s
            self._wake.wait(pause)
            self._wake.clear()

    def _first(self) -> None:
        """Load what there is to serve; each reason why that cannot be is logged once."""
        code = "no-model"
        try:
            bundle = self._wanted()
            code = "bad-model"
            model = self._installed(bundle)
        except WorkbenchError as error:
            why_not = NotReady(code, self._for_clients(error.message))
        except Exception:
            log.exception("the model could not be loaded")
            why_not = NotReady(code, "the model could not be loaded; the server's log has the details")
        else:
            self._served = model
            self._accompany(model)
            return
        if why_not != self._why_not:
            log.error("not ready: %s", why_not.message)
        self._why_not = why_not
        self._engine.refuse(why_not)

    def _wanted(self) -> Bundle:
        settings, registry = self._settings, self._registry
        name = registry.model_name(settings.model)
        if settings.pin is not None:
            return registry.bundle(name, settings.pin)
        self._seen = registry.alias_stamp(name)
        return registry.resolve(name, settings.alias)

    def _next(self, served: Model) -> None:
        """Swap where the alias points elsewhere by now."""
        name, wanted = served.bundle.manifest.name, "the next"
        try:
            stamp = self._stamp(name)
            if stamp == self._seen:
                return
            # Kept whatever comes of it: what failed is not tried again until the alias moves.
            self._seen = stamp
            pointed = self._registry.pointed(name, self._settings.alias)
            if pointed is None:
                log.warning("`%s` is gone; %s goes on serving", self._settings.alias, served.version)
                return
            if (pointed.version, pointed.manifest_sha256) == (served.version, served.bundle.digest):
                return
            wanted = pointed.version
            bundle = self._registry.resolve(name, self._settings.alias)
            try_out(self._settings.registry, bundle, self._stop)
            self._served = self._installed(bundle)
        except Stopped:
            return
        except WorkbenchError as error:
            self._failed(served, wanted, error.message)
            return
        except Exception:
            log.exception("%s could not be loaded", wanted)
            self._failed(served, wanted, "it could not be loaded")
            return
        self._metrics.swaps.labels("ok").inc()
        self._metrics.model_gone(served.bundle, "primary")
        self._free(served)

    def _free(self, model: Model) -> None:
        if model.users:
            log.error("%s still has %d calls that hang: it is not freed", model.version, model.users)
            return
        try:
            model.close()
        except Exception:  # such as of a disk that went away: the alias is followed all the same
            log.exception("%s could not be freed", model.version)
        memory.give_back()

    def _stamp(self, name: str) -> object:
        """What changes when the alias moves; or why it cannot be looked at, which is said once and not at
        every look."""
        try:
            return self._registry.alias_stamp(name)
        except WorkbenchError as error:
            return error.message

    def _installed(self, bundle: Bundle) -> Model:
        started = time.perf_counter()
        model = self._load(bundle)
        before = self._engine.install(model)
        seconds = time.perf_counter() - started
        self._metrics.model_loaded(bundle, "primary", seconds)
        log.info(
            "serving %s %s on %s, %d at a time%s (loaded in %.2f s)",
            bundle.manifest.name,
            bundle.version,
            model.session.provider,
            model.concurrency,
            f", instead of {before.version}" if before else "",
            seconds,
        )
        return model

    def _load(self, bundle: Bundle) -> Model:
        with ExitStack() as held:
            held.enter_context(self._registry.lease(bundle))
            model = load(bundle, workers=self._settings.workers)
            model.hold(held.pop_all())
            return model

    def _accompany(self, served: Model) -> None:
        """Load the canary and the shadow. Without them the server still serves, and says so in its log."""
        settings = self._settings
        wanted: tuple[tuple[Role, str | None], ...] = (
            ("canary", settings.canary),
            ("shadow", settings.shadow),
        )
        for role, version in wanted:
            if version is None:
                continue
            try:
                bundle = self._registry.bundle(served.bundle.manifest.name, version)
                if bundle.manifest.class_names != served.bundle.manifest.class_names:
                    raise WorkbenchError(f"{version} knows other classes than {served.version}")
                try_out(settings.registry, bundle, self._stop)
                model = self._load(bundle)
            except Stopped:
                return
            except WorkbenchError as error:
                log.error("no %s: %s", role, self._for_clients(error.message))
                continue
            except Exception:
                log.exception("no %s: %s could not be loaded", role, version)
                continue
            if role == "canary":
                self._engine.add_canary(model, settings.weight)
            else:
                self._engine.add_shadow(model, settings.sample)
            self._metrics.model_loaded(bundle, role)
            does, share = ("answers", settings.weight) if role == "canary" else ("sees", settings.sample)
            log.info("%s: %s %s %g %% of the photos", role, version, does, 100 * share)

    def _failed(self, served: Model, wanted: str, message: str) -> None:
        self._metrics.swaps.labels("failed").inc()
        log.error("%s goes on serving, not %s: %s", served.version, wanted, self._for_clients(message))

    def _for_clients(self, message: str) -> str:
        """One line, without saying where on this machine the registry lies."""
        message = "; ".join(line.strip() for line in message.splitlines())
        for path in (self._settings.registry.resolve(), self._settings.registry.absolute()):
            message = message.replace(f"{path}/", "").replace(str(path), path.name)
        return message


def try_out(registry: Path, bundle: Bundle, stop: threading.Event) -> None:
    """Load a bundle in a process of its own first: what crashes a runtime, or takes all memory, must not
    take the model with it that is serving. Raises WorkbenchError, and Stopped once `stop` is set."""
    name, version = bundle.manifest.name, bundle.version
    timeout_s = TRIAL_TIMEOUT_S[bundle.manifest.runtime.device]
    with subprocess.Popen(
        children.command("serve.trial", str(registry.absolute()), name, version, bundle.digest),
        env=children.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as trial:
        try:
            said = _said(trial, stop, timeout_s)
        except subprocess.TimeoutExpired:
            raise WorkbenchError(f"{name} {version} did not load within {timeout_s:g} s") from None
        finally:
            trial.kill()
    if trial.returncode < 0:
        raise WorkbenchError(f"loading {name} {version} ends the process with signal {-trial.returncode}")
    if trial.returncode:
        raise WorkbenchError(said[-1] if said else f"{name} {version} does not load")


def _said(trial: "subprocess.Popen[bytes]", stop: threading.Event, timeout_s: float) -> list[str]:
    """The lines it wrote until its end. Raises subprocess.TimeoutExpired, and Stopped once `stop` is set."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            output, _ = trial.communicate(timeout=TRIAL_POLL_S)
            return output.decode(errors="replace").strip().splitlines()
        except subprocess.TimeoutExpired:
            if stop.is_set():
                raise Stopped from None
            if time.monotonic() > deadline:
                raise
