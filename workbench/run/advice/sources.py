"""Sources, figures and phrases that the evidence (`evidence.yaml`) and the rules (`speed_rules`) share."""

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
TENSORRT_TYPES = "TensorRT documentation, Strongly typed networks and Working with quantized types"
TENSORRT_ENGINES = "TensorRT documentation, Engine compatibility"
CUDA_GRAPHS = "NVIDIA, CUDA graph best practice; TensorRT documentation, Optimizing performance"
TENSOR_CORES = "NVIDIA Ampere and Hopper architecture whitepapers: peak rates by precision; not measured here"
TOUVRON = "Touvron et al. 2019, Fixing the train-test resolution discrepancy (NeurIPS)"
NAGEL = "Nagel et al. 2019, Data-free quantization through weight equalization and bias correction (ICCV)"
KRISHNAMOORTHI = "Krishnamoorthi 2018, Quantizing deep convolutional networks for efficient inference"

# Speed over plain FP32 in onnxruntime at 224 pixels (see MEASURED).
STATIC_INT8 = "2.1 (MobileNetV2) and 3.4 times (ResNet-50)"
NNCF_OPENVINO = "1.8 (MobileNetV2) and 3.6 times (ResNet-50)"
DYNAMIC_INT8 = "0.12 (MobileNetV2) and 0.28 times (ResNet-50)"  # of convolutions too
DYNAMIC_UINT8 = "0.49 (MobileNetV2) and 1.1 times (ResNet-50)"
FP16_X86 = "0.86 (MobileNetV2) and 0.86 times (ResNet-50)"
OPENVINO_BF16 = "1.6 (MobileNetV2) and 2 times (ResNet-50)"

GATES = "FP32 fuses convolution and hard-swish, INT8 runs float gates with Q/DQ between"
SATURATION = "x86 without VNNI sums pairs of products with int8 weights in 16 bits, which saturate"
CROPS = "networks trained on random crops saw objects larger than at test time"
KERNELS = "at one photo a call, starting the kernels of a small network one by one takes longer than its work"
