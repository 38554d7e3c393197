"""Everybody's artifact of one model: that of other tools, and ours."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peers_arena import FP32, OURS, Arena, Entry, say

from workbench.backends import RUNTIME
from workbench.backends.artifact import Artifact, ArtifactCache, ArtifactInfo, Companion
from workbench.backends.table import BACKENDS
from workbench.errors import WorkbenchError
from workbench.model.graph.onnx_file import artifact_info
from workbench.photos import dataset
from workbench.results import folder
from workbench.results.verdict import compare
from workbench.system.files import digest_of, sha256_bytes, sha256_file
from workbench.workspace.recipe import shipped
from workbench.workspace.workspace import load

QUANTISERS = Path(__file__).with_name("peer_quantisers.py")
Search = Literal["tune", "run", "latest"]
PEER_LIBRARIES = ("onnxruntime", "olive-ai", "optimum-onnx", "torch", "onnx")


@dataclass(frozen=True, slots=True)
class Peer:
    """name: in the table. quantiser: in peer_quantisers.py. apart: in the environment of --peer-env."""

    name: str
    quantiser: str
    apart: bool = False
    runtime: str = "onnxruntime"


PEERS = (
    Peer("onnxruntime quantize_dynamic, QInt8", "ort_dynamic"),
    Peer("onnxruntime quantize_static, defaults", "ort_static"),
    Peer("NNCF quantize, ONNX", "nncf_onnx"),
    Peer("NNCF quantize, OpenVINO", "nncf_openvino", runtime="openvino"),
    Peer("optimum avx512_vnni, as documented", "optimum_avx512", apart=True),
    Peer("optimum avx512_vnni, per channel", "optimum_avx512_per_channel", apart=True),
    Peer("Olive OnnxStaticQuantization", "olive_static", apart=True),
)


def from_peer(arena: Arena, peer: Peer, photos: Path, environment: Path | None, timeout_s: float) -> Entry:
    """Let the tool quantise, in its environment; what it made before of the same files is taken again."""
    if peer.runtime not in BACKENDS:
        raise WorkbenchError(f"krishi-bench has no backend `{peer.runtime}` to measure it with")
    source = arena.entries[FP32].artifact
    python = sys.executable
    if peer.apart:
        if environment is None:
            raise WorkbenchError("no environment was given for it (--peer-env)")
        python = str(environment.absolute() / "bin" / "python")
    key = digest_of([source.digest, photos.name, sha256_file(QUANTISERS), python])[:12]
    folder = arena.folder / f"{peer.quantiser}-{key}"
    done = folder / "done.json"
    if not done.exists():
        say(f"  {peer.name} …")
        started = time.monotonic()
        command = [python, str(QUANTISERS), peer.quantiser, str(source.path), str(photos), str(folder)]
        quantise(command, folder.with_suffix(".txt"), timeout_s)
        done.write_text(json.dumps(time.monotonic() - started))
    runtime = RUNTIME.validate_python({"backend": peer.runtime})
    artifact = adopted(folder, peer.runtime, source.info)
    return Entry(
        peer.name, "peer", artifact, runtime, arena.prepared.job.photos, json.loads(done.read_text())
    )


def quantise(command: Sequence[str], log: Path, timeout_s: float) -> None:
    """Raises WorkbenchError with the last line it said."""
    with log.open("w") as output:
        try:
            ended = subprocess.run(command, stdout=output, stderr=output, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            raise WorkbenchError(f"took longer than {timeout_s:g} s") from None
        except OSError as error:
            raise WorkbenchError(f"{command[0]} cannot be started: {error.strerror}") from error
    if ended.returncode:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise WorkbenchError(f"exit code {ended.returncode}: {lines[-1] if lines else 'it said nothing'}")


def adopted(folder: Path, runtime: str, source: ArtifactInfo) -> Artifact:
    """The tool's files as an artifact."""
    if runtime != "openvino":
        return Artifact(folder, artifact_info(folder / "model.onnx"))
    model, weights = ((folder / f"model.{suffix}").read_bytes() for suffix in ("xml", "bin"))
    info = ArtifactInfo(
        format="openvino",
        file="model.xml",
        sha256=sha256_bytes(model),
        size_bytes=len(model),
        precision="int8",
        input_shape=source.input_shape,
        classes=source.classes,
        companions=(Companion(file="model.bin", sha256=sha256_bytes(weights), size_bytes=len(weights)),),
    )
    return Artifact(folder, info)


def peer_libraries(folder: Path) -> dict[str, str]:
    """Of the environment of --peer-env, as its tools said when they ran."""
    apart = [peer.quantiser for peer in PEERS if peer.apart]
    said = [path for name in apart for path in folder.glob(f"{name}-*/versions.json")]
    newest = max(said, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        return {}
    found: dict[str, str] = json.loads(newest.read_text())
    return {name: found[name] for name in PEER_LIBRARIES if name in found}


def search(folder: Path, how: Search, minutes: float) -> float | None:
    """Let krishi-bench find its best; its run is the latest of the workspace's results afterwards."""
    if how == "latest":
        return None
    program = [sys.executable, "-c", "from workbench.cli import main; main()"]
    command = {
        "tune": ["tune", "--workspace", str(folder), "--budget", f"{minutes:g}m"],
        "run": ["run", str(shipped()), "--workspace", str(folder), "--time-budget", f"{60 * minutes:g}"],
    }[how]
    say(f"  krishi-bench {' '.join(command)} …")
    started = time.monotonic()
    before = {run.run_id for run in folder.runs(load(folder / "krishi.yaml").results)}
    ended = subprocess.run([*program, *command], stdout=subprocess.DEVNULL, stderr=None, check=False)
    after = {run.run_id for run in folder.runs(load(folder / "krishi.yaml").results)}
    # 1: it ran, and nothing fits the budget.
    if ended.returncode not in (0, 1) or after == before:
        left = "left no run" if after == before else "failed"
        raise WorkbenchError(f"`krishi-bench {command[0]}` {left} (exit code {ended.returncode})")
    return time.monotonic() - started


def from_us(arena: Arena) -> Entry:
    """The winner of the latest run; the baseline where nothing fits the budget, as the tool then says."""
    prepared = arena.prepared
    run = folder.find_run(prepared.workspace.results, None)
    info, trials = run.info(), {trial.variant: trial for trial in run.trials()}
    chosen = compare(info, list(trials.values())).winner or info.baseline
    trial = trials[chosen]
    artifact = ArtifactCache(prepared.job.cache).find(trial.artifact_key or "")
    if artifact is None:
        raise WorkbenchError(f"the cache no longer has what run {info.run_id} built as {chosen}")
    contract = trial.preprocess or info.preprocess
    images = prepared.job.photos
    if contract != images.contract:
        images = dataset.load(
            prepared.validation,
            contract,
            prepared.job.cache,
            field="data.validation",
            progress=lambda *_: None,
        )
    say(f"  {OURS}: {chosen}")
    return Entry(OURS, "ours", artifact, info.runtimes[chosen], images, trial.build_s, chosen)
