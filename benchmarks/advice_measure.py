"""Speeds of variants of one network against its plain FP32 export: what the advisor's rules are fitted on.

    python benchmarks/advice_measure.py FILE timm:resnet18 timm:ghostnet_100@128 plain:vgg sample:96

A line of JSON is added to FILE for each network that is not in it. The number is of pixels. Weights are
random: they do not decide the speed. Baseline and variant take turns, in one process, on one thread; of the
processor time of all their calls the 5 % quantile counts, so that other programs on the machine count little.
"""

import gc
import json
import sys
import time
import warnings
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from zoo_networks import CLASSES, _settle, _timm, _transformers

from workbench import steps
from workbench.backends import RUNTIME, Infer, Runtime, backend_of
from workbench.backends.artifact import Artifact
from workbench.errors import WorkbenchError
from workbench.model.export.settings import Export
from workbench.model.export.torch_exporters import write_onnx
from workbench.model.graph.facts import facts_of
from workbench.model.graph.onnx_file import artifact_info, load
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.steps.fp16.settings import Fp16
from workbench.steps.int8.settings import DynamicInt8, StaticInt8
from workbench.steps.nncf.settings import NncfInt8
from workbench.steps.simplify import Simplify, simplify
from workbench.system import machine
from workbench.system.child import call
from workbench.system.packages import versions

PHOTOS, SMALL = 8, 0.57
OPENINGS, TURNS, BURST_S, LONG_S = 2, 5, 0.02, 0.1
UNDISTURBED = 0.05
EVERY_SIZE = ("fp32", "int8", "ov-f32", "ov-bf16")
OWN_SIZE = ("fp16", "dynamic", "dynamic-uint8", "ov-int8")
RUNTIMES: dict[str, dict[str, Any]] = {
    "ov-f32": {"backend": "openvino", "precision": "f32"},
    "ov-bf16": {"backend": "openvino", "precision": "bf16"},
    "ov-int8": {"backend": "openvino"},
}
STATIC = StaticInt8(use="static_int8", calibration={"method": "minmax", "images": PHOTOS})
SIMPLIFY = Simplify(use="simplify")
NNCF = NncfInt8(use="nncf_int8", images=PHOTOS)
EVERY_TYPE = ["Conv", "MatMul", "Gemm"]
STEPS: dict[str, list[Any]] = {
    "int8": [STATIC],
    "fp16": [Fp16(use="fp16")],
    "dynamic": [DynamicInt8(use="dynamic_int8", op_types=EVERY_TYPE, weight="qint8")],
    "dynamic-uint8": [DynamicInt8(use="dynamic_int8", op_types=EVERY_TYPE, weight="quint8")],
}


Ready = tuple[Artifact, Runtime, Any]  # with the batch that is timed

# Networks of three to six convolutions: pixels, and the channels of each.
PLAIN = {
    "tiny": (32, (8, 8)),
    "lenet": (32, (16, 32, 64)),
    "vgg": (96, (32, 32, 64, 128, 256)),
    "wide": (128, (64, 128, 256, 256)),
}


def burst(infer: Infer, batch: Any, seconds: float) -> list[int]:
    """Nanoseconds of processor time of calls in a row: of at least four, or of one long one."""
    begun = time.monotonic()
    infer(batch)
    least = 1 if time.monotonic() - begun > LONG_S else 4
    busy: list[int] = []
    begun = time.monotonic()
    while len(busy) < least or time.monotonic() - begun < seconds:
        before = time.process_time_ns()
        infer(batch)
        busy.append(time.process_time_ns() - before)
    return busy


def main() -> None:
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    data = Path(sys.argv[1])
    kept = [json.loads(line)["name"] for line in data.read_text().splitlines()] if data.exists() else []
    for name in [name for name in sys.argv[2:] if name not in kept]:
        begun = time.monotonic()
        with TemporaryDirectory() as folder:
            try:
                found = measured(name, Path(folder))
            except WorkbenchError as error:  # the next one may export
                print(f"{name}: {error.message}", flush=True)
                continue
        with data.open("a") as file:
            file.write(json.dumps(found, separators=(",", ":")) + "\n")
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
        gc.collect()


def measured(name: str, folder: Path) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    network, own, mean, std = loaded(name)
    sizes: dict[str, Any] = {}
    baseline: Ready | None = None
    for side in dict.fromkeys((own, max(32, round(SMALL * own / 32) * 32))):
        place = folder / str(side)
        place.mkdir()
        contract = Preprocess(resize=side, crop=side, mean=tuple(mean), std=tuple(std))
        images = photos(place, side, contract)
        samples = next(images.batches(PHOTOS))
        if baseline is None:
            _settle(network, torch.from_numpy(samples))
        try:
            export(network, place / "model.onnx", samples[:2])
        except WorkbenchError:
            if baseline is None:
                raise
            break  # it takes photos of one size only
        facts = facts_of(load(place / "model.onnx")).model_dump()
        sizes[str(side)] = {"facts": facts, "speed": {}}
        for variant in EVERY_SIZE if baseline else (*EVERY_SIZE, *OWN_SIZE):
            try:
                ready = (*built(variant, place, contract, images, samples), samples[:1])
                if baseline is None:
                    baseline = ready
                else:
                    sizes[str(side)]["speed"][variant] = paired(baseline, ready)
            except WorkbenchError as error:
                sizes[str(side)]["speed"][variant] = {"failed": error.message}
    here = machine.collect()
    return {
        "name": name,
        "cpu": here.cpu,
        "features": here.features,
        "versions": versions("onnxruntime", "openvino", "nncf", "torch"),
        "date": time.strftime("%Y-%m-%d"),
        "sizes": sizes,
    }


def loaded(name: str) -> tuple[Any, int, Any, Any]:
    library, _, short = name.partition(":")
    if library == "sample":
        from workbench.workspace.sample.student import create_model

        return create_model(12).eval(), int(short), [0.5] * 3, [0.25] * 3
    if library == "plain":
        side, widths = PLAIN[short]
        return plain(widths), side, [0.5] * 3, [0.25] * 3
    if library == "timm":
        short, _, asked = short.partition("@")
        network, _, side, mean, std = _timm(short)
        from timm.utils import reparameterize_model

        return reparameterize_model(network.eval()), int(asked or side), mean, std
    network, _, side, mean, std = _transformers(short)
    return logits_alone(network).eval(), side, mean, std


def plain(widths: tuple[int, ...]) -> Any:
    """Convolutions of 3 by 3 that halve the photo, each with a batch norm and a ReLU; pool and classifier."""
    from torch import nn

    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, *widths)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], len(CLASSES))]
    return nn.Sequential(*layers, *pooled).eval()


def logits_alone(network: Any) -> Any:
    """A network of transformers as one that gives a tensor."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Any) -> Any:
            return self.network(images).logits

    return Logits()


def photos(place: Path, side: int, contract: Preprocess) -> Images:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (PHOTOS, 8, 8, 3)).repeat(-(-side // 8), 1).repeat(-(-side // 8), 2)
    noisy = coarse[:, :side, :side] + random.normal(0, 8, (PHOTOS, side, side, 3))
    np.save(place / "pixels.npy", noisy.clip(0, 255).astype(np.uint8))
    return Images(place / "pixels.npy", (0,) * PHOTOS, contract, f"{side}")


def export(network: Any, target: Path, samples: Any) -> None:
    """Write the network, simplified, so that the graph shows its shapes."""
    raw = target.with_name("exported.onnx")
    try:
        write_onnx(network.eval(), Export(exporter="torchscript", opset=17), raw, samples, hint=None)
    except WorkbenchError:
        write_onnx(network.eval(), Export(exporter="dynamo", opset=18), raw, samples, hint=None)
    simplify(SIMPLIFY, raw, target)


def built(
    variant: str, place: Path, contract: Preprocess, images: Images, samples: Any
) -> tuple[Artifact, Runtime]:
    """From the exported file in `place`."""
    runtime = RUNTIME.validate_python({"threads": 1, **RUNTIMES.get(variant, {})})
    source, given = place / "model.onnx", steps.Photos(contract, images, None, samples, None)
    target = place / variant
    target.mkdir()
    if variant == "ov-int8":  # in a process of its own, which NNCF may end
        asked = (NNCF, source, target, given)
        info = call(steps.apply_native, *asked, log=place / "nncf.txt", timeout_s=600.0, label=variant)
        return Artifact(target, info), runtime
    for step in STEPS.get(variant, []):
        written = target / step.use / "model.onnx"
        written.parent.mkdir()
        steps.transform(step, source, written, given)
        source = written
    artifact, backend = Artifact(source.parent, artifact_info(source)), backend_of(runtime)
    if backend.convert is not None:
        artifact = Artifact(target, backend.convert(artifact, target))
    return artifact, runtime


def paired(baseline: Ready, variant: Ready) -> dict[str, float]:
    """The variant's speed over the baseline's, and the baseline's microseconds."""
    found: tuple[list[int], list[int]] = ([], [])
    for _ in range(OPENINGS):
        with ExitStack() as stack:
            bursts = []
            for artifact, runtime, batch in (baseline, variant):
                session = stack.enter_context(backend_of(runtime).session(artifact, runtime))
                bursts.append(partial(burst, session.infer, batch))
                bursts[-1](0.0)
            for turn in range(TURNS):
                for which in (0, 1) if turn % 2 else (1, 0):
                    found[which].extend(bursts[which](BURST_S))
    ours, theirs = (float(np.quantile(each, UNDISTURBED)) for each in found)
    return {"speedup": round(ours / theirs, 4), "baseline_us": round(ours / 1e3, 1)}


if __name__ == "__main__":
    main()
