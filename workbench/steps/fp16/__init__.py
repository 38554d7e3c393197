"""FP16 weights and activations."""
