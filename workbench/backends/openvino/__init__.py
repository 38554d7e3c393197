"""OpenVINO."""

import sys


def without_telemetry() -> None:
    """Hide `openvino_telemetry`, with which `import openvino` and `import nncf` report to Intel.

    Both do without it. The library's own switch is a file in the user's home, which is not ours to write.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
