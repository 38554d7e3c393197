"""OpenVINO."""

import sys


def without_telemetry() -> None:
    """Hide `openvino_telemetry`, with which `import openvino` and `import nncf` report to Intel.

    Both do without it. The library's own switch is a file in the user's home, which is not ours to write.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def reason(error: Exception) -> str:
    """What openvino's message says is wrong, after places in its source: the operator, and what of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if line.startswith("-- ")]
    if not starts:
        return lines[-1] if lines else type(error).__name__
    what, told, _ = lines[starts[0]].removeprefix("-- ").partition(" with a message:")
    rest = lines[starts[0] + 1 :]
    end = next((n for n, line in enumerate(rest) if line.startswith(("-- ", "Summary"))), len(rest))
    return f"{what}: {rest[end - 1]}" if told and end else what
