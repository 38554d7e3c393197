"""How a process of ours starts another with the same modules."""

import os
import sys


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """The child looks for modules where this process does, and nowhere else: `-m` alone would put the
    current folder first, and with it a user's own `serve.py`."""
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
