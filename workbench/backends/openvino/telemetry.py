"""Keeping openvino and nncf from reporting to their maker."""

import sys


def without_telemetry() -> None:
    """To be called before `import openvino` or `import nncf`: both report to Intel as they are imported.

    They do without where `openvino_telemetry` is not installed; this makes it look so, in this process.
    The library's own switch is a file in the user's home, which is not ours to write.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
