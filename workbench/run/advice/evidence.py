"""When a step, a setting or a runtime helps and when it hurts, with the source of each statement.

What each of them is stands in the description of its field, or the docstring of its class. The rules of
`speed_rules` name the same sources and measurements.
"""

from dataclasses import dataclass, replace

MEASURED = (
    "measured: onnxruntime 1.32, openvino 2026.4, torch 2.13; MobileNetV2, ResNet-50 and a MobileNetV3-like "
    "student, 1 thread, x86 with VNNI and BF16"
)
MEASURED_DECODE = "libjpeg documentation, scale_num; measured: Pillow 13, JPEG of 12 megapixels to 256 pixels"
ORT_QUANTIZATION = "onnxruntime documentation, Quantize ONNX models"
ORT_TUNING = "onnxruntime documentation, Thread management and Graph optimizations"
ORT_PROVIDERS = "onnxruntime documentation, Execution providers"
ORT_FP16 = "onnxruntime issue 16778"
ORT_DEAD_CHANNELS = "onnxruntime issue 11415"
NNCF = "NNCF documentation, Post-training quantization"
OPENVINO = "OpenVINO documentation, Precision control and Performance hints"
TORCH_EXPORT = f"torch documentation, torch.onnx; {MEASURED}"
INDUCTOR = "torch documentation, AOTInductor"
TENSORRT = "TensorRT documentation, Optimizing performance"
TENSORRT_TYPES = "TensorRT documentation, Strongly typed networks and Working with quantized types"
TENSORRT_ENGINES = "TensorRT documentation, Engine compatibility"
TENSORRT_SHAPES = "TensorRT documentation, Working with dynamic shapes"
CUDA_GRAPHS = "NVIDIA, CUDA graph best practice; TensorRT documentation, Optimizing performance"
TENSOR_CORES = "NVIDIA Ampere and Hopper architecture whitepapers: peak rates by precision; not measured here"
TF32 = "NVIDIA Ampere architecture whitepaper; torch documentation, CUDA semantics"
TOUVRON = "Touvron et al. 2019, Fixing the train-test resolution discrepancy (NeurIPS)"
NAGEL = "Nagel et al. 2019, Data-free quantization through weight equalization and bias correction (ICCV)"
MIGACZ = "Migacz 2017, 8-bit inference with TensorRT; onnxruntime issue 9597"
WU = "Wu et al. 2020, Integer quantization for deep learning inference; onnxruntime issue 10571"
KRISHNAMOORTHI = "Krishnamoorthi 2018, Quantizing deep convolutional networks for efficient inference"
SHAPES = "ONNX specification, Shape inference"


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed over plain FP32 in onnxruntime at 224 pixels (see MEASURED)."""

    mobilenet_v2: float
    resnet_50: float

    def __str__(self) -> str:
        return f"{self.mobilenet_v2:.2g} (MobileNetV2) and {self.resnet_50:.2g} times (ResNet-50)"


STATIC_INT8 = Speed(2.1, 3.4)
STATIC_INT8_SIGNED = Speed(1.3, 1.5)  # with int8 activations
STUDENT_INT8 = 0.9  # STATIC_INT8 for a MobileNetV3-like network, for the reason in GATES
NNCF_OPENVINO = Speed(1.8, 3.6)
DYNAMIC_INT8 = Speed(0.12, 0.28)  # of convolutions too
DYNAMIC_UINT8 = Speed(0.49, 1.06)
FP16_X86 = Speed(0.86, 0.86)
OPENVINO_BF16 = Speed(1.6, 2.0)
INDUCTOR_BF16 = Speed(0.8, 1.8)

# Statements that stand in several places.
GATES = "FP32 fuses convolution and hard-swish, INT8 runs float gates with Q/DQ between"
SATURATION = "x86 without VNNI sums pairs of products with int8 weights in 16 bits, which saturate"
CROPS = "networks trained on random crops saw objects larger than at test time"
KERNELS = "at one photo a call, starting the kernels of a small network one by one takes longer than its work"
CONVERSION = "each border to float costs a conversion"
LONG_TAILS = "long tails, as of swish"
OVERFLOW = "values over 65504"
ON_CPU = "its operators run on the CPU, with copies from and to the GPU between"


@dataclass(frozen=True, slots=True)
class Key:
    """What the evidence is of.

    of: the `use` of a step, a backend, or a section of a recipe (`export`, `preprocess`, `runtime`).
    field: a setting of it, dotted where it is in a section of its own; "" for the step or backend itself.
    value: of the setting; None for every value but the default. gpu: on a GPU, where it replaces the key
    without.
    """

    of: str
    field: str = ""
    value: str | bool | None = None
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """When it helps and when it hurts, with the source of both; None where nothing is known."""

    helps: str | None
    hurts: str | None
    source: str


EXPORT, PREPROCESS, RUNTIME = "export", "preprocess", "runtime"
STATIC, DYNAMIC = "static_int8", "dynamic_int8"

EVIDENCE: dict[Key, Evidence] = {
    Key(EXPORT, "exporter", "dynamo"): Evidence(
        "nearly always",
        "it takes some seconds, and networks with data-dependent control flow do not export",
        TORCH_EXPORT,
    ),
    Key(EXPORT, "exporter", "torchscript"): Evidence(
        "runtimes that need an old opset, and networks that dynamo cannot take",
        "it follows one run of the network: control flow that depends on the photo is lost",
        TORCH_EXPORT,
    ),
    Key("simplify"): Evidence(
        "graphs of the torchscript exporter, and before quantising",
        "nothing; runtimes do most of it themselves when they open the file",
        "onnxslim and onnxsim documentation",
    ),
    Key(STATIC): Evidence(
        f"plain convolutions on processors with INT8 dot products: {STATIC_INT8}",
        f"hard-swish and squeeze-and-excitation: {GATES} (a MobileNetV3-like student: {STUDENT_INT8} times); "
        "transformers lose accuracy",
        f"{ORT_QUANTIZATION}; {MEASURED}",
    ),
    Key(STATIC, gpu=True): Evidence(
        "large plain convolutions and batches, on tensor cores, with `placement: tensorrt`",
        "any other placement is made for CPUs: its pairs run as kernels of their own; depthwise "
        "convolutions, hard-swish and transformers lose accuracy first",
        f"{TENSORRT_TYPES}; {TENSOR_CORES}",
    ),
    Key(STATIC, "calibration.method", "minmax"): Evidence(
        "ReLU networks, and few photos",
        "one outlier stretches the range and coarsens everything else",
        KRISHNAMOORTHI,
    ),
    Key(STATIC, "calibration.method", "entropy"): Evidence(LONG_TAILS, "it clips rare values", MIGACZ),
    Key(STATIC, "calibration.method", "percentile"): Evidence(
        LONG_TAILS, "transformers, whose outliers carry meaning", WU
    ),
    Key(STATIC, "activation", "uint8"): Evidence(
        "outputs of ReLU and hard-swish use all 256 levels; the fast kernels of x86 take it",
        f"{SATURATION}: use `reduce_range`",
        ORT_QUANTIZATION,
    ),
    Key(STATIC, "activation", "uint8", gpu=True): Evidence(
        None, "TensorRT, which takes symmetric int8 alone", TENSORRT_TYPES
    ),
    Key(STATIC, "activation", "int8"): Evidence(
        "ARM and TensorRT",
        "half the levels after a ReLU; on x86 onnxruntime turns it into uint8, which saturates alike without "
        f"VNNI and is slow with it: {STATIC_INT8_SIGNED}",
        f"{ORT_QUANTIZATION}; {MEASURED}",
    ),
    Key(STATIC, "activation", "int8", gpu=True): Evidence(
        "TensorRT, which takes no other type", "half the levels after a ReLU", TENSORRT_TYPES
    ),
    Key(STATIC, "placement", "tensorrt"): Evidence(
        "TensorRT, which fuses a pair into the layer behind it and a residual addition into the convolution",
        "CPUs: most of the graph stays in float",
        f"{TENSORRT_TYPES}; NVIDIA TensorRT documentation, Q/DQ layer placement",
    ),
    Key(STATIC, "rest", "fp16"): Evidence(
        "the layers between quantised convolutions run on tensor cores too", OVERFLOW, TENSORRT_TYPES
    ),
    Key(STATIC, "per_channel", True): Evidence(
        "depthwise convolutions, whose filters differ by orders of magnitude",
        "dead channels get scales so small that biases overflow (repaired here)",
        f"{KRISHNAMOORTHI}; {ORT_DEAD_CHANNELS}",
    ),
    Key(STATIC, "per_channel", False): Evidence(
        "networks with dead channels, and runtimes without per-channel kernels",
        "depthwise convolutions lose much accuracy",
        KRISHNAMOORTHI,
    ),
    Key(STATIC, "reduce_range", True): Evidence(
        "x86 without VNNI: pairs of products fit into 16 bits",
        "half the levels of the weights, without need on processors with VNNI and on ARM",
        ORT_QUANTIZATION,
    ),
    Key(STATIC, "reduce_range", True, gpu=True): Evidence(
        None, "half the levels of the weights, without need on a GPU", ORT_QUANTIZATION
    ),
    Key(STATIC, "exclude_roles"): Evidence(
        "first and last layers and squeeze-and-excitation: sensitive, and little of the work",
        f"{CONVERSION}; depthwise layers in float keep most of FP32's time",
        "NVIDIA TensorRT documentation, Working with quantized types; brevitas issue 1341",
    ),
    Key(STATIC, "exclude_nodes"): Evidence("layers that a sensitivity analysis found", "speed", NNCF),
    Key(STATIC, "exclude_op_types"): Evidence("gates and additions between convolutions", "speed", NNCF),
    Key(STATIC, "op_types"): Evidence(
        "products alone, where the nodes between them gain nothing in 8 bits", CONVERSION, NNCF
    ),
    Key(STATIC, "equalize", True): Evidence(
        "depthwise networks with ReLU, above all per tensor",
        "nothing to gain where other activations are between the layers",
        NAGEL,
    ),
    Key(STATIC, "bias_correction", True): Evidence(
        "depthwise networks, and low accuracy after calibration",
        "few photos: the mean shift is itself uncertain",
        NAGEL,
    ),
    Key(DYNAMIC): Evidence(
        "matrix products of transformers; no photos are needed",
        f"convolutions: {DYNAMIC_INT8} with int8 weights, {DYNAMIC_UINT8} with uint8",
        f"{ORT_QUANTIZATION}; {MEASURED}",
    ),
    Key(DYNAMIC, gpu=True): Evidence(None, ON_CPU, ORT_PROVIDERS),
    Key(DYNAMIC, "op_types"): Evidence(
        None, "with Conv it is the slowest choice there is for a convolutional network", MEASURED
    ),
    Key(DYNAMIC, "op_types", gpu=True): Evidence(None, ON_CPU, ORT_PROVIDERS),
    Key("nncf_int8"): Evidence(
        f"plain convolutions on processors with INT8 dot products: {NNCF_OPENVINO} in openvino",
        "long builds with `accuracy_control`; in onnxruntime, networks with hard-swish are slow",
        f"{NNCF}; {MEASURED}",
    ),
    Key("nncf_int8", gpu=True): Evidence(
        None,
        "its pairs are placed for CPUs; for GPUs there is `static_int8` with `placement: tensorrt`",
        f"{NNCF}; {TENSORRT_TYPES}",
    ),
    Key("nncf_int8", "preset", "mixed"): Evidence("hard-swish, swish, GELU", None, NNCF),
    Key("nncf_int8", "preset", "performance"): Evidence(
        "networks of ReLU; somewhat faster kernels", "skewed activations", NNCF
    ),
    Key("nncf_int8", "fast_bias_correction", False): Evidence(
        "accuracy, where the fast way is not enough", "the build takes many times longer", NNCF
    ),
    Key("nncf_int8", "channel_alignment", True): Evidence("depthwise networks", None, f"{NNCF}; {NAGEL}"),
    Key("nncf_int8", "overflow_fix", "enable"): Evidence(
        "fleets with processors without VNNI: no sum saturates", "half the levels of the weights", NNCF
    ),
    Key("nncf_int8", "accuracy_control"): Evidence(
        "a drop over the budget", "one validation for every layer tried; it ignores time", NNCF
    ),
    Key("nncf_int8", "model_type", "transformer"): Evidence("transformers", None, NNCF),
    Key("fp16"): Evidence(
        "the file is half as large; GPUs with tensor cores compute it faster",
        f"x86 processors compute it in FP32 behind casts: {FP16_X86}",
        f"{MEASURED}; {ORT_FP16}; {TENSORRT_TYPES}",
    ),
    Key("fp16", gpu=True): Evidence(
        "large networks and batches, on tensor cores; the file is half as large",
        f"each border to FP32 is a cast; {KERNELS}",
        f"{TENSOR_CORES}; {TENSORRT_TYPES}",
    ),
    Key("fp16", "keep_sensitive", True): Evidence(
        "networks with large activations, which would otherwise give infinities on a GPU",
        "speed, where much stays in FP32: each border costs a cast",
        "krishi-bench, docs/gpu.md",
    ),
    Key("fp16", "keep_sensitive", False): Evidence(
        "networks known to fit: no photos are needed",
        "a rare activation that does not fit is not found",
        "krishi-bench, docs/gpu.md",
    ),
    Key("fold_preprocess"): Evidence(
        "serving: the conversion to float outside took 0.5 ms, as long as decoding a small photo",
        "a file that other tools cannot feed with floats",
        MEASURED,
    ),
    Key("optimize"): Evidence(
        "the time to open a session",
        "not the speed of an answer; level `all` is bound to the processor that made it",
        ORT_TUNING,
    ),
    Key("fixed_batch"): Evidence(
        "compilers that plan memory ahead (TensorRT, NPUs)", "no other batch size can be asked for", SHAPES
    ),
    Key("dynamic_batch"): Evidence("files exported with a fixed one", None, SHAPES),
    Key("onnxruntime"): Evidence(
        "the widest choice of hardware; fuses convolution, batch norm and activation in FP32",
        None,
        "onnxruntime documentation",
    ),
    Key("openvino"): Evidence(
        f"Intel and AMD processors with BF16 or VNNI: {OPENVINO_BF16} with the bf16 hint",
        "start-up: networks are compiled when they are opened",
        f"{OPENVINO}; {MEASURED}",
    ),
    Key("tensorrt"): Evidence(
        "NVIDIA GPUs: layers fused, kernels chosen by timing them on the GPU that is there",
        "the build takes long, and again for every GPU, driver and TensorRT version; an engine is code, and "
        "never travels",
        f"{TENSORRT}; {TENSORRT_ENGINES}",
    ),
    Key("torch"): Evidence(
        "as the reference, and compiled where BF16 is in hardware",
        "operator by operator it is slow: 0.2 to 0.6 times",
        MEASURED,
    ),
    Key("torch", gpu=True): Evidence(
        "as the reference, and for operators that other runtimes lack",
        "eager, it starts at least one kernel an operator on the GPU: small networks wait for that",
        CUDA_GRAPHS,
    ),
    Key("null"): Evidence("to measure the measuring", "everything else", "krishi-bench"),
    Key(RUNTIME, "provider"): Evidence(
        "hardware of its own", "nodes that it cannot take run on the CPU, with copies between", ORT_PROVIDERS
    ),
    Key(RUNTIME, "device", "cuda"): Evidence("large networks and batches", KERNELS, CUDA_GRAPHS),
    Key(RUNTIME, "precision", "tf32"): Evidence(
        "GPUs since Ampere: tensor cores for FP32 networks, without a conversion. Libraries have it on by "
        "default; here it is a variant of its own",
        "it is not FP32: three decimal digits of each factor count",
        TF32,
    ),
    Key(RUNTIME, "precision", "bf16"): Evidence(
        f"processors with avx512_bf16 or amx: {OPENVINO_BF16} in openvino",
        "without those instructions it is emulated, slowly; 8 bits of mantissa",
        f"{OPENVINO}; {MEASURED}",
    ),
    Key(RUNTIME, "precision", "bf16", gpu=True): Evidence(
        "GPUs since Ampere: tensor cores, and the range of FP32", "8 bits of mantissa", TENSOR_CORES
    ),
    Key(RUNTIME, "precision", "f16"): Evidence("ARM with asimdhp, x86 with avx512_fp16", OVERFLOW, OPENVINO),
    Key(RUNTIME, "precision", "f16", gpu=True): Evidence(
        "GPUs with tensor cores, for large networks and batches", OVERFLOW, TENSOR_CORES
    ),
    Key(RUNTIME, "cuda_graph", True): Evidence(
        "small networks at one photo a call, whose time goes into starting kernels one by one",
        "GPU memory for each batch size recorded; nothing to gain where the GPU is busy anyway",
        CUDA_GRAPHS,
    ),
    Key(RUNTIME, "max_batch"): Evidence(
        "larger: throughput; smaller: less GPU memory, and a shorter build",
        "more photos than that go in several calls",
        TENSORRT_SHAPES,
    ),
    Key(RUNTIME, "profile", "latency"): Evidence(
        "one photo at a time, as fast as can be",
        "photos that come at once wait for each other; spinning takes power",
        ORT_TUNING,
    ),
    Key(RUNTIME, "threads"): Evidence(
        "more than one shortens a single answer",
        "fewer answers at once; small networks gain little from the second thread",
        ORT_TUNING,
    ),
    Key(RUNTIME, "batch"): Evidence(
        "throughput, above all on GPUs",
        "each photo waits for the batch; never wins, because the server answers photo by photo",
        "krishi-bench, docs/recipes.md",
    ),
    Key(RUNTIME, "compile", True): Evidence(
        f"with BF16 on a CPU: {INDUCTOR_BF16}",
        "20 to 60 s a build; the file runs on hardware like this only, and is not promoted",
        MEASURED,
    ),
    Key(RUNTIME, "compile", True, gpu=True): Evidence(
        "operators are fused, so that the GPU has fewer kernels to start",
        "the file runs on a GPU like this only, and is not promoted",
        INDUCTOR,
    ),
    Key(RUNTIME, "streams"): Evidence("throughput", "the latency of each", OPENVINO),
    Key(RUNTIME, "graph_level"): Evidence(
        "less: for files that `optimize` has treated, or to find a faulty fusion",
        "less than `all` runs slower",
        ORT_TUNING,
    ),
    Key(RUNTIME, "spinning"): Evidence(
        "the latency of the next call", "processors that other processes need", ORT_TUNING
    ),
    Key(PREPROCESS, "scale"): Evidence(
        "fully convolutional networks: the work shrinks with the square (on a CPU 1.7 times the speed at 160 "
        f"instead of 224 pixels, and no loss); {CROPS}",
        "signs of a few pixels vanish; networks of one size are skipped",
        f"{TOUVRON}; {MEASURED}",
    ),
    Key(PREPROCESS, "crop"): Evidence("as `scale` does", "it fits one workspace only", TOUVRON),
    Key(PREPROCESS, "resize"): Evidence(
        "objects that fill little of the photo", "objects cut at the border", TOUVRON
    ),
    Key(PREPROCESS, "interpolation"): Evidence(
        "the filter that the network was trained with", "any other", "krishi-bench, docs/recipes.md"
    ),
    Key(PREPROCESS, "decode", "scaled"): Evidence(
        "photos of megapixels: 0.4 of the time for 12 of them; 0.6 and more of it where the file is large "
        "or progressive",
        "pixels differ by less than 1 of 255 on average from the full size's; small photos not at all",
        MEASURED_DECODE,
    ),
    Key(PREPROCESS, "decode", "full"): Evidence(
        "when no pixel may differ from the network's training photos",
        "decoding takes most of the time of a large photo",
        MEASURED_DECODE,
    ),
}


def evidence(of: str, field: str, value: str | bool | None, *, gpu: bool) -> Evidence | None:
    """The evidence for this value, or with None for any value but the default; for a GPU before that for
    all."""
    key = Key(of, field, value)
    return (EVIDENCE.get(replace(key, gpu=True)) if gpu else None) or EVIDENCE.get(key)
