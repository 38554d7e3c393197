"""What is known of how fast a variant will be, before it is tried.

Each rule gives a range of factors on the speed of the plain FP32 export in onnxruntime, with its source. On a
CPU the ranges follow from the sizes of the network (`cost_model`); on a GPU, and where nothing was measured,
they are what makers and others report. They order what to try, and measuring decides.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

from workbench.backends import OpenvinoRuntime, OrtRuntime, TensorrtRuntime, TorchRuntime
from workbench.backends.base import CudaSettings
from workbench.backends.edge import EdgeSettings
from workbench.errors import WorkbenchError, plural
from workbench.model.graph.facts import NetworkFacts
from workbench.model.graph.work import Work
from workbench.photos.contract import sides
from workbench.run.advice.cost_model import CostModel, Method, measured
from workbench.run.advice.explain import phrases
from workbench.steps.int8.settings import DynamicInt8, StaticInt8
from workbench.steps.nncf.settings import NncfInt8
from workbench.steps.rules import check_order
from workbench.system.machine import BF16, INT8_DOT
from workbench.workspace.recipe import Variant

sources = SimpleNamespace(**phrases())

ARITHMETIC = "multiply-accumulates of this network"

MANY_GATES = 0.25  # gates per convolution
MUCH_OVERHEAD = 0.4  # of a call
# A photo's: on a data-centre GPU less than 0.1 ms of work in FP32, as long as starting ten kernels.
FEW_MACS = 2e9
MATRIX = INT8_DOT | BF16 | {"avx512f"}  # the instructions that decide ratios
METHODS: dict[Method, str] = {
    "int8": f"INT8 multiplies faster; gates between convolutions cost: {sources.GATES}",
    "fp16": "x86 processors compute FP16 graphs in FP32 behind casts: half the file, no faster",
    "dynamic_int8": "dynamic INT8 speeds up products; convolutions run ConvInteger, their slowest kernel",
    "dynamic_uint8": "dynamic INT8 speeds up products; convolutions run ConvInteger, a slow kernel",
    "dynamic_products": "dynamic INT8 changes the matrix products alone",
    "openvino_f32": "openvino's FP32 kernels are about as fast as onnxruntime's, and a call costs more",
    "openvino_int8": f"openvino fuses INT8 convolutions: {sources.NNCF_OPENVINO}; a call costs more",
    "openvino_bf16": "the processor multiplies BF16 in hardware, and openvino uses it; a call costs more",
}


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
    """A network on a processor. flags: as the kernel names them. known: what was measured before.
    by_throughput: photos a second decide, not the time of one."""

    facts: NetworkFacts
    architecture: str
    cores: int
    flags: frozenset[str]
    known: CostModel = field(default_factory=measured)
    by_throughput: bool = False

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

    def range_of(self, before: Work, first: Method, after: Work, second: Method) -> tuple[float, float]:
        """The range of the speed of `second` on `after` over that of `first` on `before`."""
        foreign = (self.flags & MATRIX) != (frozenset(self.known.features) & MATRIX)
        return self.known.speedup(before, first, after, second, foreign=foreign)


def opinions(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    """Every rule that has something to say of the variant. Factors of several rules multiply."""
    if refusals := list(_refusals(variant, situation)):
        yield from refusals
        return
    yield from dict.fromkeys([*_size(variant, situation), *_opinions(variant, situation)])


def _refusals(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    """A network that is quantised, or FP16, already: steps refuse to change its precision again."""
    for step in variant.steps:
        try:
            check_order(step, situation.facts.precision)
        except WorkbenchError as error:
            yield Opinion(error.message, "quantisation-aware training, or an earlier conversion", stop=True)


def _opinions(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    if variant.runtime.device == "cuda":
        yield from _gpu(variant, situation)
    else:
        yield from _on_cpu(variant, situation)
    yield from _calls(variant, situation)


def _size(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    scale = _scale(variant, situation)
    if scale == 1:
        return
    if not situation.facts.any_size:
        yield Opinion("the network takes photos of one size only", "tried on a smaller photo", stop=True)
        return
    pixels = f"photos of {100 * scale**2:.0f} % of the pixels"
    if variant.runtime.device == "cuda":
        # Where starting kernels takes the time, the pixels change little.
        low, high = sorted((1.0, scale**-2))
        yield Opinion(f"{pixels}: less work, and as many kernels to start", ARITHMETIC, low, high)
    elif (work := situation.facts.work) is not None:
        small = work.scaled(scale**2)
        text = f"{pixels}: the work shrinks with them{_smallness(situation)}"
        yield Opinion(text, situation.known.source, *situation.range_of(work, "fp32", small, "fp32"))
    if scale < 1:
        yield Opinion(f"{sources.CROPS}, so smaller photos often keep the accuracy", sources.TOUVRON)


def _scale(variant: Variant, situation: Situation) -> float:
    """The side of the photos over that of the workspace's."""
    given, own = variant.preprocess, math.prod(situation.facts.input_shape[1:])
    if given.scale is None and given.crop is not None and own:
        return math.sqrt(math.prod(sides(given.crop)) / own)
    return given.scale or 1.0


def _overhead(situation: Situation) -> float:
    """How much of a call in FP32 gains nothing from less work; 0 where the sizes are hidden."""
    work = situation.facts.work
    return 0.0 if work is None else situation.known.overhead_share(work, "fp32")


def _smallness(situation: Situation) -> str:
    if (share := _overhead(situation)) < MUCH_OVERHEAD:
        return ""
    return f"; too small to gain much: {100 * share:.0f} % of a call is not arithmetic"


def _on_cpu(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    for step in variant.steps:
        if isinstance(step, StaticInt8):
            yield from _static(step, variant, situation)
        if isinstance(step, StaticInt8 | NncfInt8) and situation.facts.transformer:
            text = (
                "a transformer has outlier channels: static ranges often cost accuracy, dynamic ones do not"
            )
            yield Opinion(text, "Xiao et al. 2023, SmoothQuant")
    if situation.facts.precision == "int8":  # what was measured was FP32 before
        return
    if (rule := _unmeasured(variant, situation)) is not None:
        yield rule
    elif (method := method_of(variant)) != "fp32" and (work := situation.facts.work) is not None:
        work = work.scaled(_scale(variant, situation) ** 2)
        text = f"{METHODS[method]}{_smallness(situation)}"
        yield Opinion(text, situation.known.source, *situation.range_of(work, "fp32", work, method))


def method_of(variant: Variant) -> Method:
    """What the costs of a variant on a CPU go by."""
    quantised = any(isinstance(step, StaticInt8 | NncfInt8) for step in variant.steps)
    if isinstance(variant.runtime, OpenvinoRuntime):
        floats: Method = "openvino_f32" if variant.runtime.computes == "f32" else "openvino_bf16"
        return "openvino_int8" if quantised else floats
    for step in variant.steps:
        if isinstance(step, DynamicInt8):
            if "Conv" not in step.op_types:
                return "dynamic_products"
            return "dynamic_int8" if step.weight == "qint8" else "dynamic_uint8"
    if quantised:
        return "int8"
    return "fp16" if any(step.FAMILY == "fp16" for step in variant.steps) else "fp32"


def _unmeasured(variant: Variant, situation: Situation) -> Opinion | None:
    """What is known of runtimes and processors whose costs were not measured."""
    runtime = variant.runtime
    method = method_of(variant)
    if isinstance(runtime, TorchRuntime):
        return _torch(runtime, situation)
    if isinstance(runtime, EdgeSettings):
        return _edge(variant, situation)
    if method in ("int8", "openvino_int8") and not situation.int8_dot:
        missing = "VNNI" if situation.x86 else "dot-product instructions"
        text = f"without {missing}, INT8 products take as long as FP32 ones, or nearly"
        return Opinion(text, "armnn issue 511, openvino issue 4005", 0.6, 1.4)
    if method == "openvino_int8" and method not in situation.known.costs:
        return _openvino_int8(situation)
    if method == "openvino_bf16" and not situation.bf16:
        text = "the processor has no BF16 instructions: openvino computes in FP32"
        return Opinion(text, "processor features", 0.4, 1.1)
    if method == "fp16" and not situation.x86:
        text = "FP16 on ARM needs both the instructions and onnxruntime's kernels for them"
        return Opinion(text, "onnxruntime issue 25824: four times slower on a Raspberry Pi 5", 0.25, 1.3)
    return None


def _edge(variant: Variant, situation: Situation) -> Opinion:
    """On this machine; what phones and boards make of the same files is not known here."""
    quantised = [step for step in variant.steps if not step.keeps_logits]
    executorch = variant.runtime.backend == "executorch"
    if not situation.x86:
        text = "XNNPACK is made for ARM, and gains most in INT8 where it runs the whole network"
        return Opinion(text, sources.EDGE_ARM, 0.8, 4.0)
    if not quantised:
        return Opinion("XNNPACK's FP32 kernels are about as fast as onnxruntime's", sources.EDGE, 0.7, 1.25)
    if executorch:
        return Opinion("XNNPACK runs the network in one piece, hard-swish in float", sources.EDGE, 0.8, 2.0)
    text = "INT8 hard-swish ends the pieces that XNNPACK runs; on x86 that costs more than INT8 gains"
    return Opinion(text, sources.EDGE, 0.3, 1.2)


def _openvino_int8(situation: Situation) -> Opinion:
    facts = situation.facts
    gated = facts.transformer or facts.gates > MANY_GATES * facts.convolutions
    low, high = (0.8, 1.9) if gated else (1.7, 3.5)
    text = f"{METHODS['openvino_int8']}{_smallness(situation)}"
    gains = 1 - _overhead(situation)
    return Opinion(text, sources.MEASURED, low**gains, high**gains)


def _torch(runtime: TorchRuntime, situation: Situation) -> Opinion:
    if not runtime.compile:
        return Opinion("torch runs the network operator by operator", sources.MEASURED, 0.2, 0.65)
    if runtime.precision != "bf16":
        return Opinion("compiled by inductor, weights frozen", sources.MEASURED, 0.35, 1.0)
    if not situation.bf16:
        return Opinion("the processor has no BF16 instructions", "processor features", 0.1, 0.6)
    return Opinion("compiled by inductor, in BF16 that the processor has", sources.MEASURED, 0.7, 1.8)


def _static(step: StaticInt8, variant: Variant, situation: Situation) -> Iterator[Opinion]:
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


def _calls(variant: Variant, situation: Situation) -> Iterator[Opinion]:
    """Threads and batches."""
    runtime = variant.runtime
    threads = runtime.intra_threads
    if runtime.batch > 1 and not situation.by_throughput:
        text = f"batches of {runtime.batch}: each photo waits for the others, so they win by throughput alone"
        yield Opinion(text, "how krishi-bench measures and serves", stop=True)
    if runtime.device == "cpu" and threads > situation.cores:
        yield Opinion(
            f"{plural(threads, 'thread')}, and {plural(situation.cores, 'processor')}",
            "this machine",
            stop=True,
        )
    elif runtime.device == "cpu" and threads > 1:
        text = f"{threads} threads share the work of one photo, and fewer photos are answered at once"
        alone = _overhead(situation)
        low, high = (1 / (alone + (1 - alone) / each) for each in (1 + 0.2 * (threads - 1), threads))
        yield Opinion(f"{text}{_smallness(situation)}", "Amdahl's law", low, high)
    sized = variant.preprocess.scale is not None or variant.preprocess.crop is not None
    plain = isinstance(runtime, OrtRuntime) and runtime.device == "cpu" and threads == 1
    if plain and not sized and all(step.FAMILY == "tidying" for step in variant.steps):
        text = "opsets, exporters and tidier graphs leave the same multiplications"
        yield Opinion(text, sources.MEASURED, 0.95, 1.05)
