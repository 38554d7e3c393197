"""Records of runs and versions, and tiny networks: every value has a default that a test can replace."""

import hashlib
import math
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from workbench.backends import NullRuntime, OrtRuntime
from workbench.backends.artifact import Artifact, ArtifactInfo
from workbench.errors import WorkbenchError
from workbench.measure.records import Accuracy, Latency
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.registry.manifest import Draft, Golden, Provenance
from workbench.results.records import Budget, RunInfo, TrialResult
from workbench.system.machine import Machine

MACHINE = Machine(
    cpu="Test CPU @ 2.00GHz",
    architecture="x86_64",
    cores=4,
    memory_bytes=8 * 2**30,
    gpus=(),
    system="Linux 6.1",
    python="3.12.1",
)
CONTRACT = Preprocess(resize=10, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
IMAGES = 1000
CORRECT = 970
BASELINE_NS = 10e6
# The fixture `once`: a folder's name and what fills it, to that folder.
Once = Callable[[str, Callable[[Path], object]], Path]


def counts(losses: int = 0, gains: int = 0, images: int = IMAGES, correct: int = CORRECT) -> Accuracy:
    """One class. losses, gains: against a baseline that gets `correct` photos right."""
    right = correct - losses + gains
    return Accuracy(
        images=images,
        correct=right,
        correct_top5=None,
        macro_f1=right / images,
        class_images=(images,),
        class_correct=(right,),
        losses=losses,
        gains=gains,
        class_losses=(losses,),
        class_gains=(gains,),
    )


def per_class(images: Sequence[int], losses: Sequence[int], gains: Sequence[int]) -> Accuracy:
    """A count per class, against a baseline that gets everything right that is not gained."""
    return Accuracy(
        images=sum(images),
        correct=sum(images) - sum(losses),
        correct_top5=None,
        macro_f1=0.9,
        class_images=tuple(images),
        class_correct=tuple(n - lost for n, lost in zip(images, losses, strict=True)),
        losses=sum(losses),
        gains=sum(gains),
        class_losses=tuple(losses),
        class_gains=tuple(gains),
    )


def trial(
    variant: str,
    *,
    speedup: float = 1.0,
    rounds: Sequence[float] | None = None,
    losses: int = 0,
    gains: int = 0,
    images: int = IMAGES,
    correct: int = CORRECT,
    size_mb: float = 8.0,
    **more: Any,
) -> TrialResult:
    """A measured trial. rounds: speed-ups of the rounds; six equal ones by default.

    losses, gains: against a baseline that gets `correct` photos right.
    """
    speedups = [speedup] * 6 if rounds is None else list(rounds)
    middle = sorted(speedups)[len(speedups) // 2]
    latency = Latency(
        batch_size=1,
        samples=300,
        mean_ns=BASELINE_NS / middle * 1.05,
        p50_ns=BASELINE_NS / middle,
        p90_ns=BASELINE_NS / middle * 1.1,
        p95_ns=BASELINE_NS / middle * 1.2,
        p99_ns=BASELINE_NS / middle * 1.3,
        cold_p50_ns=BASELINE_NS / middle * 1.5,
        round_log_ratios=tuple(-math.log(s) for s in speedups),
        settled=True,
    )
    values: dict[str, Any] = {
        "variant": variant,
        "recipe": variant.partition("[")[0],
        "digest": hashlib.sha256(variant.encode()).hexdigest(),
        "status": "ok",
        "backend": "onnxruntime",
        "device": "cpu",
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "opset": 18,
        "precision": "fp32",
        "size_bytes": round(size_mb * 1e6),
        "load_s": 0.05,
        "peak_memory_bytes": 40_000_000,
        "accuracy": counts(losses, gains, images, correct),
        "latency": latency,
    }
    return TrialResult(**{**values, **more})


def absent_trial(variant: str, status: str, reason: str) -> TrialResult:
    """A trial that was not measured."""
    absent = ("opset", "size_bytes", "load_s", "peak_memory_bytes", "accuracy", "latency")
    return trial(variant, status=status, reason=reason, **dict.fromkeys(absent))


def run_info(**more: Any) -> RunInfo:
    values: dict[str, Any] = {
        "run_id": "20260102-030405",
        "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "arguments": ("run", "recipes"),
        "name": "leaves",
        "workspace": "/data/leaves/krishi.yaml",
        "machine": MACHINE,
        "libraries": {"numpy": "2.0.0"},
        "checkpoint_digest": "c" * 64,
        "validation_digest": "d" * 64,
        "validation_images": IMAGES,
        "calibration_digest": None,
        "class_names": ("rust", "scab"),
        "preprocess": Preprocess(resize=32, crop=28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        "budget": Budget(),
        "baseline": "baseline",
        "runtimes": {"baseline": OrtRuntime()},
        "noise_floor": 0.02,
    }
    return RunInfo(**{**values, **more})


def artifact_info(model: bytes = b"weights", **more: Any) -> ArtifactInfo:
    """Of a file that the null backend opens."""
    values: dict[str, Any] = {
        "format": "null",
        "file": "model.bin",
        "sha256": hashlib.sha256(model).hexdigest(),
        "size_bytes": len(model),
        "input_shape": (0, 3, 8, 8),
        "classes": 3,
    }
    return ArtifactInfo(**{**values, **more})


def draft(version: str = "1.0.0", *, model: bytes = b"weights", **more: Any) -> Draft:
    """The manifest of a version before it is published."""
    values: dict[str, Any] = {
        "name": "leaf",
        "version": version,
        "created_at": datetime(2026, 1, 2, tzinfo=UTC),
        "artifact": artifact_info(model),
        "runtime": NullRuntime(),
        "class_names": ("rust", "scab", "well"),
        "preprocess": CONTRACT,
        "golden": Golden(file="golden.npz", images=2, atol=1e-3),
        "measured": trial("fp32", backend="null"),
        "machine": MACHINE,
        "provenance": Provenance(
            run_id="20260102-000000",
            variant="fp32",
            variant_digest="0" * 64,
            checkpoint_digest="c" * 64,
            validation_digest="d" * 64,
            calibration_digest=None,
            libraries={},
            forced=None,
        ),
    }
    return Draft(**{**values, **more})


def onnx_model(
    nodes: Sequence[Any],
    weights: Mapping[str, ArrayLike],
    images: tuple[str, Sequence[int | str]],
    logits: tuple[str, Sequence[int | str]],
    *,
    opset: int = 17,
    doc: str = "",
) -> Any:
    """A checked ModelProto. weights: floating-point ones are stored in float32. images, logits: name and
    shape; a word as a size: it is free."""
    from onnx import TensorProto, checker, helper, numpy_helper

    arrays = {name: np.asarray(value) for name, value in weights.items()}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(images[0], TensorProto.FLOAT, images[1])],
        [helper.make_tensor_value_info(logits[0], TensorProto.FLOAT, logits[1])],
        [
            numpy_helper.from_array(a.astype(np.float32) if a.dtype.kind == "f" else a, name)
            for name, a in arrays.items()
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, doc_string=doc
    )
    checker.check_model(model)
    return model


def small_classifier(folder: Path, side: int, classes: int, channels: int) -> Artifact:
    """Convolution, pooling, matrix product, with a free batch: nodes `conv`, `relu`, `pool`, `flat`, `fc`."""
    import onnx

    from workbench.model.graph.onnx_file import artifact_info

    node, rng = onnx.helper.make_node, np.random.default_rng(1)
    weights = {"w0": rng.normal(size=(channels, 3, 3, 3)), "w1": rng.normal(size=(classes, channels))}
    nodes = [
        node("Conv", ["x", "w0"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], name="relu"),
        node("GlobalAveragePool", ["b"], ["c"], name="pool"),
        node("Flatten", ["c"], ["d"], name="flat"),
        node("Gemm", ["d", "w1"], ["y"], name="fc", transB=1),
    ]
    model = onnx_model(nodes, weights, ("x", ["n", 3, side, side]), ("y", ["n", classes]))
    onnx.save(model, folder / "model.onnx")
    return Artifact(folder, artifact_info(folder / "model.onnx"))


def exported(network: Any, path: Path, side: int, *, batch: int = 0, **fields: Any) -> Path:
    """A torch network of (N, 3, side, side) as ONNX. batch: 0 for a free one; fields: of `Export`."""
    from workbench.model.export.export import export_onnx
    from workbench.model.export.settings import Export

    settings = {"exporter": "torchscript", "opset": 17, "dynamic_batch": batch == 0, **fields}
    samples = np.zeros((batch or 2, 3, side, side), np.float32)
    export_onnx(network.eval(), Export.model_validate(settings), path, (batch or 1, 3, side, side), samples)
    return path


def mobile_network(classes: int) -> Any:
    """In torch: hard-swish, a depthwise and a pointwise convolution, a pool and a linear layer."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.Hardswish(),
        nn.Conv2d(16, 16, 3, 1, 1, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def train(network: Any, photos: Images, rate: float) -> Any:
    """Teach a torch network the photos, so that agreement with it means something."""
    import torch

    batch, wanted = torch.from_numpy(next(photos.batches(len(photos)))), torch.tensor(photos.labels)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(batch), wanted).backward()
        optimizer.step()
    return network.eval()


def smooth_photos(folder: Path, count: int, contract: Preprocess) -> Images:
    """Coloured noise of 4 x 4 fields, each photo of a class of its own."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    fine = coarse.repeat(contract.crop // 4, axis=1).repeat(contract.crop // 4, axis=2)
    np.save(folder / "pixels.npy", fine)
    return Images(folder / "pixels.npy", tuple(range(count)), contract, "digest")


def coloured_photos(folder: Path, count: int, classes: int, contract: Preprocess, spread: float) -> Images:
    """Noise around one colour per class. spread: its standard deviation, of 255."""
    rng, side = np.random.default_rng(0), contract.crop
    labels = np.arange(count) * classes // count
    colours = rng.integers(40, 216, (classes, 1, 1, 3))
    pixels = colours[labels] + rng.normal(0, spread, (count, side, side, 3))
    np.save(folder / "pixels.npy", np.clip(pixels, 0, 255).astype(np.uint8))
    return Images(folder / "pixels.npy", tuple(labels.tolist()), contract, "digest")


def checked(
    workspace: Path, recipes: Sequence[Path], build_timeout_s: float = 900.0
) -> dict[str, TrialResult]:
    """The baseline and these recipes, built and checked in a new run of the workspace but not timed, by name.

    workspace: its `krishi.yaml`. Raises WorkbenchError where the baseline cannot be measured.
    """
    from workbench.results.folder import RunFolder
    from workbench.run import pipeline
    from workbench.run.prepare import prepare
    from workbench.system.progress import Progress, silent
    from workbench.workspace import recipe
    from workbench.workspace.workspace import load

    loaded = load(workspace)
    options, stage = pipeline.Options(build_timeout_s=build_timeout_s), Progress("checking", 0, 0)
    prepared = prepare(loaded, silent, calibrate=True)
    context, baseline = pipeline.begin(prepared, RunFolder.create(loaded.results), options, silent)
    found = [pipeline.checked(context, variant, stage) for variant in recipe.load(recipes)]
    return {trial.variant: trial for trial in (baseline, *found)}


def error_of(call: Callable[[], object]) -> WorkbenchError:
    """The error that a call raises."""
    with pytest.raises(WorkbenchError) as caught:
        call()
    return caught.value


@contextmanager
def small_disk(folder: Path, size_kb: int) -> Iterator[Path]:
    """A file system of this size, mounted on a new folder."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "none", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small disk did not work: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
