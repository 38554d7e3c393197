"""One run on every device: the devices, the protocol to them, and what they measured side by side."""
