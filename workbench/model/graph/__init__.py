"""What an ONNX file holds."""
