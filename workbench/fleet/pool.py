"""Many devices at once: a thread each, bounded, that Ctrl-C ends with every lease."""

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import summary
from workbench.fleet.link import DeviceLink

AT_ONCE = 64  # devices; a thread mostly waits
POLL_S = 0.5


class OpenLinks:
    """The links in use, to be closed from outside. Once it is stopped, no link stays open."""

    def __init__(self) -> None:
        self._lock, self._open = threading.Lock(), set[DeviceLink]()
        self.stopped = False

    @contextmanager
    def using(self, link: DeviceLink) -> Iterator[DeviceLink]:
        """The link, open for as long as the block runs, unless it is stopped."""
        with self._lock:
            self._open.add(link)
            stopped = self.stopped
        if stopped:
            link.close()
        try:
            with link:
                yield link
        finally:
            with self._lock:
                self._open.discard(link)

    def stop(self) -> None:
        """Close every link: its device's lease ends with it."""
        with self._lock:
            self.stopped = True
            links = list(self._open)
        for link in links:
            link.close()


def unexpected(error: Exception, log: Path) -> str:
    """What one device ended with, in one line, for the others go on; the trace is added to its log."""
    with log.open("a") as file:
        traceback.print_exception(error, file=file)
    return summary(error)


def for_all(
    waves: Sequence[Sequence[str]], work: Callable[[str], None], links: OpenLinks, at_once: int = AT_ONCE
) -> None:
    """Do the work for each device; a wave begins when the one before has ended.

    The work records how it ended itself: nothing that it raises is kept back. On Ctrl-C the links are closed
    and what is not begun is left out.
    """
    for wave in waves:
        if not wave:
            continue
        with ThreadPoolExecutor(min(at_once, len(wave)), thread_name_prefix="device") as pool:
            futures = [pool.submit(work, name) for name in wave]
            try:
                while wait(futures, POLL_S).not_done:
                    pass
            except BaseException:
                for future in futures:
                    future.cancel()
                links.stop()
                raise
        for future in futures:
            future.result()
