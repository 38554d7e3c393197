"""What the `fp16` step notes in the file it writes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Converter = Literal["onnxruntime", "modelopt"]

NOTES = "krishi_bench.fp16"  # the key of the file's metadata
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Fp16Notes:
    """What a conversion did, as it is noted in the file.

    kept: nodes that stayed in FP32 because FP16 would harm them, and why. half_share: fraction of the MACs in
    FP16; None where shapes hide it. casts: between FP16 and FP32, those at both ends included.
    """

    converter: Converter
    kept: Mapping[str, str]
    half_share: float | None
    casts: int

    def text(self) -> str:
        """One line for the log."""
        share = "" if self.half_share is None else f", {self.half_share:.1%} of the multiplications in FP16"
        names = [f"`{name}` ({reason})" for name, reason in list(self.kept.items())[:SHOWN]]
        more = [f"{len(self.kept) - SHOWN} more"] if len(self.kept) > SHOWN else []
        listed = f": {', '.join([*names, *more])}" if names else ""
        nodes = "node" if len(self.kept) == 1 else "nodes"
        return (
            f"fp16: converted with {self.converter}, {len(self.kept)} sensitive {nodes} kept in FP32{listed}"
            f"{share}, {self.casts} casts"
        )


def notes_of(path: Path) -> Fp16Notes | None:
    """What `fp16` noted in a file; None where it did not make it. Raises WorkbenchError as `load` does."""
    from workbench.model.graph.onnx_file import load

    for entry in load(path).metadata_props:
        if entry.key == NOTES:
            return Fp16Notes(**json.loads(entry.value))
    return None
