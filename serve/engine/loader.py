"""Follows the alias: finds, tries, loads and installs the version it points at, in its own thread."""

import logging
import math
import os
import threading
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, SimpleQueue

from serve import process
from serve.engine.engine import NotReady, ServingEngine, WantedVersion
from serve.engine.model import Model, load_model, load_once
from serve.engine.runtime_version import check_version
from serve.metrics import ModelRole
from workbench.errors import WorkbenchError, one_line
from workbench.registry.bundle import Bundle
from workbench.registry.store import Registry
from workbench.system.child import Child, ChildError

log = logging.getLogger("serve.engine.loader")

TRIAL_TIMEOUT_S = {"cpu": 300.0, "cuda": 1800.0}  # a GPU runtime may have to build its engine first
TRIAL_POLL_S = 0.1
STOP_TIMEOUT_S = 10.0
MAX_PAUSE_S = 300.0  # between two attempts at a version that could not be loaded


class LoaderStopped(Exception):
    """The server is shutting down."""


class Loader:
    """Loads the first model as soon as the registry has one, then a new one whenever the alias moves.

    Where a version cannot be served, the one before serves on; it is tried again after growing pauses, and
    at once where the alias moves or `check_now` is called.
    """

    def __init__(self, engine: ServingEngine) -> None:
        self._engine = engine
        self._settings = engine.settings
        self._metrics = engine.metrics
        self._registry = Registry(engine.settings.registry)
        self._served: Model | None = None
        self._alias_stamp: object = None  # of the alias file when it was last read
        self._asked = False  # to look at once
        self._pause_s = 0.0  # after the latest failure
        self._next_try = math.inf  # time.monotonic()
        self._refusal = ExitStack()  # the record of it in the registry
        self._stop = threading.Event()
        # No event: a second signal while the handler of the first sets one would wait for itself.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self.thread = threading.Thread(target=self._follow, name="loader", daemon=True)

    def check_now(self) -> None:
        """Check the alias at once, and try again what failed. Called in a signal handler."""
        self._asked = True
        self._wake.put(None)

    def stop(self) -> None:
        """End the thread, or leave it after STOP_TIMEOUT_S: opening a model cannot be interrupted.

        Not called on the event loop, which the thread may be waiting for.
        """
        self._stop.set()
        self._wake.put(None)
        self.thread.join(STOP_TIMEOUT_S)

    def _follow(self) -> None:
        while not self._stop.is_set():
            if self._served is None:
                self._load_first()
            elif self._settings.pin is None:
                self._swap_if_moved(self._served)
            pause_s = self._settings.retry_s if self._served is None else self._settings.watch_s
            with suppress(Empty):
                self._wake.get(timeout=max(0.0, min(pause_s, self._next_try - time.monotonic())))
                while True:
                    self._wake.get_nowait()
        self._forget_refusal()

    def _load_first(self) -> None:
        """Load the first model; why it cannot be loaded is logged once."""
        settings, registry = self._settings, self._registry
        code, bundle = "no-model", None
        try:
            name = registry.model_name(settings.model)
            if settings.pin is not None:
                bundle = registry.bundle(name, settings.pin)
            else:
                self._alias_stamp = registry.alias_stamp(name)
                bundle = registry.resolve(name, self._alias(name))
            code = "bad-model"
            self._check_version(bundle)
            self._served = self._install(bundle)
        except Exception as error:
            reason = NotReady(code, self._explain(error, "the model"))
            if reason != self._engine.not_ready:
                log.error("not ready: %s (in %s)", reason.message, settings.registry.absolute())
            self._engine.not_ready = reason
            self._forget_refusal()
            if bundle is not None:
                self._refuse(bundle.manifest.name, bundle.version, reason.message, settings.retry_s)
            return
        self._forget_refusal()
        self._load_companions(self._served)

    def _swap_if_moved(self, served: Model) -> None:
        """Replace the model where the alias points at another version."""
        name, target = served.bundle.manifest.name, "the next"
        try:
            stamp = self._stamp(name)
            moved, asked = stamp != self._alias_stamp, self._asked
            if not moved and not asked and time.monotonic() < self._next_try:
                return
            self._alias_stamp, self._asked = stamp, False
            if moved:
                self._forget_refusal()
            alias = self._alias(name)
            pointed = self._registry.pointed(name, alias)
            if pointed is None:
                log.warning("`%s` is gone; %s goes on serving", alias, served.version)
            mine = (served.version, served.bundle.digest)
            if pointed is None or (pointed.version, pointed.manifest_sha256) == mine:
                self._forget_refusal()
                return
            target = pointed.version
            bundle = self._registry.resolve(name, alias)
            self._check_version(bundle)
            run_load_trial(self._settings.registry, bundle, self._stop)
            self._served = self._install(bundle)
        except LoaderStopped:
            return
        except Exception as error:
            self._metrics.swaps.labels("failed").inc()
            reason = self._explain(error, target)
            longest_s = max(MAX_PAUSE_S, self._settings.retry_s)
            pause_s = min(longest_s, max(self._settings.retry_s, 2 * self._pause_s))
            log.error(
                "%s goes on serving, not %s: %s; next try in %g s", served.version, target, reason, pause_s
            )
            self._refuse(name, target, reason, pause_s)
            return
        self._forget_refusal()
        self._metrics.swaps.labels("ok").inc()
        self._metrics.set_loaded(served.bundle, "primary", loaded=False)
        self._free(served)

    def _alias(self, name: str) -> str:
        """The alias to follow: that of this machine's class where there is one."""
        return self._registry.alias_of(name, self._settings.alias, self._settings.device_class)

    def _refuse(self, name: str, version: str, reason: str, pause_s: float) -> None:
        """Have `/readyz`, `/metrics` and the registry say that `version` cannot be loaded, and wait."""
        self._forget_refusal()
        self._pause_s, self._next_try = pause_s, time.monotonic() + pause_s
        at = datetime.now(UTC) + timedelta(seconds=pause_s)
        self._engine.wanted = WantedVersion(version, reason, at)
        self._metrics.set_next_try(name, version, at.timestamp())
        self._refusal.callback(self._metrics.set_next_try, name, version, None)
        with suppress(OSError):  # as of a disk that was removed
            self._refusal.enter_context(self._registry.refusal(name, version, reason, at))

    def _forget_refusal(self) -> None:
        self._pause_s, self._next_try, self._engine.wanted = 0.0, math.inf, None
        with suppress(OSError):
            self._refusal.close()

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

    def _check_version(self, bundle: Bundle) -> None:
        check_version(bundle.manifest, anyway=self._settings.any_runtime)

    def _load(self, bundle: Bundle) -> Model:
        lease = self._registry.lease(bundle)
        settings = self._settings
        return load_model(bundle, workers=settings.workers, lease=lease, abstain=settings.abstain)

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
        self._check_version(bundle)
        run_load_trial(self._settings.registry, bundle, self._stop)
        return self._load(bundle)

    def _explain(self, error: Exception, name: str) -> str:
        """Why `name` cannot be loaded, and what helps: one line, without the registry's place here."""
        if not isinstance(error, WorkbenchError):
            log.error("%s could not be loaded", name, exc_info=error)
            return f"{name} could not be loaded; the server's log has the details"
        message = one_line(error)
        for path in (self._settings.registry.resolve(), self._settings.registry.absolute()):
            message = message.replace(f"the registry {path}", "the registry")
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
            if (code := trial.process.wait()) < 0:
                message = f"{trial.label} ends the process with signal {-code}"
                raise WorkbenchError(message, hint="give it more memory, or roll back") from error
            if error.hint == f"see {os.devnull}":
                raise WorkbenchError(error.message) from error
            raise
