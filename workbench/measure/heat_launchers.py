"""The launchers that the sessions of one heat are forked by."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from workbench.backends import Runtime
from workbench.system.launcher import Launcher, available


class HeatLaunchers:
    """A launcher for each set of libraries, new in each heat.

    So a launch is a process of its own, as it is without them, and within a heat all find their libraries at
    the same addresses: what these do to the speed cancels within the pairs, and differs between the rounds.
    runtimes: of all sessions. None is forked where one runs on a GPU, whose libraries do not survive a fork,
    and where the system cannot: a forked process computes a little slower than another.
    """

    def __init__(self, runtimes: Iterable[Runtime]) -> None:
        self._forks = available() and all(runtime.device == "cpu" for runtime in runtimes)
        self._heat = ExitStack()
        self._launchers: dict[object, Launcher] = {}

    @contextmanager
    def heat(self) -> Iterator[None]:
        with ExitStack() as self._heat:
            self._launchers = {}
            yield

    def of(self, runtime: Runtime, log: Path) -> Launcher | None:
        """The launcher for sessions of this runtime; None where they are started anew."""
        if not self._forks:
            return None
        environment = runtime.environment()
        key = (environment and environment.key, runtime.backend, runtime.FORKABLE)
        if key not in self._launchers:
            launcher = Launcher(log=log, environment=environment)
            self._launchers[key] = self._heat.enter_context(launcher)
        return self._launchers[key]
