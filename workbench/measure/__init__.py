"""Measuring: accuracy, parity, latency, memory. Nothing here knows a backend by name."""
