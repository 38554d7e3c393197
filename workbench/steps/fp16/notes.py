"""The note of the `fp16` step in the file it writes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import plural, some

NOTES = "krishi_bench.fp16"  # the key of the file's metadata


@dataclass(frozen=True, slots=True)
class Fp16Notes:
    """The note of a conversion.

    kept: nodes that stayed in FP32 because FP16 would harm them, and why. half_share: fraction of the MACs in
    FP16; None where shapes hide it. casts: between FP16 and FP32, those at both ends included.
    """

    kept: Mapping[str, str]
    half_share: float | None
    casts: int

    def text(self) -> str:
        """One line for the log."""
        share = "" if self.half_share is None else f", {self.half_share:.1%} of the multiplications in FP16"
        kept = [f"`{name}` ({reason})" for name, reason in self.kept.items()]
        listed = f": {some(kept, quote='')}" if kept else ""
        sensitive, casts = plural(len(kept), "sensitive node"), plural(self.casts, "cast")
        return f"fp16: {sensitive} kept in FP32{listed}{share}, {casts}"


def notes_of(path: Path) -> Fp16Notes | None:
    """The note of `fp16` in a file, None without one. Raises WorkbenchError as `load` does."""
    from workbench.model.graph.onnx_file import load

    for entry in load(path).metadata_props:
        if entry.key == NOTES:
            return Fp16Notes(**json.loads(entry.value))
    return None
