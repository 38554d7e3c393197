"""The processes that the sessions of a heat are forked by."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from workbench.backends import Runtime
from workbench.measure.worker import imports_of
from workbench.system.launcher import Launcher, available

MOST_AHEAD = 4  # heats; the last are started in vain where no round is left for them


class HeatLaunchers:
    """A launcher for each set of libraries, new in each heat.

    So a launch is a process of its own, as it is without them, and within a heat all find their libraries at
    the same addresses: what these do to the speed cancels within the pairs, and differs between the rounds.
    runtimes: of all sessions. None is forked where one runs on a GPU, whose libraries do not survive a fork,
    and where the system cannot: a forked process computes a little slower than another.
    log: file that what the launchers print is appended to. ahead: heats whose launchers are started, and
    import, at the same time: as many as there are processors. With 1, each is started when it is asked for.
    """

    def __init__(self, runtimes: Iterable[Runtime], log: Path, *, ahead: int = 1) -> None:
        self._runtimes = {_libraries(runtime): runtime for runtime in runtimes}
        self._forks = available() and all(r.device == "cpu" for r in self._runtimes.values())
        self._log, self._ahead = log, min(ahead, MOST_AHEAD)
        self._stack = ExitStack()
        self._waiting: list[dict[object, Launcher]] = []  # of heats to come
        self._launchers: dict[object, Launcher] = {}  # of this heat

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def heat(self) -> Iterator[None]:
        """Within it, `of` gives launchers that no other heat has."""
        self._launchers = self._next() if self._forks and self._ahead > 1 else {}
        # Of those that were dropped no launcher is started again.
        self._runtimes = {}
        try:
            yield
        finally:
            for launcher in self._launchers.values():
                launcher.close()

    def of(self, runtime: Runtime) -> Launcher | None:
        """The launcher for sessions of this runtime; None where they are started anew."""
        if not self._forks:
            return None
        key = _libraries(runtime)
        self._runtimes[key] = runtime
        if key not in self._launchers:
            self._launchers[key] = self._launcher(runtime)
        return self._launchers[key]

    def _next(self) -> dict[object, Launcher]:
        """Those that wait for this heat; new ones where none wait, or one has died meanwhile."""
        if not self._waiting:
            self._waiting = self._started()
        launchers = self._waiting.pop()
        dead = [key for key, launcher in launchers.items() if launcher.process.poll() is not None]
        for key in dead:
            launchers.pop(key).close()  # `of` starts another
        return launchers

    def _started(self) -> list[dict[object, Launcher]]:
        """The launchers of the next heats, once all have imported: nothing may compute beside a heat."""
        heats = [
            {key: self._launcher(runtime) for key, runtime in self._runtimes.items()}
            for _ in range(self._ahead)
        ]
        for launchers in heats:
            for launcher in launchers.values():
                launcher.prepared()
        return heats

    def _launcher(self, runtime: Runtime) -> Launcher:
        launcher = Launcher(log=self._log, environment=runtime.environment())
        launcher.prepare(imports_of(runtime))
        return self._stack.enter_context(launcher)


def _libraries(runtime: Runtime) -> object:
    environment = runtime.environment()
    return environment and environment.key, runtime.backend, runtime.FORKABLE
