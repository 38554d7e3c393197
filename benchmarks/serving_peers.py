"""Side by side with other servers: the same ONNX file, preprocessing, photos and machine, one at a time.

    python benchmarks/serving_peers.py --registry DIR --photos DIR --work FOLDER [--passes 3] [--out FILE.md]

Each peer lives in a virtual environment of its own under --work (made where it is not there) and calls
`workbench.photos.preprocess.preprocess` and an onnxruntime session with one thread, in as many workers as
there are processors, as its documentation advises for a model that uses the CPU. One that does not install
or start is a row with the reason.

A pass takes the servers in random order. Each is started (time until the first prediction), warmed up,
saturated by a closed loop of 16 connections (throughput; CPU time of the process tree per request), loaded
at half of its own throughput with Poisson arrivals (p50, p99) and stopped. Shown are the medians over the
passes. Memory is the proportional set size of the tree after the load.
"""

import argparse
import base64
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import psutil
from openloop import request_of
from serving import ROOT, Bare, load, production, say, small_photos, tree_cpu_s

from workbench.registry.bundle import Bundle
from workbench.system import machine
from workbench.system.packages import versions

CONNECTIONS = 16
START_TIMEOUT_S = 90.0
LIBRARIES = ("onnxruntime", "pillow", "numpy", "pydantic")

COMMON = """
import json, os
import onnxruntime
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import preprocess

NAMES = json.loads(os.environ["BENCH_CLASSES"])

class Classifier:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(
            os.environ["BENCH_ONNX"], options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.contract = Preprocess.model_validate_json(os.environ["BENCH_CONTRACT"])
        self.raw = os.environ["BENCH_RAW"] == "1"

    def __call__(self, data):
        batch = preprocess(data, self.contract, raw=self.raw)
        best = int(self.session.run(None, {self.input: batch})[0][0].argmax())
        return {"class_id": best, "class_name": NAMES[best]}
"""

LITSERVE = """
import os
import litserve
from common import Classifier

class Api(litserve.LitAPI):
    def setup(self, device):
        self.classify = Classifier()
    def decode_request(self, request):
        return request["file"].file.read()
    def predict(self, data):
        return self.classify(data)
    def encode_response(self, output):
        return output

if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=WORKERS, timeout=60, FAST)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False, access_log=False)
"""

BENTOML = """
from pathlib import Path
import bentoml
from common import Classifier

@bentoml.service(workers=WORKERS, traffic={"timeout": 60})
class Leaf:
    def __init__(self):
        self.classify = Classifier()
    @bentoml.api
    def predict(self, file: Path) -> dict:
        return self.classify(file.read_bytes())
"""

MLSERVER = """
import base64
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from common import Classifier

class Leaf(MLModel):
    async def load(self):
        self.classify = Classifier()
        return True
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        found = self.classify(base64.b64decode(payload.inputs[0].data[0]))
        outputs = [
            ResponseOutput(name="class_id", shape=[1], datatype="INT64", data=[found["class_id"]]),
            ResponseOutput(name="class_name", shape=[1], datatype="BYTES", data=[found["class_name"]]),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""

RAY = """
import signal
import ray
from ray import serve
from starlette.requests import Request
from common import Classifier

@serve.deployment(num_replicas=WORKERS, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=100)
class Leaf:
    def __init__(self):
        self.classify = Classifier()
    async def __call__(self, request: Request) -> dict:
        form = await request.form()
        return self.classify(await form["file"].read())

if __name__ == "__main__":
    ray.init(num_cpus=WORKERS, include_dashboard=False, object_store_memory=200_000_000,
             _node_ip_address="127.0.0.1", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Leaf.bind(), route_prefix="/predict")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare.

    packages: to install; none where it is ours. files: what it is started from; PORT and WORKERS are filled
    in. settings: what was chosen for it, in words. v2: asked by the inference protocol, the photo in base64.
    """

    name: str
    packages: tuple[str, ...]
    files: Mapping[str, str]
    command: tuple[str, ...]
    settings: str
    path: str = "/predict"
    v2: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


OURS = "krishi-bench"
PEERS = (
    Peer(OURS, (), {}, ("-m", "serve"), "as it comes: one process, the bundle's threads"),
    Peer(
        "LitServe",
        ("litserve", "python-multipart"),
        {"app.py": LITSERVE.replace("FAST", "")},
        ("app.py",),
        "`workers_per_device` = processors, its default of as many HTTP processes",
    ),
    Peer(
        "LitServe, fast queue",
        ("litserve", "python-multipart"),
        {"app.py": LITSERVE.replace("FAST", "fast_queue=True")},
        ("app.py",),
        "the same with `fast_queue=True` (ZeroMQ)",
    ),
    Peer(
        "BentoML",
        ("bentoml",),
        {"app.py": BENTOML},
        ("-m", "bentoml", "serve", "app:Leaf", "--host", "127.0.0.1", "--port", "PORT", "--quiet"),
        "`workers` = processors, production mode; the photo as a `Path`",
        environment={"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Peer(
        "MLServer",
        ("mlserver", "uvloop<0.22"),  # 1.7.1 asks for a loop that newer ones no longer make
        {
            "leaf.py": MLSERVER,
            "settings.json": '{"host": "127.0.0.1", "http_port": PORT, "grpc_port": GRPC, '
            '"metrics_port": METRICS, "parallel_workers": WORKERS, "debug": false}',
            "model-settings.json": '{"name": "leaf", "implementation": "leaf.Leaf"}',
        },
        ("-m", "mlserver.cli.main", "start", "."),
        "`parallel_workers` = processors, `debug` off; V2 request with the JPEG in base64",
        path="/v2/models/leaf/infer",
        v2=True,
    ),
    Peer(
        "Ray Serve",
        ("ray[serve]", "python-multipart"),
        {"app.py": RAY},
        ("app.py",),
        "`num_replicas` = processors, 1 CPU each, throughput-optimised, no dashboard",
        environment={
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
        },
    ),
)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass found of one server."""

    start_s: float
    per_s: float
    cpu_each_s: float
    p50_ms: float
    p99_ms: float | None
    pss_bytes: int


# Environments and processes


class Failed(Exception):
    """Why a peer has no numbers."""


def environment_of(peer: Peer, work: Path) -> Path:
    """The interpreter of a peer's environment, made where it is not there. Raises Failed."""
    if not peer.packages:
        return Path(sys.executable)
    folder = work / peer.packages[0].partition("[")[0]
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        say(f"{peer.name}: installing into {folder}")
        wanted = [f"{name}=={version}" for name, version in versions(*LIBRARIES).items()]
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *peer.packages, *wanted],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Failed(f"does not install: {done.stderr.strip().splitlines()[-1]}")
        (folder / "installed").touch()
    return python


def version_of(peer: Peer, python: Path) -> str:
    if not peer.packages:
        return ""
    name = peer.packages[0].partition("[")[0]
    code = f"import importlib.metadata; print(importlib.metadata.version({name!r}))"
    return subprocess.run(
        [str(python), "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def started(
    peer: Peer, python: Path, bundle: Bundle, registry: Path, folder: Path
) -> Iterator[tuple[Any, str]]:
    """The server's process and URL. It is not ready yet; its whole process tree is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = free_port()
    words = {"PORT": str(port), "GRPC": str(free_port()), "METRICS": str(free_port())}
    words["WORKERS"] = str(len(machine.available_cpus()))
    (folder / "common.py").write_text(COMMON)
    for name, text in peer.files.items():
        for word, value in words.items():
            text = text.replace(word, value)
        (folder / name).write_text(text)
    manifest = bundle.manifest
    environment = {
        **os.environ,
        **peer.environment,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{folder}",
        "OMP_NUM_THREADS": "1",
        "KRISHI_REGISTRY": str(registry.resolve()),
        "KRISHI_MODEL": manifest.name,
        "KRISHI_PORT": str(port),
        "BENCH_ONNX": str(bundle.artifact.path.resolve()),
        "BENCH_CONTRACT": manifest.preprocess.model_dump_json(),
        "BENCH_RAW": str(int(manifest.artifact.pixels)),
        "BENCH_CLASSES": json.dumps(manifest.class_names),
    }
    command = [str(python), *(words.get(word, word) for word in peer.command)]
    with (folder / "log.txt").open("wb") as log:
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield process, f"http://127.0.0.1:{port}{peer.path}"
    finally:
        end(process)


def end(process: psutil.Popen) -> None:
    """SIGTERM, and SIGKILL for whatever of the tree is left after 15 s."""
    tree: list[psutil.Process] = [process]
    with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        tree += process.children(recursive=True)
        process.terminate()
        process.wait(15)
    for each in psutil.wait_procs(tree, timeout=2)[1]:
        each.kill()


def wait_until_ready(process: psutil.Popen, url: str, request: bytes, folder: Path) -> None:
    """Until a photo is answered. Raises Failed with the log's last line."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    headers = dict(line.split(": ", 1) for line in lines)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(Request(url, data=body, headers=headers), timeout=10) as response:
                json.load(response)
            return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.02)
    log = (folder / "log.txt").read_text(errors="replace").strip().splitlines() or ["it says nothing"]
    raise Failed(f"does not answer: {log[-1][:200]}")


def pss_bytes(process: psutil.Popen) -> int:
    """Proportional set size of the process tree: what several share counts once."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            text = Path(f"/proc/{each.pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total


# Measuring


def bodies(photos: Path, folder: Path) -> Path:
    """The photos as requests of the V2 protocol, in base64."""
    folder.mkdir()
    for path in sorted(photos.iterdir()):
        tensor = {
            "name": "image",
            "shape": [1],
            "datatype": "BYTES",
            "data": [base64.b64encode(path.read_bytes()).decode()],
        }
        (folder / f"{path.stem}.json").write_text(json.dumps({"inputs": [tensor]}))
    return folder


def measured(peer: Peer, python: Path, bundle: Bundle, options: argparse.Namespace, scratch: Path) -> Pass:
    """One pass of one server. Raises Failed."""
    source = scratch / ("v2" if peer.v2 else "photos")
    sample = sorted(source.iterdir())[0]
    folder, began = scratch / "server", time.monotonic()
    with started(peer, python, bundle, options.registry, folder) as (process, url):
        request = request_of(urlsplit(url), sample.read_bytes(), raw=peer.v2, name=sample.name)
        wait_until_ready(process, url, request, folder)
        start_s = time.monotonic() - began
        raw = ["--raw"] if peer.v2 else []
        closed = ("--closed", str(CONNECTIONS))
        load(url, source, *closed, "--seconds", "3", *raw)
        before = tree_cpu_s(process)
        full = load(url, source, *closed, "--seconds", str(options.seconds), *raw)
        cpu_s = tree_cpu_s(process) - before
        half = load(url, source, "--rate", str(full["accepted_per_s"] / 2), "--seconds", "10", *raw)
        memory = pss_bytes(process)
    for each in (full, half):
        if list(each["outcomes"]) != ["200"]:
            raise Failed(f"not every request was answered: {each['outcomes']}")
    latency = half["latency_all"]
    return Pass(
        start_s,
        full["accepted_per_s"],
        cpu_s / full["requests"],
        latency["p50_ms"],
        latency.get("p99_ms"),
        memory,
    )


def row(name: str, found: Sequence[Pass], settings: str) -> str:
    def of(attribute: str, scale: float, digits: int) -> str:
        values = [value for each in found if (value := getattr(each, attribute)) is not None]
        return f"{scale * median(values):.{digits}f}" if values else ""

    cells = (
        name,
        of("per_s", 1, 0),
        of("p50_ms", 1, 1),
        of("p99_ms", 1, 1),
        of("cpu_each_s", 1e3, 2),
        of("pss_bytes", 1e-6, 0),
        of("start_s", 1, 1),
        settings,
    )
    return f"| {' | '.join(cells)} |"


def table(
    bundle: Bundle,
    found: Mapping[str, Sequence[Pass]],
    failures: Mapping[str, str],
    names: Mapping[str, str],
    loops: Sequence[tuple[float, float]],
    options: argparse.Namespace,
) -> str:
    here, manifest = machine.collect(), bundle.manifest
    lines = [
        f"## Side by side: {manifest.name}, {manifest.preprocess.crop} px\n",
        f"{datetime.now(UTC):%Y-%m-%d}, {here.cpu}, {here.cores} cores, Python {here.python}; "
        + ", ".join(f"{name} {version}" for name, version in versions(*LIBRARIES).items())
        + f". Medians of {options.passes} passes, servers in random order. JPEG photos of 256 px.\n",
        "| server | photos/s at saturation | p50 at half, ms | p99 at half, ms | CPU a photo, ms | PSS, MB "
        "| start, s | settings |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    if loops:
        per_s, cpu = median(each[0] for each in loops), 1e3 * median(each[1] for each in loops)
        lines.append(
            f"| the same work in a bare loop | {per_s:.0f} | | | {cpu:.2f} | | | no server: "
            f"{manifest.runtime.sessions} threads, no client beside them |"
        )
    for peer in PEERS:
        if found.get(peer.name):
            lines.append(row(names[peer.name], found[peer.name], peer.settings))
        elif peer.name in failures:
            lines.append(f"| {names.get(peer.name, peer.name)} | | | | | | | {failures[peer.name]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="side by side with other servers")
    parser.add_argument("--registry", type=Path, required=True, help="with a production version, ONNX")
    parser.add_argument("--photos", type=Path, required=True, help="a folder")
    parser.add_argument("--work", type=Path, required=True, help="for virtual environments; kept")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of saturation in each pass")
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bundle = production(options.registry)
    if bundle.manifest.artifact.format != "onnx":
        sys.exit("error: the production version is not an ONNX file, so no peer can open it")
    options.work.mkdir(parents=True, exist_ok=True)
    pythons: dict[str, Path] = {}
    names, failures = {}, {}
    for peer in PEERS:
        if options.only and peer.name not in options.only:
            continue
        try:
            pythons[peer.name] = environment_of(peer, options.work.resolve())
            names[peer.name] = f"{peer.name} {version_of(peer, pythons[peer.name])}".strip()
        except Failed as error:
            failures[peer.name] = str(error)
    rng = random.Random(0)
    found: dict[str, list[Pass]] = {name: [] for name in pythons}
    loops: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as text:
        scratch = Path(text)
        photos = small_photos(options.photos, scratch / "photos")
        bodies(scratch / "photos", scratch / "v2")
        for number in range(options.passes):
            loop = Bare(options.registry, photos, bundle.manifest.preprocess)
            loop(1.0)
            reading = loop(options.seconds)
            loop.stop()
            loops.append((reading.per_s, reading.cpu_each_s))
            todo = [peer for peer in PEERS if peer.name in pythons and peer.name not in failures]
            for peer in rng.sample(todo, len(todo)):
                try:
                    found[peer.name].append(measured(peer, pythons[peer.name], bundle, options, scratch))
                    say(f"pass {number + 1}: {peer.name}: {found[peer.name][-1]}")
                except Failed as error:
                    failures[peer.name] = str(error)
                    say(f"{peer.name}: {error}")
    report = table(bundle, found, failures, names, loops, options)
    print(report)
    if options.out:
        options.out.write_text(report)


if __name__ == "__main__":
    main()
