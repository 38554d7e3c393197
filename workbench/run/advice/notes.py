"""What is known of each step, setting and runtime: what it does, when it helps, when it hurts, says who.

Tables and nothing else; `explain` reads them. Keys: the `use` of a step, the name of a backend,
`owner.setting` for a setting that is not at its default, `owner.setting=value` for one value of it. NOTES
hold everywhere, and on a GPU where ON_GPU has no other.
Speeds are ratios to plain FP32 in onnxruntime: MobileNetV2 and ResNet-50 at 224 pixels, one thread, on one
x86 machine with VNNI. What is said of GPUs is what the sources say: none of it was measured here.
"""

from dataclasses import dataclass

ORT_QUANTIZATION = "onnxruntime documentation, Quantize ONNX models"
ORT_TUNING = "onnxruntime documentation, Thread management and Graph optimizations"
NNCF = "NNCF documentation, Post-training quantization"
OPENVINO = "OpenVINO documentation, Precision control and Performance hints"
MEASURED = "measured: onnxruntime 1.32, openvino 2026.4, torch 2.13, x86 with VNNI and BF16"
MEASURED_DECODE = "libjpeg documentation, scale_num; measured: Pillow 13, JPEG of 12 megapixels to 256 pixels"
TOUVRON = "Touvron et al. 2019, Fixing the train-test resolution discrepancy (NeurIPS)"
NAGEL = "Nagel et al. 2019, Data-free quantization through weight equalization and bias correction (ICCV)"
TENSORRT = "TensorRT documentation, Optimizing performance"
TENSORRT_TYPES = "TensorRT documentation, Strongly typed networks and Working with quantized types"
TENSORRT_ENGINES = "TensorRT documentation, Engine compatibility"
TENSORRT_RTX = "TensorRT-RTX documentation, Support matrix; onnxruntime-ep-nv-tensorrt-rtx 0.5"
CUDA_GRAPHS = "NVIDIA, CUDA graph best practice; TensorRT documentation, Optimizing performance"
TENSOR_CORES = "NVIDIA Ampere and Hopper architecture whitepapers: peak rates by precision"
INDUCTOR = "torch documentation, AOTInductor"
TF32 = "NVIDIA Ampere architecture whitepaper; torch documentation, CUDA semantics"
MODELOPT = "NVIDIA ModelOpt documentation, ONNX quantization and AutoCast"
KRISHNAMOORTHI = "Krishnamoorthi 2018, Quantizing deep convolutional networks for efficient inference"


@dataclass(frozen=True, slots=True)
class Note:
    """helps, hurts: None where there is nothing to say."""

    does: str
    helps: str | None
    hurts: str | None
    source: str


EXPORTERS: dict[str, Note] = {
    "dynamo": Note(
        "torch's current exporter; folds batch norms, writes opset 18 and newer",
        "nearly always",
        "it takes some seconds, and networks with data-dependent control flow do not export",
        "torch documentation, torch.onnx; " + MEASURED,
    ),
    "torchscript": Note(
        "torch's deprecated exporter; writes opsets 7 to 23",
        "for runtimes that need an old opset, and networks that dynamo cannot take",
        "it follows one run of the network: control flow that depends on the photo is lost",
        "torch documentation, torch.onnx; " + MEASURED,
    ),
}

NOTES: dict[str, Note] = {
    "simplify": Note(
        "folds constants and removes nodes that do nothing; the logits stay the same",
        "graphs of the torchscript exporter, and before quantising",
        "nothing; runtimes do most of it themselves when they open the file",
        "onnxslim and onnxsim documentation",
    ),
    "static_int8": Note(
        "weights and activations in 8 bits, with ranges found on photos beforehand (QDQ)",
        "plain convolutions on processors with INT8 dot products: 2.1 times (MobileNetV2), 3.4 times "
        "(ResNet-50)",
        "hard-swish and squeeze-and-excitation: FP32 fuses convolution and hard-swish, INT8 runs float gates "
        "with Q/DQ between (a MobileNetV3-like student: 0.9 times); transformers lose accuracy",
        f"{ORT_QUANTIZATION}; {MEASURED}",
    ),
    "static_int8.calibration.method=minmax": Note(
        "the range is all that was seen",
        "ReLU networks, and few photos",
        "one outlier stretches the range and coarsens everything else",
        KRISHNAMOORTHI,
    ),
    "static_int8.calibration.method=entropy": Note(
        "the range that keeps most of the distribution (KL divergence), over 2048 bins",
        "long tails, as of swish",
        "it clips what is rare; with onnxruntime's default of 128 bins it would equal minmax",
        "Migacz 2017, 8-bit inference with TensorRT; onnxruntime issue 9597",
    ),
    "static_int8.calibration.method=percentile": Note(
        "the range of all but the outermost values",
        "long tails, as of swish",
        "transformers, whose outliers carry meaning",
        "Wu et al. 2020, Integer quantization for deep learning inference; onnxruntime issue 10571",
    ),
    "static_int8.calibration.method=distribution": Note(
        "the range from the mean and the standard deviation",
        "activations that are close to normal",
        "skewed ones",
        "onnxruntime, quantization/calibrate.py",
    ),
    "static_int8.activation=uint8": Note(
        "activations from 0 to 255, with a zero point of their own",
        "what comes out of ReLU and hard-swish uses all 256 levels; the fast kernels of x86 take it",
        "x86 without VNNI sums pairs of uint8 x int8 products in 16 bits, which saturate: use reduce_range",
        ORT_QUANTIZATION,
    ),
    "static_int8.activation=int8": Note(
        "activations from -128 to 127 around zero",
        "ARM and TensorRT",
        "x86, where onnxruntime turns them into uint8 and they saturate alike without VNNI; with VNNI "
        "1.3 and 1.5 times, where uint8 gives 2.1 and 3.4; half the levels after a ReLU",
        f"{ORT_QUANTIZATION}; {MEASURED}",
    ),
    "static_int8.format=qoperator": Note(
        "onnxruntime's own 8-bit operators instead of marks around float ones",
        "old runtimes that do not read QDQ",
        "with int8 activations it is slow on x86; other runtimes cannot read it",
        ORT_QUANTIZATION,
    ),
    "static_int8.placement=tensorrt": Note(
        "pairs at the inputs of convolutions and products alone, symmetric, biases in float",
        "TensorRT, which fuses a pair into the layer behind it and a residual addition into the convolution",
        "CPUs: most of the graph stays in float",
        f"{TENSORRT_TYPES}; NVIDIA TensorRT documentation, Q/DQ layer placement",
    ),
    "static_int8.rest=fp16": Note(
        "what is not quantised is written in FP16, which TensorRT runs as it is written",
        "layers left out, and everything between convolutions, on tensor cores",
        "values over 65504; it needs opset 19",
        TENSORRT_TYPES,
    ),
    "static_int8.per_channel=true": Note(
        "a weight scale for every output channel",
        "depthwise convolutions, whose filters differ by orders of magnitude",
        "dead channels get scales so small that biases overflow (repaired here)",
        f"{KRISHNAMOORTHI}; onnxruntime issue 11415",
    ),
    "static_int8.per_channel=false": Note(
        "one weight scale for each layer",
        "networks with dead channels, and runtimes without per-channel kernels",
        "depthwise convolutions lose much accuracy",
        KRISHNAMOORTHI,
    ),
    "static_int8.reduce_range=true": Note(
        "weights in 7 bits",
        "x86 without VNNI: pairs of products fit into 16 bits, so nothing saturates",
        "half the levels of the weights, for nothing where there is VNNI or ARM",
        ORT_QUANTIZATION,
    ),
    "static_int8.symmetric": Note(
        "whether the zero of an activation is in the middle of the levels",
        "symmetric: kernels without zero points; not: skewed activations",
        None,
        KRISHNAMOORTHI,
    ),
    "static_int8.exclude_roles": Note(
        "layers that play these parts stay in float",
        "first and last layers and squeeze-and-excitation: sensitive, and little of the work",
        "each border costs a conversion; depthwise layers left out keep most of FP32's time",
        "NVIDIA TensorRT documentation, Working with quantized types; brevitas issue 1341",
    ),
    "static_int8.exclude_nodes": Note(
        "the nodes named stay in float", "layers that a sensitivity analysis found", "speed", NNCF
    ),
    "static_int8.exclude_op_types": Note(
        "operators of these types stay in float", "gates and additions between convolutions", "speed", NNCF
    ),
    "static_int8.only_nodes": Note(
        "the nodes named are quantised and no others",
        "when few layers hold most of the work",
        "each border costs a conversion",
        NNCF,
    ),
    "static_int8.op_types": Note(
        "operators of these types are quantised and no others",
        "products alone, where what lies between them gains nothing in 8 bits",
        "each border costs a conversion",
        NNCF,
    ),
    "static_int8.overrides": Note(
        "another calibration method for the outputs of some nodes",
        "networks where one kind of layer has long tails",
        None,
        "Wu et al. 2020, Integer quantization for deep learning inference",
    ),
    "static_int8.equalize=true": Note(
        "evens out the weight ranges of neighbouring layers, without changing what the network computes",
        "depthwise networks with ReLU, above all per tensor",
        "nothing to gain where other activations are between the layers",
        NAGEL,
    ),
    "static_int8.bias_correction=true": Note(
        "takes back by the biases what quantising shifts on average",
        "depthwise networks, low accuracy after calibration",
        "few photos: the mean shift is itself uncertain",
        NAGEL,
    ),
    "dynamic_int8": Note(
        "weights in 8 bits; activations are quantised anew at every call",
        "matrix products of transformers; no photos are needed",
        "convolutions become ConvInteger: 0.1 to 0.3 times with int8 weights, 0.5 to 1.1 with uint8",
        f"{ORT_QUANTIZATION}; {MEASURED}",
    ),
    "dynamic_int8.op_types": Note(
        "the operators that are quantised",
        "MatMul and Gemm, the default",
        "with Conv it is the slowest choice there is for a convolutional network",
        MEASURED,
    ),
    "nncf_int8": Note(
        "NNCF's post-training quantisation: 8-bit weights and activations, biases corrected",
        "plain convolutions on processors with INT8 dot products: 1.8 times (MobileNetV2), 3.6 times "
        "(ResNet-50) in openvino",
        "long builds with accuracy_control; in onnxruntime, networks with hard-swish are slow",
        f"{NNCF}; {MEASURED}",
    ),
    "nncf_int8.preset=mixed": Note(
        "activations with a zero point of their own",
        "hard-swish, swish, GELU",
        None,
        NNCF,
    ),
    "nncf_int8.preset=performance": Note(
        "activations symmetric around zero",
        "networks of ReLU; somewhat faster kernels",
        "skewed activations",
        NNCF,
    ),
    "nncf_int8.fast_bias_correction=false": Note(
        "each bias is corrected on the network quantised so far",
        "accuracy, where the fast way is not enough",
        "the build takes many times longer",
        NNCF,
    ),
    "nncf_int8.channel_alignment=true": Note(
        "evens out neighbouring channels first", "depthwise networks", None, f"{NNCF}; {NAGEL}"
    ),
    "nncf_int8.overflow_fix=enable": Note(
        "half the weight range in every layer",
        "fleets with processors without VNNI: nothing saturates",
        "half the levels of the weights",
        NNCF,
    ),
    "nncf_int8.accuracy_control": Note(
        "layers go back to float until the drop is small enough",
        "when the drop is over the budget",
        "one validation for every layer tried, and it does not look at time",
        NNCF,
    ),
    "nncf_int8.model_type=transformer": Note(
        "the sensitive parts of attention stay in float", "transformers", None, NNCF
    ),
    "fp16": Note(
        "weights and arithmetic in 16-bit floats; nodes that it would harm stay in FP32",
        "the file is half as large; GPUs with tensor cores compute it faster",
        "x86 processors compute it in FP32 behind casts: 0.86 times; each border to what stays "
        "in FP32 is a cast",
        f"{MEASURED}; onnxruntime issue 16778; {TENSORRT_TYPES}",
    ),
    "fp16.keep_sensitive=true": Note(
        "runs the FP32 network over photos; what would not fit into FP16, or would vanish in it, stays FP32",
        "networks with large activations, which would otherwise give infinities on a GPU",
        "speed, where much stays in FP32: each border costs a cast",
        f"{MODELOPT}; krishi-bench, docs/gpu.md",
    ),
    "fp16.keep_sensitive=false": Note(
        "converts all that the converter can",
        "networks known to fit: nothing is run over photos",
        "an activation that does not fit is an error, and one that is rare enough is found by nobody",
        "krishi-bench, docs/gpu.md",
    ),
    "fp16.converter": Note(
        "who writes the casts: onnxruntime's converter, or AutoCast of NVIDIA's ModelOpt",
        "modelopt: what TensorRT's own documentation points to since its FP16 switch is gone",
        "modelopt pins an older onnx and onnxruntime-gpu",
        f"{MODELOPT}; {TENSORRT_TYPES}",
    ),
    "modelopt_int8": Note(
        "INT8 by NVIDIA's ModelOpt: explicit pairs (QDQ), calibrated on photos",
        "TensorRT, and to compare our own calibration with NVIDIA's",
        "its packages pin an older onnx and onnxruntime-gpu; on CPUs most of the graph stays in float",
        f"{MODELOPT}; {TENSORRT_TYPES}",
    ),
    "modelopt_int8.method=entropy": Note(
        "the range that keeps most of the distribution (KL divergence)",
        "long tails, as of swish",
        "it clips what is rare",
        MODELOPT,
    ),
    "modelopt_int8.method=max": Note(
        "the range is all that was seen",
        "ReLU networks, and few photos",
        "one outlier stretches the range and coarsens everything else",
        MODELOPT,
    ),
    "modelopt_int8.high_precision_dtype=fp16": Note(
        "what is not quantised is written in FP16, which TensorRT runs as it is written",
        "everything between convolutions, on tensor cores",
        "values over 65504",
        TENSORRT_TYPES,
    ),
    "fold_preprocess": Note(
        "the graph takes uint8 pixels and normalises them itself",
        "serving: the conversion to float outside took 0.5 ms, as long as decoding a small photo",
        "a file that other tools cannot feed with floats",
        MEASURED,
    ),
    "optimize": Note(
        "onnxruntime's graph optimisations, done once and kept in the file",
        "the time to open a session",
        "not the speed of an answer; level `all` is bound to the processor that made it",
        ORT_TUNING,
    ),
    "fixed_batch": Note(
        "the batch size becomes a constant",
        "compilers that plan memory ahead (TensorRT, NPUs)",
        "no other batch size can be asked for",
        "ONNX specification, Shape inference",
    ),
    "dynamic_batch": Note(
        "the batch size becomes free",
        "files exported with a fixed one",
        None,
        "ONNX specification, Shape inference",
    ),
    "onnxruntime": Note(
        "runs the ONNX file",
        "the widest choice of hardware; fuses convolution, batch norm and activation in FP32",
        None,
        "onnxruntime documentation",
    ),
    "openvino": Note(
        "runs the network as OpenVINO IR",
        "Intel and AMD processors with BF16 or VNNI: 1.6 and 2.0 times with the bf16 hint",
        "start-up: networks are compiled when they are opened",
        f"{OPENVINO}; {MEASURED}",
    ),
    "tensorrt": Note(
        "runs an engine that TensorRT builds from the ONNX file, on the machine that runs it",
        "NVIDIA GPUs: layers fused, kernels chosen by timing them on the GPU that is there",
        "building takes long, and again for every GPU, driver and TensorRT version; an engine is code, and "
        "never travels",
        f"{TENSORRT}; {TENSORRT_ENGINES}",
    ),
    "torch": Note(
        "runs the network in torch",
        "as the reference, and compiled where BF16 is in hardware",
        "operator by operator it is slow: 0.2 to 0.6 times",
        MEASURED,
    ),
    "null": Note("computes nothing", "to measure the measuring", "everything else", "krishi-bench"),
    "runtime.provider": Note(
        "the execution provider of onnxruntime",
        "hardware of its own: tensorrt builds an engine for one GPU",
        "nodes that it cannot take fall back to the CPU with copies between",
        "onnxruntime documentation, Execution providers",
    ),
    "runtime.device=cuda": Note(
        "runs on an NVIDIA GPU; FP32 is exact unless `precision: tf32` says otherwise",
        "large networks and batches",
        "at one photo a call, starting kernels and copying can take longer than the work",
        CUDA_GRAPHS,
    ),
    "runtime.precision=tf32": Note(
        "what a GPU multiplies is rounded to 10 bits of mantissa; sums stay in FP32",
        "GPUs since Ampere: tensor cores for FP32 networks, nothing converted. Libraries have it on by "
        "default, and here it is a variant of its own",
        "it is not FP32: three decimal digits of each factor count",
        TF32,
    ),
    "runtime.cuda_graph=true": Note(
        "records the kernels of a call once, and starts them all at once from then on",
        "small networks at one photo a call, whose time goes into starting kernels one by one",
        "GPU memory for each batch size recorded; nothing to gain where the GPU is busy anyway",
        CUDA_GRAPHS,
    ),
    "runtime.max_batch": Note(
        "the most photos that an engine takes in one call; 64 by default",
        "larger: throughput; smaller: less GPU memory, and a shorter build",
        "more photos than that go in several calls",
        "TensorRT documentation, Working with dynamic shapes",
    ),
    "runtime.profile=latency": Note(
        "one session on all processors, whose threads spin",
        "one photo at a time, as fast as can be",
        "photos that come at once wait for each other; spinning takes power",
        ORT_TUNING,
    ),
    "runtime.threads": Note(
        "threads of one session",
        "more than one shortens a single answer",
        "fewer answers at once; small networks gain little from the second thread",
        ORT_TUNING,
    ),
    "runtime.batch": Note(
        "photos per call while timing",
        "throughput, above all on GPUs",
        "each photo waits for the batch; never wins, because the server answers photo by photo",
        "krishi-bench, docs/recipes.md",
    ),
    "runtime.precision=bf16": Note(
        "multiplies in BF16",
        "processors with avx512_bf16 or amx: 1.6 (MobileNetV2) and 2.0 times (ResNet-50) in openvino",
        "without those instructions it is emulated, slowly; 8 bits of mantissa",
        f"{OPENVINO}; {MEASURED}",
    ),
    "runtime.precision=f16": Note(
        "multiplies in FP16 where the hardware can",
        "ARM with asimdhp, x86 with avx512_fp16",
        "overflow over 65504",
        OPENVINO,
    ),
    "runtime.compile=true": Note(
        "inductor compiles the network ahead of time, weights frozen",
        "with BF16 on a CPU: 0.8 (MobileNetV2) and 1.8 times (ResNet-50)",
        "20 to 60 s a build; the file runs on hardware like this only, and is not promoted",
        MEASURED,
    ),
    "runtime.streams": Note(
        "requests that openvino works on at once", "throughput", "the latency of each", OPENVINO
    ),
    "runtime.graph_level": Note(
        "how far onnxruntime rewrites the graph when it opens it",
        "less: for files that `optimize` has treated, or to find a faulty fusion",
        "less than `all` runs slower",
        ORT_TUNING,
    ),
    "runtime.spinning": Note(
        "threads spin while they wait",
        "the latency of the next call",
        "the processors of everyone else",
        ORT_TUNING,
    ),
    "preprocess.scale": Note(
        "another input size, as a fraction of the workspace's; the same part of the photo",
        "fully convolutional networks: the work shrinks with the square (on a CPU 1.7 times at 160 instead "
        "of 224 pixels, and no loss); trained on random crops, they saw larger objects than at test time",
        "signs of a few pixels vanish; networks of one size are skipped",
        f"{TOUVRON}; {MEASURED}",
    ),
    "preprocess.crop": Note(
        "another input size, in pixels; `resize` follows it",
        "as `scale` does",
        "it fits one workspace only",
        TOUVRON,
    ),
    "preprocess.resize": Note(
        "another size of the shorter side before the crop: how much of the photo is seen",
        "objects that fill little of the photo",
        "objects cut at the border",
        TOUVRON,
    ),
    "preprocess.interpolation": Note(
        "how pixels are computed when a photo is resized",
        "the one the network was trained with",
        "any other",
        "krishi-bench, docs/recipes.md",
    ),
    "preprocess.decode=scaled": Note(
        "JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where twice `resize` is left",
        "photos of megapixels: 0.4 of the time for 12 of them; 0.6 and more of it where the file is large "
        "or progressive",
        "pixels differ by less than 1 of 255 on average from the full size's; small photos not at all",
        MEASURED_DECODE,
    ),
    "preprocess.decode=full": Note(
        "JPEGs are decoded at their full size, then resized",
        "when no pixel may differ from what the network was trained on",
        "decoding takes most of the time of a large photo",
        MEASURED_DECODE,
    ),
    "preprocess.mean": Note(
        "another normalisation", "when the checkpoint states it wrongly", "otherwise", "krishi-bench"
    ),
    "preprocess.std": Note(
        "another normalisation", "when the checkpoint states it wrongly", "otherwise", "krishi-bench"
    ),
}

ON_GPU: dict[str, Note] = {
    "static_int8": Note(
        NOTES["static_int8"].does,
        "large plain convolutions and batches, on tensor cores, with `placement: tensorrt`",
        "any other placement is made for CPUs: its pairs run as kernels of their own; depthwise "
        "convolutions, hard-swish and transformers lose accuracy first",
        f"{TENSORRT_TYPES}; {TENSOR_CORES}",
    ),
    "static_int8.activation=uint8": Note(
        NOTES["static_int8.activation=uint8"].does,
        None,
        "TensorRT, which takes symmetric int8 alone",
        TENSORRT_TYPES,
    ),
    "static_int8.activation=int8": Note(
        NOTES["static_int8.activation=int8"].does,
        "TensorRT, which takes nothing else",
        "half the levels after a ReLU",
        TENSORRT_TYPES,
    ),
    "static_int8.format=qoperator": Note(
        NOTES["static_int8.format=qoperator"].does,
        None,
        "TensorRT cannot read it",
        f"{ORT_QUANTIZATION}; {TENSORRT_TYPES}",
    ),
    "static_int8.reduce_range=true": Note(
        NOTES["static_int8.reduce_range=true"].does,
        None,
        "half the levels of the weights, for nothing: it is for x86 processors without VNNI",
        ORT_QUANTIZATION,
    ),
    "dynamic_int8": Note(
        NOTES["dynamic_int8"].does,
        None,
        "its operators run on the CPU, with copies from and to the GPU between",
        "onnxruntime documentation, Execution providers",
    ),
    "dynamic_int8.op_types": Note(
        NOTES["dynamic_int8.op_types"].does,
        None,
        "each runs on the CPU then, with copies from and to the GPU",
        "onnxruntime documentation, Execution providers",
    ),
    "nncf_int8": Note(
        NOTES["nncf_int8"].does,
        None,
        "its pairs are placed for CPUs; for GPUs there are static_int8 with `placement: tensorrt` and "
        "modelopt_int8",
        f"{NNCF}; {TENSORRT_TYPES}",
    ),
    "fp16": Note(
        NOTES["fp16"].does,
        "large networks and batches, on tensor cores; the file is half as large",
        "each border to what stays in FP32 is a cast; at one photo a call, small networks wait for kernels "
        "to start",
        f"{TENSOR_CORES}; {TENSORRT_TYPES}",
    ),
    "torch": Note(
        NOTES["torch"].does,
        "as the reference, and for operators that other runtimes lack",
        "eager, it starts at least one kernel an operator on the GPU: small networks wait for that",
        CUDA_GRAPHS,
    ),
    "runtime.compile=true": Note(
        NOTES["runtime.compile=true"].does,
        "operators are fused, so that the GPU has fewer kernels to start",
        "the file runs on a GPU like this only, and is not promoted",
        INDUCTOR,
    ),
    "runtime.precision=bf16": Note(
        NOTES["runtime.precision=bf16"].does,
        "GPUs since Ampere: tensor cores, and the range of FP32",
        "8 bits of mantissa",
        TENSOR_CORES,
    ),
    "runtime.precision=f16": Note(
        "multiplies in FP16",
        "GPUs with tensor cores, for large networks and batches",
        "overflow over 65504",
        TENSOR_CORES,
    ),
}
"""Other notes of the same keys, for variants that run on a GPU."""
