"""krishi-bench: from a trained checkpoint to a measured, promoted, served model."""

import os

__version__ = "0.1.0"

# Read by onnxruntime when it is first imported, here or in a child: some of its builds write an id below
# ~/.cache and send usage to their maker unless told not to. Who wants that can set it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
