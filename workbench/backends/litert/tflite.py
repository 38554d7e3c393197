"""`artifact.json` of a `.tflite` file, read back from the file."""

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.backends.artifact import ArtifactInfo, Precision
from workbench.backends.litert.audit import PRODUCTS
from workbench.backends.litert.interpreter import Interpreter
from workbench.system.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "model.tflite"


def tflite_info(path: Path) -> ArtifactInfo:
    """Raises WorkbenchError where LiteRT cannot open the file, or it is no classifier of one photo a call."""
    opened = Interpreter(path.read_bytes(), path.name, threads=1)
    shape = opened.taken.shape
    height, width = shape[1:3] if opened.channels_last else shape[2:4]
    return ArtifactInfo(
        format="tflite",
        file=path.name,
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        precision=_stored(opened),
        input_shape=(1, 3, height, width),
        classes=opened.given.shape[1],
    )


def _stored(opened: Interpreter) -> Precision:
    """The narrowest type of the weights of its products."""
    types: Mapping[int, str] = {
        each["index"]: each["dtype"].__name__ for each in opened.native.get_tensor_details()
    }
    weights = {
        types.get(int(node["inputs"][1]), "")
        for node in opened.native._get_ops_details()
        if node["op_name"] in PRODUCTS and len(node["inputs"]) > 1
    }
    if weights & {"int8", "uint8", "int4"}:
        return "int8"
    return "fp16" if "float16" in weights else "fp32"
