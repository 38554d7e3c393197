"""The public names of TensorRT's Python binding, as recorded from the real one.

    python -m tests.nvidia.surface tests/data/api           # of the `tensorrt` that is installed
    python -m tests.nvidia.surface tests/data/api FOLDER    # of a wheel that was unpacked there

A wheel's binding loads without a GPU; it needs libraries of the names that its `tensorrt.so` asks for, on
LD_LIBRARY_PATH. Empty ones will do, that define the symbols: nothing of them is called.
"""

import importlib.util
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data" / "api"
CLASSES = (
    "Builder", "IBuilderConfig", "INetworkDefinition", "ITensor", "OnnxParser", "ParserError",
    "IOptimizationProfile", "IHostMemory", "ITimingCache", "Runtime", "ICudaEngine", "IExecutionContext",
    "EngineInspector", "ILogger",
)  # fmt: skip
ENUMS = (
    "BuilderFlag", "NetworkDefinitionCreationFlag", "HardwareCompatibilityLevel", "ProfilingVerbosity",
    "MemoryPoolType", "LayerInformationFormat", "DataType", "TensorIOMode",
    "ExecutionContextAllocationStrategy", "ILogger.Severity",
)  # fmt: skip


@dataclass(frozen=True)
class Surface:
    """module: names of the module. classes: of what we use. enums: members with their numbers."""

    version: str
    module: frozenset[str]
    classes: dict[str, frozenset[str]]
    enums: dict[str, dict[str, int]]


def load(name: str) -> Surface:
    """name: `tensorrt-10.13`, as the file is called."""
    held = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    classes = {key: frozenset(names) for key, names in held["classes"].items()}
    return Surface(held["version"], frozenset(held["module"]), classes, held["enums"])


def public(thing: object) -> list[str]:
    return sorted(name for name in dir(thing) if not name.startswith("_"))


def read(trt: Any, version: str) -> dict[str, object]:
    """What a module of TensorRT shows."""
    return {
        "version": version,
        "module": public(trt),
        "classes": {name: public(getattr(trt, name)) for name in CLASSES},
        "enums": {name: members(trt, name) for name in ENUMS},
    }


def members(trt: Any, path: str) -> dict[str, int]:
    found = trt
    for name in path.split("."):
        found = getattr(found, name)
    return {name: int(member) for name, member in found.__members__.items()}


def _unpacked(folder: Path) -> tuple[Any, str]:
    spec = importlib.util.spec_from_file_location("tensorrt", folder / "tensorrt_bindings" / "tensorrt.so")
    assert spec is not None and spec.loader is not None
    trt = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trt)
    text = (folder / "tensorrt_bindings" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.*)"', text, re.MULTILINE)
    assert found is not None
    return trt, found[1]


def record(target: Path, folder: Path | None) -> Path:
    if folder is None:
        import tensorrt as trt

        version = str(trt.__version__)
    else:
        trt, version = _unpacked(folder)
    path = target / f"tensorrt-{'.'.join(version.split('.')[:2])}.json"
    path.write_text(json.dumps(read(trt, version), indent=1) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    record(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
