"""Promotions and restarts under load: replicas behind nginx, and not one request lost.

    python benchmarks/rolling_promotion.py [--replicas 4] [--promotions 10] [--rate 60] [--out FILE.md]

Each replica is a server process on one registry, as a pod is. Through nginx goes an open loop of photos
(openloop.py). One after the other, versions are published and the alias is pointed at them; a promotion is
done when `/readyz` of every replica names the version. After each, one replica is stopped (SIGTERM, with its
drain delay) and started again, as when its node is drained. A request has failed that did not end with 200.

Then the throughput of one to that many replicas, closed loop, with the processors of this machine.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402 - the tests' builders are in the checkout, not in the package

from tests.serving import encoded, noise, publish  # noqa: E402
from workbench.registry.store import Registry  # noqa: E402

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.txt;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream replicas {{ {servers} keepalive 64; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            # A replica that is stopping says so (503), or is gone: the photo goes to the next.
            proxy_next_upstream error timeout http_503 non_idempotent;
        }}
    }}
}}
"""
DRAIN_S = "1"
READY_S = 60.0


@dataclass(slots=True)
class Replica:
    """A server on a port of its own, which can be started again."""

    port: int
    registry: Path
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        environment = {
            **os.environ,
            "KRISHI_REGISTRY": str(self.registry),
            "KRISHI_PORT": str(self.port),
            "KRISHI_DRAIN_DELAY": DRAIN_S,
            "OMP_NUM_THREADS": "1",
        }
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "serve"]
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, stdout=log)

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(60)

    def version(self) -> str | None:
        """That `/readyz` names; None where it is not ready."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5, verify=False)
        except httpx.HTTPError:
            return None
        return str(answer.json()["version"]) if answer.status_code == 200 else None

    def wait_for(self, version: str) -> None:
        deadline = time.monotonic() + READY_S
        while self.version() != version:
            if time.monotonic() > deadline:
                raise SystemExit(f"the replica on port {self.port} never served {version}: see {self.log}")
            time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def nginx(replicas: Sequence[Replica], port: int, folder: Path) -> Iterator[None]:
    servers = " ".join(f"server 127.0.0.1:{each.port} max_fails=1 fail_timeout=1s;" for each in replicas)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, servers=servers, port=port))
    process = subprocess.Popen(["nginx", "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait()


def load(port: int, photo: Path, *words: str) -> "subprocess.Popen[str]":
    """openloop.py on the server behind a port; its one line of JSON on stdout."""
    url = f"http://127.0.0.1:{port}/predict"
    command = [sys.executable, str(ROOT / "benchmarks" / "openloop.py"), "--url", url, "--photos", str(photo)]
    return subprocess.Popen([*command, "--json", *words], stdout=subprocess.PIPE, text=True)


def promoted(replicas: Sequence[Replica], registry: Path, count: int) -> list[tuple[str, float]]:
    """The versions, with the seconds from the move of the alias to the last replica that names it."""
    found = []
    for number in range(1, count + 1):
        version = f"1.0.{number}"
        publish(registry, version=version, seed=number, alias=None)
        began = time.monotonic()
        Registry(registry).point("leaf", "production", version, reason="benchmark", expected=None)
        for replica in replicas:
            replica.wait_for(version)
        found.append((version, time.monotonic() - began))
        restarted = replicas[number % len(replicas)]
        restarted.stop()
        restarted.start()
        restarted.wait_for(version)
    return found


def throughput(replicas: Sequence[Replica], photo: Path, folder: Path, seconds: float) -> dict[int, float]:
    """Photos a second by the number of replicas that nginx knows."""
    found = {}
    for count in range(1, len(replicas) + 1):
        (port,) = free_ports(1)
        with nginx(replicas[:count], port, folder):
            done = load(port, photo, "--closed", "16", "--seconds", str(seconds)).communicate()[0]
        found[count] = float(json.loads(done)["accepted_per_s"])
    return found


def loads(port: int, photo: Path, rate: float, done: Event) -> dict[str, int]:
    """How the requests ended of one load after the other, until `done` is set."""
    outcomes: Counter[str] = Counter()
    while not done.is_set():
        client = load(port, photo, "--rate", str(rate), "--seconds", "20")
        outcomes.update(json.loads(client.communicate()[0])["outcomes"])
    return dict(outcomes)


def page(
    outcomes: dict[str, int], versions: list[tuple[str, float]], rates: dict[int, float], count: int
) -> str:
    requests, answered = sum(outcomes.values()), outcomes.get("200", 0)
    slowest_s, moves = max(seconds for _, seconds in versions), len(versions)
    failed = requests - answered
    headings = "| replicas | promotions | restarts | requests | failed | slowest promotion |"
    lines = [
        headings,
        f"| {'--- | ' * 6}".rstrip(),
        f"| {count} | {moves} | {moves} | {requests:,} | {failed} | {slowest_s:.1f} s |",
        "",
        f"| replicas | photos a second |\n| {'--- | ' * 2}".rstrip(),
        *(f"| {number} | {rate:.0f} |" for number, rate in rates.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="promotions and restarts under load, behind nginx")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--promotions", type=int, default=10)
    parser.add_argument("--rate", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if shutil.which("nginx") is None:
        raise SystemExit("nginx is not installed: apt-get install nginx-light")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photo.jpg").write_bytes(encoded(noise(1)))
        registry = folder / "registry"
        publish(registry, version="1.0.0")
        *ports, front = free_ports(options.replicas + 1)
        replicas = [Replica(port, registry, folder / f"{port}.txt") for port in ports]
        try:
            for replica in replicas:
                replica.start()
            for replica in replicas:
                replica.wait_for("1.0.0")
            with nginx(replicas, front, folder), ThreadPoolExecutor(1) as pool:
                done = Event()
                loaded = pool.submit(loads, front, folder / "photo.jpg", options.rate, done)
                try:
                    versions = promoted(replicas, registry, options.promotions)
                finally:
                    done.set()
                outcomes = loaded.result()
            rates = throughput(replicas, folder / "photo.jpg", folder, 10.0)
        finally:
            for replica in replicas:
                if replica.process is not None and replica.process.poll() is None:
                    replica.stop()
        text = page(outcomes, versions, rates, options.replicas)
        print(text, json.dumps(outcomes))
        if options.out:
            options.out.write_text(text)


if __name__ == "__main__":
    main()
