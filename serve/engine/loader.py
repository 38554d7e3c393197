"""Follows the alias: finds, tries, loads and installs the version it points at, in its own thread."""

import logging
import os
import threading
import time
from pathlib import Path

from serve import process
from serve.engine.engine import NotReady, ServingEngine
from serve.engine.model import Model, load_model, load_once
from serve.metrics import ModelRole
from workbench.errors import WorkbenchError
from workbench.registry.bundle import Bundle
from workbench.registry.store import Registry
from workbench.system.child import Child, ChildError

log = logging.getLogger("serve.engine.loader")

TRIAL_TIMEOUT_S = {"cpu": 300.0, "cuda": 1800.0}  # a GPU runtime may have to build its engine first
TRIAL_POLL_S = 0.1
STOP_TIMEOUT_S = 10.0


class LoaderStopped(Exception):
    """The server is shutting down."""


class Loader:
    """Loads the first model as soon as the registry has one, then a new one whenever the alias moves.

    Where a version cannot be served, the one before serves on until the alias moves again.
    """

    def __init__(self, engine: ServingEngine) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._metrics = engine.metrics
        self._registry = Registry(engine.settings.registry)
        self._served: Model | None = None
        self._alias_stamp: object = None  # of the alias file when it was last read
        self._stop = threading.Event()
        self._wake = threading.Event()
        self.thread = threading.Thread(target=self._follow, name="loader", daemon=True)

    def check_now(self) -> None:
        """Check the alias at once. Called in a signal handler: only sets a flag."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread, or leave it after STOP_TIMEOUT_S: opening a model cannot be interrupted.

        Not called on the event loop, which the thread may be waiting for.
        """
        self._stop.set()
        self._wake.set()
        self.thread.join(STOP_TIMEOUT_S)

    def _follow(self) -> None:
        while not self._stop.is_set():
            if self._served is None:
                self._load_first()
            elif self._settings.pin is None:
                self._swap_if_moved(self._served)
            self._wake.wait(self._settings.retry_s if self._served is None else self._settings.watch_s)
            self._wake.clear()

    def _load_first(self) -> None:
        """Load the first model; why it cannot be loaded is logged once."""
        settings, registry = self._settings, self._registry
        code = "no-model"
        try:
            name = registry.model_name(settings.model)
            if settings.pin is not None:
                bundle = registry.bundle(name, settings.pin)
            else:
                self._alias_stamp = registry.alias_stamp(name)
                bundle = registry.resolve(name, settings.alias)
            code = "bad-model"
            self._served = self._install(bundle)
        except Exception as error:
            reason = NotReady(code, self._explain(error, "the model"))
            if reason != self._engine.not_ready:
                log.error("not ready: %s", reason.message)
            self._engine.not_ready = reason
            return
        self._load_companions(self._served)

    def _swap_if_moved(self, served: Model) -> None:
        """Replace the model where the alias points at another version."""
        name, target = served.bundle.manifest.name, "the next"
        try:
            stamp = self._stamp(name)
            if stamp == self._alias_stamp:
                return
            # Also where loading fails: a version is not tried again until the alias moves.
            self._alias_stamp = stamp
            pointed = self._registry.pointed(name, self._settings.alias)
            if pointed is None:
                log.warning("`%s` is gone; %s goes on serving", self._settings.alias, served.version)
                return
            if (pointed.version, pointed.manifest_sha256) == (served.version, served.bundle.digest):
                return
            target = pointed.version
            bundle = self._registry.resolve(name, self._settings.alias)
            run_load_trial(self._settings.registry, bundle, self._stop)
            self._served = self._install(bundle)
        except LoaderStopped:
            return
        except Exception as error:
            self._metrics.swaps.labels("failed").inc()
            log.error("%s goes on serving, not %s: %s", served.version, target, self._explain(error, target))
            return
        self._metrics.swaps.labels("ok").inc()
        self._metrics.set_loaded(served.bundle, "primary", loaded=False)
        self._free(served)

    def _free(self, model: Model) -> None:
        if model.users:
            log.error("%s still has %d calls that hang: it is not freed", model.version, model.users)
            return
        try:
            model.close()
        except Exception:  # as of a disk that was removed: the alias is followed all the same
            log.exception("%s could not be freed", model.version)
        process.trim_malloc()

    def _stamp(self, name: str) -> object:
        """A value that changes when the alias moves; the error where it cannot be read, logged once."""
        try:
            return self._registry.alias_stamp(name)
        except WorkbenchError as error:
            return error.message

    def _install(self, bundle: Bundle) -> Model:
        started = time.perf_counter()
        model = self._load(bundle)
        before = self._engine.install(model)
        seconds = time.perf_counter() - started
        self._metrics.model_load.set(seconds)
        self._metrics.set_loaded(bundle, "primary")
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
        lease = self._registry.lease(bundle)
        return load_model(bundle, workers=self._settings.workers, lease=lease)

    def _load_companions(self, served: Model) -> None:
        """Load the canary and the shadow. Without them the server still serves, and logs why."""
        settings = self._settings
        roles: tuple[tuple[ModelRole, str | None, float], ...] = (
            ("canary", settings.canary, settings.weight),
            ("shadow", settings.shadow, settings.sample),
        )
        for role, version, share in roles:
            if version is None:
                continue
            try:
                model = self._load_companion(served, version)
            except LoaderStopped:
                return
            except Exception as error:
                log.error("no %s: %s", role, self._explain(error, version))
                continue
            add = self._engine.add_canary if role == "canary" else self._engine.add_shadow
            add(model, share)
            self._metrics.set_loaded(model.bundle, role)
            does = "answers" if role == "canary" else "sees"
            log.info("%s: %s %s %g %% of the photos", role, version, does, 100 * share)

    def _load_companion(self, served: Model, version: str) -> Model:
        bundle = self._registry.bundle(served.bundle.manifest.name, version)
        if bundle.manifest.class_names != served.class_names:
            raise WorkbenchError(f"{version} knows other classes than {served.version}")
        run_load_trial(self._settings.registry, bundle, self._stop)
        return self._load(bundle)

    def _explain(self, error: Exception, name: str) -> str:
        """Why `name` cannot be loaded: one line, without the registry's place on this machine."""
        if not isinstance(error, WorkbenchError):
            log.error("%s could not be loaded", name, exc_info=error)
            return f"{name} could not be loaded; the server's log has the details"
        message = "; ".join(line.strip() for line in error.message.splitlines())
        for path in (self._settings.registry.resolve(), self._settings.registry.absolute()):
            message = message.replace(f"{path}/", "").replace(str(path), path.name)
        return message


def run_load_trial(registry: Path, bundle: Bundle, stop: threading.Event) -> None:
    """Load a bundle in a child process: one that crashes its runtime, or takes all memory, ends only that.

    Raises WorkbenchError where loading fails, and LoaderStopped once `stop` is set.
    """
    name, version = bundle.manifest.name, bundle.version
    timeout_s = TRIAL_TIMEOUT_S[bundle.manifest.runtime.device]
    deadline = time.monotonic() + timeout_s
    arguments = (registry.absolute(), name, version, bundle.digest)
    with Child(load_once, *arguments, log=Path(os.devnull), label=f"loading {name} {version}") as trial:
        while not trial.poll(TRIAL_POLL_S):
            if stop.is_set():
                raise LoaderStopped
            if time.monotonic() > deadline:
                raise WorkbenchError(f"{name} {version} did not load within {timeout_s:g} s")
        try:
            trial.ready(0)
        except ChildError as error:
            if (code := trial.process.returncode or 0) < 0:
                message = f"{trial.label} ends the process with signal {-code}"
                raise WorkbenchError(message) from error
            raise
