"""What is known of how fast a variant will be, before it is tried: rules by operators and processor features.

Each rule gives a range of factors on the speed of the plain FP32 export in onnxruntime, with its source. The
ranges span what was seen on few networks and machines: they order what to try, and measuring decides.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

from workbench.backends import OpenvinoRuntime, OrtRuntime, TensorrtRuntime, TorchRuntime
from workbench.backends.base import CudaSettings
from workbench.errors import WorkbenchError, plural
from workbench.model.graph.facts import NetworkFacts
from workbench.photos.contract import sides
from workbench.run.advice.explain import phrases
from workbench.steps.int8.settings import DynamicInt8, StaticInt8
from workbench.steps.nncf.settings import NncfInt8
from workbench.steps.rules import check_order
from workbench.system.machine import BF16, INT8_DOT
from workbench.workspace.recipe import Variant

sources = SimpleNamespace(**phrases())

ARITHMETIC = "multiply-accumulates of this network"

MANY_GATES = 0.25  # gates per convolution
MUCH_DEPTHWISE = 0.3  # of the MACs
MUCH_MATMUL = 0.2  # of the MACs
# A photo's: on a data-centre GPU less than 0.1 ms of work in FP32, as long as starting ten kernels.
FEW_MACS = 2e9
TINY_MACS = 1e6  # on a CPU some 20 microseconds, about what calling a session takes
TINIEST_MACS = 1e5  # fewer pixels are less work without any work of their own
SAME_SPEED = 1.1


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one rule says of a variant.

    low, high: factors on the speed, 1 where it says nothing of it. stop: why it is not worth trying whatever
    the speed.
    """

    text: str
    source: str
    low: float = 1.0
    high: float = 1.0
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """A network on a processor. flags: as the kernel names them."""

    facts: NetworkFacts
    architecture: str
    cores: int
    flags: frozenset[str]

    @property
    def x86(self) -> bool:
        return self.architecture.lower() in ("x86_64", "amd64", "i686")

    @property
    def int8_dot(self) -> bool:
        """Whether four 8-bit products are summed into 32 bits by one instruction."""
        return bool(self.flags & INT8_DOT)

    @property
    def bf16(self) -> bool:
        return bool(self.flags & BF16)

    @property
    def gated(self) -> bool:
        """Squeeze-and-excitation and hard-swish all over: much work between convolutions that gain little."""
        gates = self.facts.squeeze_excite + self.facts.hard_swish
        return gates > MANY_GATES * max(1, self.facts.convolutions)


def opinions(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    """Every rule that has something to say of the variant. Factors of several rules multiply."""
    if refusals := list(_refusals(variant, situation)):
        yield from refusals
        return
    sized = _kept(_size(variant, situation), situation, TINIEST_MACS)
    yield from dict.fromkeys([*sized, *_kept(_opinions(variant, situation), situation, TINY_MACS)])


def _kept(given: Iterator[Opinion], situation: Situation, least: float) -> list[Opinion]:
    """The opinions, without the promises where the network has fewer MACs than `least`."""
    found, macs = list(given), situation.facts.macs
    promises = [opinion for opinion in found if opinion.high > SAME_SPEED and not opinion.stop]
    if macs is None or macs >= least or not promises:
        return found
    text = f"too small to gain: its {macs / 1e6:.2g} million MACs take less time than a call does"
    small = Opinion(text, ARITHMETIC, 0.85, 1.05)
    return [small, *(opinion for opinion in found if opinion not in promises)]


def _refusals(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    """A network that is quantised, or FP16, already: steps refuse to change its precision again."""
    for step in variant.steps:
        try:
            check_order(step, situation.facts.precision)
        except WorkbenchError as error:
            yield Opinion(error.message, "quantisation-aware training, or an earlier conversion", stop=True)


def _opinions(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    runtime = variant.runtime
    if runtime.device == "cuda":
        yield from _gpu(variant, situation)
    else:
        for step in variant.steps:
            match step:
                case StaticInt8():
                    yield from _static(step, variant, situation)
                case NncfInt8():
                    yield from _int8(variant, situation)
                case DynamicInt8():
                    yield from _dynamic(step, situation)
                case _ if step.FAMILY == "fp16" and isinstance(runtime, OrtRuntime):
                    yield from _fp16(situation)
        yield from _runtime(variant, situation)
    yield from _calls(variant, situation)


def _size(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    scale = variant.preprocess.scale
    own = math.prod(situation.facts.input_shape[1:])
    if scale is None and variant.preprocess.crop is not None and own:
        scale = math.sqrt(math.prod(sides(variant.preprocess.crop)) / own)
    if scale is None or scale == 1:
        return
    if not situation.facts.any_size:
        yield Opinion("the network takes photos of one size only", "tried on a smaller photo", stop=True)
        return
    # Seen between these powers of the side: not everything scales with the number of pixels.
    low, high = sorted((scale**-1.2, scale**-2))
    pixels = f"photos of {100 * scale**2:.0f} % of the pixels"
    if variant.runtime.device == "cuda":
        # Where starting kernels takes the time, the pixels change little.
        low, high = sorted((1.0, scale**-2))
        yield Opinion(f"{pixels}: less work, and as many kernels to start", ARITHMETIC, low, high)
    else:
        yield Opinion(f"{pixels}: the work shrinks with them", sources.MEASURED, low, high)
    if scale < 1:
        yield Opinion(f"{sources.CROPS}, so smaller photos often keep the accuracy", sources.TOUVRON)


def _static(step: StaticInt8, variant: Variant, situation: Situation) -> Iterator[Opinion]:
    yield from _int8(variant, situation)
    # onnxruntime on x86 turns int8 activations into uint8 ones: they saturate alike.
    wide = not step.reduce_range and step.weight == "int8"
    if situation.x86 and not situation.int8_dot and wide:
        text = f"{sources.SATURATION}, and logits go wrong; set `reduce_range`"
        yield Opinion(text, sources.ORT_QUANTIZATION, stop=True)
    if situation.x86 and isinstance(variant.runtime, OrtRuntime) and step.activation == "int8":
        text = "int8 activations take slower kernels on x86 than uint8 ones"
        yield Opinion(text, sources.MEASURED, 0.4, 0.65)
    if situation.facts.depthwise and not step.per_channel:
        text = "depthwise filters differ by orders of magnitude: one scale for all of them costs accuracy"
        yield Opinion(text, sources.NAGEL)
    if situation.facts.dead_channels and step.per_channel:
        dead = plural(situation.facts.dead_channels, "dead channel")
        text = f"{dead}: their scales are so small that a bias overflows"
        yield Opinion(f"{text} (repaired here; per tensor is safe)", sources.ORT_DEAD_CHANNELS)


def _int8(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    """What 8-bit kernels gain on convolutions and products of this kind."""
    yield _int8_kernels(situation, situation.facts, openvino=isinstance(variant.runtime, OpenvinoRuntime))
    if (share := situation.facts.depthwise_share) > MUCH_DEPTHWISE:
        text = f"{100 * share:.0f} % of the MACs are depthwise: memory decides, not arithmetic"
        yield Opinion(text, "openvino issue 1858", 0.6, 0.9)
    if situation.facts.transformer:
        text = "a transformer has outlier channels: static ranges often cost accuracy, dynamic ones do not"
        yield Opinion(text, "Xiao et al. 2023, SmoothQuant")


def _int8_kernels(situation: Situation, facts: NetworkFacts, *, openvino: bool) -> Opinion:
    if not situation.int8_dot:
        missing = "VNNI" if situation.x86 else "dot-product instructions"
        text = f"without {missing}, INT8 products take as long as FP32 ones, or nearly"
        return Opinion(text, "armnn issue 511, openvino issue 4005", 0.6, 1.4)
    if facts.transformer:
        text = "products gain from INT8; softmax, layer norms and gates stay in float"
        return Opinion(text, sources.ORT_QUANTIZATION, 0.9, 2.0)
    if situation.gated and openvino:
        text = "gates between the convolutions stay in float, and openvino fuses them"
        return Opinion(text, sources.MEASURED, 0.8, 1.8)
    if situation.gated:
        blocks = plural(facts.squeeze_excite, "squeeze-and-excitation block")
        blocks = f"{facts.hard_swish} hard-swish and {blocks}"
        return Opinion(f"{blocks}: {sources.GATES}", sources.MEASURED, 0.3, 1.1)
    if facts.swish > MANY_GATES * facts.convolutions:
        text = "swish between the convolutions becomes a table in INT8; what that gains varies"
        return Opinion(text, "onnxruntime's QLinearSigmoid", 0.7, 2.0)
    speed = sources.NNCF_OPENVINO if openvino else sources.STATIC_INT8
    text = f"plain convolutions, and INT8 dot products in hardware: {speed}"
    return Opinion(text, sources.MEASURED, 1.7, 3.5)


def _dynamic(step: DynamicInt8, situation: Situation) -> Iterator[Opinion]:
    facts = situation.facts
    if "Conv" in step.op_types and 1 - facts.matmul_share > MUCH_MATMUL:
        signed = step.weight == "qint8"
        speed, low, high = (sources.DYNAMIC_INT8, 0.1, 0.3) if signed else (sources.DYNAMIC_UINT8, 0.4, 1.1)
        text = "dynamic INT8 of convolutions runs ConvInteger, the slowest kernel there is for them"
        yield Opinion(f"{text}: {speed}", sources.MEASURED, low, high)
    elif facts.matmul_share < MUCH_MATMUL:
        text = f"only {100 * facts.matmul_share:.1f} % of the MACs are in matrix products: little changes"
        yield Opinion(text, ARITHMETIC, 0.95, 1.05)
    else:
        low, high = (1.1, 2.5) if situation.int8_dot else (0.8, 1.6)
        text = "dynamic INT8 is made for the products of transformers"
        yield Opinion(text, sources.ORT_QUANTIZATION, low, high)


def _fp16(situation: Situation) -> Iterator[Opinion]:
    if situation.x86:
        text = "x86 processors compute FP16 graphs in FP32 behind casts: half the file, and slower"
        yield Opinion(f"{text}: {sources.FP16_X86}", f"{sources.MEASURED}; {sources.ORT_FP16}", 0.75, 0.95)
    else:
        text = "FP16 on ARM needs both the instructions and onnxruntime's kernels for them"
        yield Opinion(text, "onnxruntime issue 25824: four times slower on a Raspberry Pi 5", 0.25, 1.3)


def _gpu(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    """Wide ranges, from what the makers say: no GPU of ours has been measured."""
    runtime = variant.runtime
    recorded = isinstance(runtime, CudaSettings) and runtime.cuda_graph
    yield Opinion("a GPU multiplies many times faster than a processor", sources.TENSOR_CORES, 2.0, 30.0)
    small = runtime.batch == 1 and (situation.facts.macs or 0) < FEW_MACS
    if small and not recorded:
        text = f"{sources.KERNELS}; a CUDA graph starts them all at once"
        yield Opinion(text, sources.CUDA_GRAPHS, 0.4, 1.0)
    if runtime.computes == "tf32":
        yield Opinion("TF32 puts FP32 networks on the tensor cores", sources.TENSOR_CORES, 1.0, 3.0)
    if runtime.computes in ("f16", "bf16") or any(step.FAMILY == "fp16" for step in variant.steps):
        # Where starting kernels takes the time, faster kernels change little.
        low, high = (1.0, 2.0) if small else (1.3, 4.0)
        yield Opinion("FP16 runs on the tensor cores", sources.TENSOR_CORES, low, high)
    yield from _gpu_int8(variant, small=small)
    if isinstance(runtime, TorchRuntime) and not runtime.compile and not recorded:
        yield Opinion("torch starts one kernel an operator", sources.CUDA_GRAPHS, 0.3, 1.0)
    if isinstance(runtime, TensorrtRuntime):
        text = "TensorRT fuses layers and times the kernels it chooses; each machine builds its own engine"
        yield Opinion(text, sources.TENSORRT_ENGINES, 1.0, 2.5)


def _gpu_int8(variant: Variant, *, small: bool) -> Iterator[Opinion]:
    for step in variant.steps:
        if isinstance(step, DynamicInt8):
            text = "dynamic INT8 is made of operators that run on the CPU"
            yield Opinion(text, "onnxruntime's kernels", stop=True)
        elif isinstance(step, StaticInt8) and step.placement != "tensorrt":
            text = "on a GPU only `placement: tensorrt` puts the pairs where they are fused"
            yield Opinion(f"quantised for CPUs: {text}", sources.TENSORRT_TYPES, 0.4, 1.2)
        elif isinstance(step, StaticInt8):
            low, high = (0.8, 1.5) if small else (1.2, 4.0)
            text = "INT8 runs on the tensor cores where pairs are fused"
            yield Opinion(text, sources.TENSOR_CORES, low, high)


def _runtime(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    runtime = variant.runtime
    quantised = any(isinstance(step, StaticInt8 | NncfInt8) for step in variant.steps)
    quantised |= situation.facts.precision == "int8"
    if isinstance(runtime, OpenvinoRuntime) and not quantised:
        if runtime.precision in ("bf16", "f16") and situation.bf16:
            low, high = (0.8, 1.8) if situation.gated else (1.4, 2.1)
            text = f"the processor multiplies BF16 in hardware, and openvino uses it: {sources.OPENVINO_BF16}"
            yield Opinion(text, sources.MEASURED, low, high)
        else:
            low, high = (0.5, 1.0) if situation.gated else (0.85, 1.15)
            same = "openvino's FP32 kernels are about as fast as onnxruntime's"
            yield Opinion(f"{same}, slower for small gated networks", sources.MEASURED, low, high)
    if isinstance(runtime, TorchRuntime):
        if not runtime.compile:
            yield Opinion("torch runs the network operator by operator", sources.MEASURED, 0.2, 0.65)
        elif runtime.precision == "bf16" and situation.bf16:
            yield Opinion("compiled by inductor, in BF16 that the processor has", sources.MEASURED, 0.7, 1.8)
        elif runtime.precision == "bf16":
            yield Opinion("the processor has no BF16 instructions", "processor features", 0.1, 0.6)
        else:
            yield Opinion("compiled by inductor, weights frozen", sources.MEASURED, 0.35, 1.0)


def _calls(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    """Threads and batches."""
    runtime = variant.runtime
    threads = runtime.intra_threads
    if runtime.batch > 1:
        text = f"batches of {runtime.batch} show throughput; the server answers photo by photo"
        yield Opinion(f"{text}: they never win", "how krishi-bench measures and serves", stop=True)
    if runtime.device == "cpu" and threads > situation.cores:
        yield Opinion(
            f"{plural(threads, 'thread')}, and {plural(situation.cores, 'processor')}",
            "this machine",
            stop=True,
        )
    elif runtime.device == "cpu" and threads > 1:
        text = f"{threads} threads share the work of one photo, and fewer photos are answered at once"
        yield Opinion(text, "Amdahl's law", 1 + 0.2 * (threads - 1), float(threads))
    sized = variant.preprocess.scale is not None or variant.preprocess.crop is not None
    plain = isinstance(runtime, OrtRuntime) and runtime.device == "cpu" and threads == 1
    if plain and not sized and all(step.FAMILY == "tidying" for step in variant.steps):
        text = "opsets, exporters and tidier graphs leave the same multiplications"
        yield Opinion(text, sources.MEASURED, 0.95, 1.05)
