"""ONNX graphs: their inputs, nodes and structure."""
