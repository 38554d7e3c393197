"""INT8 with onnxruntime's quantiser and our own calibration."""
