"""From a torch network to an ONNX or torch file."""
