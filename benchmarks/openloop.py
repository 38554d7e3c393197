"""Load for a server on this machine, from a process of its own: arrivals that do not wait for answers.

    python benchmarks/openloop.py --url http://127.0.0.1:8000/predict --rate 200 --seconds 5 \\
        --photos FOLDER_OR_FILE... [--raw] [--health http://127.0.0.1:8000/readyz] [--log FILE] --json
    python benchmarks/openloop.py --url ... --closed 16 --seconds 5 --photos ...

Open loop: Poisson arrivals, drawn before the first is sent. A latency counts from the moment an arrival was
due, however late it could be sent, so a server that stalls is charged for everyone who had to wait
("coordinated omission" is what closed loops do instead). With --closed, N connections send their next request
on each answer: that finds the throughput, and its latencies mean little.

The client shares the machine's processors with the server: it is one thread around epoll that sends requests
built beforehand, and reports its own CPU time and how late it was itself. Times are seconds since `began`, a
reading of time.monotonic(), which other processes of this machine can compare with theirs.

Outcomes are status codes and: refused (nobody listens), reset (closed or reset before its answer was whole),
timeout, error (anything else, such as an answer that is not HTTP).
"""

import argparse
import gc
import itertools
import json
import math
import multiprocessing
import random
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".json": "application/json",  # a body made beforehand, for --raw
}
BOUNDARY = b"krishi-bench-openloop"
PROBE_EVERY_S = 0.05
IDLE_S = 2.0  # servers close idle connections too (uvicorn after 5 s): we must be first, or requests get lost
READ, WRITE = select.EPOLLIN | select.EPOLLRDHUP, select.EPOLLOUT


class Answer(NamedTuple):
    """What became of one request. Seconds since the load began; outcome: a status code or a word;
    request: which of the plan's, -1 where it was never sent."""

    due_s: float
    sent_s: float
    ended_s: float
    outcome: str
    version: str
    request: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send, where to and when.

    due_s: when each request is due; None for a closed loop. seconds: how long a closed loop runs.
    """

    port: int
    requests: tuple[bytes, ...]
    due_s: tuple[float, ...] | None
    seconds: float
    connections: int
    timeout_s: float
    seed: int


@dataclass(slots=True, eq=False)
class Connection:
    """A socket, the request it carries and what came back so far."""

    socket: socket.socket
    connected: bool = False
    request: int = -1
    due_s: float = 0.0
    sent_s: float = 0.0
    unsent: memoryview | None = None
    received: bytes = b""
    head: bytes = b""  # of the answer, once it is whole
    idle_since: float = 0.0
    busy: bool = False
    events: int = 0


@dataclass(slots=True)
class Load:
    """One run of a plan."""

    plan: Plan
    answers: list[Answer] = field(default_factory=list)
    opened: int = 0
    closed_idle: int = 0
    began: float = 0.0
    _busy: int = 0
    _open: dict[int, Connection] = field(default_factory=dict)
    _idle: deque[Connection] = field(default_factory=deque)
    _waiting: deque[float] = field(default_factory=deque)
    _epoll: select.epoll = field(default_factory=select.epoll)
    _random: random.Random = field(default_factory=random.Random)

    def run(self) -> None:
        """Send everything and wait for the last answer, or for its timeout."""
        self._random.seed(self.plan.seed)
        self.began = time.monotonic()
        arrivals: Iterator[float] = iter(self.plan.due_s or ())
        following = next(arrivals, math.inf)
        if self.plan.due_s is None:
            self._waiting.extend([0.0] * self.plan.connections)
        swept = 0.0
        while following < math.inf or self._waiting or self._busy:
            now = self._now()
            while following <= now:
                self._waiting.append(following)
                following = next(arrivals, math.inf)
            self._send_waiting()
            if now - swept > 0.05:
                swept = now
                self._sweep(now)
            # epoll counts in milliseconds, select in microseconds: an arrival must not be a millisecond late.
            pause = min(max(0.0, following - self._now()), 0.05)
            select.select([self._epoll], [], [], pause)
            for number, events in self._epoll.poll(0):
                if (connection := self._open.get(number)) is not None:
                    self._serve(connection, events)
        for connection in list(self._open.values()):
            self._drop(connection)

    def _now(self) -> float:
        return time.monotonic() - self.began

    def _send_waiting(self) -> None:
        while self._waiting:
            if self._idle:
                connection = self._idle.pop()
            elif len(self._open) < self.plan.connections:
                connection = self._connect()
            else:
                return
            self._begin(connection, self._waiting.popleft())

    def _connect(self) -> Connection:
        self.opened += 1
        opened = socket.socket()
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.connect_ex(("127.0.0.1", self.plan.port))
        connection = self._open[opened.fileno()] = Connection(opened)
        self._epoll.register(opened, 0)
        return connection

    def _begin(self, connection: Connection, due_s: float) -> None:
        connection.busy, connection.due_s, connection.sent_s = True, due_s, self._now()
        connection.received = connection.head = b""
        self._busy += 1
        connection.request = self._random.randrange(len(self.plan.requests))
        connection.unsent = memoryview(self.plan.requests[connection.request])
        if connection.connected:
            self._write(connection)
        else:
            self._listen(connection, WRITE | READ)

    def _listen(self, connection: Connection, events: int) -> None:
        if events != connection.events:
            connection.events = events
            self._epoll.modify(connection.socket, events)

    def _write(self, connection: Connection) -> None:
        assert connection.unsent is not None
        try:
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :] or None
        except BlockingIOError:
            pass
        except OSError:
            # An early answer (413) may have come before the connection was closed on us.
            connection.unsent = None
        self._listen(connection, READ if connection.unsent is None else WRITE | READ)

    def _serve(self, connection: Connection, events: int) -> None:
        if not connection.connected:
            if (number := connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) != 0:
                self._end(connection, "refused" if number == 111 else "reset")
                return
            if not events & WRITE:
                return
            connection.connected = True
        if events & ~WRITE:
            self._read(connection)
        if events & WRITE and connection.unsent is not None and connection.busy:
            self._write(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not connection.busy:
            self.closed_idle += 1
            self._idle.remove(connection)
            self._drop(connection)
        elif not data:
            self._end(connection, "reset")
        else:
            connection.received += data
            self._look(connection)

    def _look(self, connection: Connection) -> None:
        """End the request where its answer is whole."""
        received = connection.received
        if not connection.head:
            if not b"HTTP/1.1".startswith(received[:8]) and not received.startswith(b"HTTP/1."):
                self._end(connection, "error")
                return
            if (end := received.find(b"\r\n\r\n")) < 0:
                return
            connection.head = received[: end + 4]
        if length := header(connection.head, b"content-length"):
            whole = len(received) >= len(connection.head) + int(length)
        elif header(connection.head, b"transfer-encoding"):
            whole = received.endswith(b"0\r\n\r\n")
        else:
            whole = True
        if whole:
            self._end(connection, received[9:12].decode("latin-1"))

    def _end(self, connection: Connection, outcome: str) -> None:
        now, answered = self._now(), outcome.isdecimal()
        version = header(connection.head, b"x-model-version") if answered else ""
        self.answers.append(
            Answer(connection.due_s, connection.sent_s, now, outcome, version, connection.request)
        )
        connection.busy = False
        self._busy -= 1
        again = self.plan.due_s is None and now < self.plan.seconds
        if not answered or connection.unsent is not None or header(connection.head, b"connection") == "close":
            self._drop(connection)
            if again:
                self._waiting.append(now)
        elif again:
            self._begin(connection, now)
        else:
            connection.idle_since = now
            self._idle.append(connection)

    def _sweep(self, now: float) -> None:
        for connection in list(self._open.values()):
            if connection.busy and now - connection.due_s > self.plan.timeout_s:
                self._end(connection, "timeout")
        while self._waiting and now - self._waiting[0] > self.plan.timeout_s:
            due_s = self._waiting.popleft()
            self.answers.append(Answer(due_s, now, now, "timeout", "", -1))
        while self._idle and now - self._idle[0].idle_since > IDLE_S:
            self._drop(self._idle.popleft())

    def _drop(self, connection: Connection) -> None:
        del self._open[connection.socket.fileno()]
        connection.socket.close()


def header(head: bytes, name: bytes) -> str:
    """The value of a header of an answer; "" where there is none. name: in lower case."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return ""
    start += len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip().decode("latin-1")


# What to send


def photos_in(paths: Iterable[Path]) -> list[Path]:
    """The photos named, and those in the folders named, sorted."""
    found = [
        photo
        for path in paths
        for photo in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if not path.is_dir() or photo.suffix.lower() in MEDIA_TYPES
    ]
    if not found:
        sys.exit(
            "error: no photos found\nhint: --photos takes files, or folders with .jpg, .png or .webp files"
        )
    return found


def request_of(
    url: SplitResult, photo: bytes, *, raw: bool, name: str = "photo.jpg", extra: str = ""
) -> bytes:
    """A whole POST: the photo as the body, or in the field `file` of a form.

    extra: further header lines, each with its CRLF.
    """
    media_type = MEDIA_TYPES.get(Path(name).suffix.lower(), "image/jpeg")
    if raw:
        body, content_type = photo, media_type
    else:
        disposition = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
        body = b"--%b\r\n%bContent-Type: %b\r\n\r\n%b\r\n--%b--\r\n" % (
            BOUNDARY,
            disposition.encode(),
            media_type.encode(),
            photo,
            BOUNDARY,
        )
        content_type = f"multipart/form-data; boundary={BOUNDARY.decode()}"
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n{extra}\r\n"
    )
    return head.encode() + body


def poisson(rate: float, seconds: float, seed: int) -> tuple[float, ...]:
    """When requests are due: exponential gaps of mean 1/rate, until `seconds`."""
    rng = random.Random(seed)
    due = itertools.accumulate(iter(lambda: rng.expovariate(rate), None))
    return tuple(itertools.takewhile(lambda at: at < seconds, due))


def loopback(text: str) -> SplitResult:
    """The parts of a URL on this machine: this client loads no other."""
    url = urlsplit(text)
    if url.scheme != "http" or url.hostname not in ("127.0.0.1", "localhost") or url.port is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not http://127.0.0.1:PORT/...: no other host is loaded"
        )
    return url


# A probe beside the load


def probe(url: SplitResult, seconds: float, pipe: Pipe) -> None:
    """Ask for a path every 50 ms; send [(due_s, latency_s, status or 0), ...] at the end. Its own process, so
    that the load's own work does not count as the server's."""
    began, found, connection = time.monotonic(), [], HTTPConnection("127.0.0.1", url.port or 80, timeout=10)
    for number in range(int(seconds / PROBE_EVERY_S)):
        due = began + number * PROBE_EVERY_S
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            connection.request("GET", url.path)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except OSError:
            connection.close()
            status = 0
        found.append((due - began, time.monotonic() - due, status))
    pipe.send(found)


# What came of it


def percentiles(values: Iterable[float]) -> dict[str, float | int] | None:
    """Nearest rank, in milliseconds; a percentile needs values beyond it, so p99 is absent below 100."""
    ordered = sorted(values)
    if not ordered:
        return None
    found: dict[str, float | int] = {"count": len(ordered)}
    for percent in (50, 90, 99):
        if len(ordered) * (100 - percent) >= 100:
            rank = math.ceil(len(ordered) * percent / 100)
            found[f"p{percent}_ms"] = round(1e3 * ordered[rank - 1], 3)
    found["max_ms"] = round(1e3 * ordered[-1], 3)
    return found


def versions(answers: Iterable[Answer]) -> dict[str, dict[str, float | int]]:
    """Per version, when its answers were asked for and came."""
    found: dict[str, dict[str, float | int]] = {}
    for answer in answers:
        if answer.version:
            seen = found.setdefault(
                answer.version,
                {
                    "answers": 0,
                    "first_sent_s": answer.sent_s,
                    "first_ended_s": answer.ended_s,
                    "last_sent_s": 0.0,
                    "last_ended_s": 0.0,
                },
            )
            seen["answers"] += 1
            for key, value in (("sent_s", answer.sent_s), ("ended_s", answer.ended_s)):
                seen[f"first_{key}"] = min(seen[f"first_{key}"], value)
                seen[f"last_{key}"] = max(seen[f"last_{key}"], value)
    return found


def stale(answers: Sequence[Answer]) -> int:
    """Answers of a version that were asked for after a newer one had answered. Rollbacks count as stale:
    where there are any, hold the --log against the times of the promotions instead."""
    newest: list[tuple[float, tuple[int, ...]]] = []
    best: tuple[int, ...] = ()
    for answer in sorted((each for each in answers if each.version), key=lambda each: each.ended_s):
        if (number := numbered(answer.version)) > best:
            best = number
            newest.append((answer.ended_s, number))
    return sum(
        any(ended < answer.sent_s and numbered(answer.version) < number for ended, number in newest)
        for answer in answers
        if answer.version
    )


def numbered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-")[0].split(".") if part.isdecimal())


def summary(load: Load, cpu_s: float) -> dict[str, object]:
    answers, plan = load.answers, load.plan
    last = max((answer.ended_s for answer in answers), default=0.0)
    accepted = [answer for answer in answers if answer.outcome.startswith("2")]
    times = {
        outcome: [round(answer.ended_s, 4) for answer in answers if answer.outcome == outcome]
        for outcome in {answer.outcome for answer in answers}
    }
    return {
        "mode": "closed" if plan.due_s is None else "open",
        "began": load.began,
        "seconds": round(last, 4),
        "requests": len(answers),
        "outcomes": dict(sorted(Counter(answer.outcome for answer in answers).items())),
        "first_and_last_s": {outcome: [min(at), max(at)] for outcome, at in sorted(times.items())},
        "accepted_per_s": round(len(accepted) / last, 2) if last else 0.0,
        "latency_all": percentiles(answer.ended_s - answer.due_s for answer in answers),
        "latency_accepted": percentiles(answer.ended_s - answer.due_s for answer in accepted),
        "versions": versions(answers),
        "stale_answers": stale(answers),
        "client": {
            "cpu_s": round(cpu_s, 3),
            "late": percentiles(answer.sent_s - answer.due_s for answer in answers),
            "connections_opened": load.opened,
            "closed_idle_by_server": load.closed_idle,
        },
    }


def options_of(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="load for a server on this machine")
    parser.add_argument("--url", type=loopback, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--rate", type=float, help="arrivals per second, open loop")
    what.add_argument("--closed", type=int, metavar="N", help="closed loop with N connections instead")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--raw", action="store_true", help="the photo as the body, not in a form")
    parser.add_argument("--header", action="append", default=[], help="`Name: value`, on every request")
    parser.add_argument("--connections", type=int, default=256, help="at most so many at once, open loop")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds from when a request was due")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--health", type=loopback, help="a path to probe every 50 ms meanwhile")
    parser.add_argument("--log", type=Path, help="write every answer to this file, one JSON line each")
    parser.add_argument("--json", action="store_true", help="print one line")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    options = options_of(words)
    extra = "".join(f"{line}\r\n" for line in options.header)
    plan = Plan(
        port=options.url.port,
        requests=tuple(
            request_of(options.url, path.read_bytes(), raw=options.raw, name=path.name, extra=extra)
            for path in photos_in(options.photos)
        ),
        due_s=poisson(options.rate, options.seconds, options.seed) if options.closed is None else None,
        seconds=options.seconds,
        connections=options.connections if options.closed is None else options.closed,
        timeout_s=options.timeout,
        seed=options.seed,
    )
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    prober = fork.Process(target=probe, args=(options.health, options.seconds, theirs), daemon=True)
    if options.health:
        prober.start()
    gc.disable()
    before, load = time.process_time(), Load(plan)
    load.run()
    found = summary(load, time.process_time() - before)
    if options.health:
        probes = ours.recv()
        prober.join()
        found["health"] = {
            "outcomes": dict(Counter(str(status or "error") for _, _, status in probes)),
            "latency": percentiles(latency for _, latency, _ in probes),
        }
    if options.log:
        with options.log.open("w") as log:
            log.writelines(json.dumps(answer._asdict()) + "\n" for answer in load.answers)
    print(json.dumps(found, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
