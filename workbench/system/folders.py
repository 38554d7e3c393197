"""Where build outputs, decoded pixels and the sample live between runs, named by content."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$KRISHI_CACHE`, else krishi-bench's folder in the user's cache. May not exist yet."""
    if chosen := os.environ.get("KRISHI_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "krishi-bench"
