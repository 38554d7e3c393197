"""The audit of TensorRT: the layers of an engine and what they compute in, from its inspector.

The inspector's JSON names, for each layer, the types of its tensors and weights, and the ONNX nodes that were
fused into it. Nodes are weighed by their multiply-accumulates in the file. Missing types count as unknown.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import Artifact
from workbench.backends.audit import Audit, Computed, Product, audit_of
from workbench.backends.mac_count import macs_of, multiplying

if TYPE_CHECKING:
    import onnx


PROVIDER = "TensorRT"
NODE = re.compile(r"\[ONNX Layer: ([^\]\x1d-\x1f]*)\]")
PROFILE = re.compile(r"\[profile (\d+)\]")
# In the inspector's words: `Half`, or with its layout, `Channel major FP16 format where channel % 8 == 0`.
WORDS: tuple[tuple[str, Computed], ...] = (
    ("bf16", "bf16"), ("bfloat16", "bf16"), ("fp16", "fp16"), ("half", "fp16"),
    ("int8", "int8"), ("fp32", "fp32"), ("float", "fp32"),
)  # fmt: skip
MOVES = frozenset({"Reformat", "NoOp", "Constant", "Shape", "Shuffle", "Slice", "Concat", "Signal", "Wait"})


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """A layer of the engine. given, made: its input and output tensors, each a name and a type."""

    kind: str
    nodes: frozenset[str]
    given: tuple[tuple[str, Computed], ...]
    made: tuple[tuple[str, Computed], ...]
    weights: Computed | None
    quantises: bool

    @property
    def computed(self) -> Computed:
        """The type of its data and its weights, where they agree.

        A layer that does not state its weights counts where all it reads is of one type.
        """
        if self.weights is not None:
            kinds = {self.weights, *(kind for _, kind in self.given[:1])}
        else:
            kinds = {kind for _, kind in self.given}
        return kinds.pop() if len(kinds) == 1 else "unknown"


def audit_engine(report: str, artifact: Artifact, *, profile: int) -> Audit:
    """The audit of an engine. report: its inspector's. artifact: the file that it was built from.

    profile: the optimisation profile whose layers count; the others hold the same network again.
    """
    import onnx

    source = onnx.load_from_string(artifact.read())
    counted = macs_of(source)
    products = multiplying(source)
    layers = layers_of(report, profile)
    return audit_of(
        products_of(layers, source, counted),
        asked=artifact.info.precision,
        providers={PROVIDER: len(layers)} if layers else {},
        casts=sum(map(_casts, layers)) if layers else None,
        unfused_qdq=_unfused(layers, _names(source)) if layers else None,
        macs=sum(counted.values()) if len(counted) == len(products) else None,
    )


def layers_of(report: str, profile: int) -> list[EngineLayer]:
    """Empty where the report is no JSON (some versions do not escape) or holds names alone."""
    try:
        listed = json.loads(report).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        return []
    found = [each for each in listed if isinstance(each, dict)]
    of_all = [PROFILE.search(str(each.get("Name", ""))) for each in found]
    return [
        _layer(each)
        for each, marked in zip(found, of_all, strict=True)
        if int(marked[1] if marked else 0) == profile or not any(of_all)
    ]


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    weights = entry.get("Weights")
    return EngineLayer(
        kind=str(entry.get("LayerType", "")),
        nodes=frozenset(NODE.findall(str(entry.get("Metadata", "")))),
        given=_tensors(entry.get("Inputs")),
        made=_tensors(entry.get("Outputs")),
        weights=_kind(str(weights["Type"])) if isinstance(weights, dict) and "Type" in weights else None,
        quantises=entry.get("Origin") == "QDQ",
    )


def _tensors(listed: object) -> tuple[tuple[str, Computed], ...]:
    entries = listed if isinstance(listed, list) else []
    return tuple(
        (str(each.get("Name", "")), _kind(str(each.get("Format/Datatype", ""))))
        for each in entries
        if isinstance(each, dict)
    )


def _kind(words: str) -> Computed:
    lower = words.lower()
    return next((kind for word, kind in WORDS if word in lower), "unknown")


def _names(source: "onnx.ModelProto") -> dict[str, str]:
    """TensorRT's names of the nodes that multiply -> those of `macs_of`."""
    return {node.name or f"node_of_{node.output[0]}": name for name, node in multiplying(source)}


def products_of(
    layers: Sequence[EngineLayer], source: "onnx.ModelProto", counted: Mapping[str, int]
) -> list[Product]:
    """The file's nodes that multiply, in the precision of the layers they went into."""
    return [
        Product(
            _agreed(layer.computed for layer in layers if theirs in layer.nodes and not _moves(layer)), macs
        )
        for theirs, ours in _names(source).items()
        if (macs := counted.get(ours)) is not None
    ]


def _moves(layer: EngineLayer) -> bool:
    return layer.kind in MOVES or layer.quantises


def _agreed(kinds: Iterable[Computed]) -> Computed:
    found = set(kinds)
    return found.pop() if len(found) == 1 else "unknown"


def _casts(layer: EngineLayer) -> bool:
    """A layer that does nothing but change the float format."""
    floats = {kind for _, kind in (*layer.given[:1], *layer.made[:1])}
    return layer.kind == "Reformat" and len(floats) > 1 and not floats & {"int8", "unknown"}


def _unfused(layers: Sequence[EngineLayer], products: Mapping[str, str]) -> int:
    """Layers that only quantise or dequantise, behind one multiplication and before another."""
    multiply = [layer for layer in layers if layer.nodes & products.keys() and not _moves(layer)]
    after = {name for layer in multiply for name, _ in layer.made}
    before = {name for layer in multiply for name, _ in layer.given}
    for layer in layers:  # each comes after what it reads
        if after & {name for name, _ in layer.given}:
            after.update(name for name, _ in layer.made)
    for layer in reversed(layers):
        if before & {name for name, _ in layer.made}:
            before.update(name for name, _ in layer.given)
    return sum(
        layer.quantises
        and bool(after & {name for name, _ in layer.given})
        and bool(before & {name for name, _ in layer.made})
        for layer in layers
    )
