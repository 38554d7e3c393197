"""krishi-bench: from a trained checkpoint to a measured, promoted, served model."""

__version__ = "0.1.0"
