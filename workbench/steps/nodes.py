"""Choosing nodes of a graph by name or by type, as recipes do in `exclude_nodes` and `exclude_op_types`."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import onnx


def matching(patterns: Iterable[str], model: "onnx.ModelProto", *, field: str) -> list[str]:
    """Names of the nodes that a name or a glob pattern fits, in graph order.

    Raises WorkbenchError naming the closest nodes where a pattern fits none.
    """
    names = [node.name for node in model.graph.node if node.name]
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
        if not found:
            raise WorkbenchError(
                f"{field}: no node is named `{pattern}`", hint=_closest(pattern, names, "the graph has")
            )
        chosen |= found
    return [name for name in names if name in chosen]


def known_op_types(op_types: Iterable[str], model: "onnx.ModelProto", *, field: str) -> set[str]:
    """The op types as a set.

    One that the graph happens not to have is fine, so that a recipe fits many networks; one that ONNX does
    not have either is a slip, and raises WorkbenchError.
    """
    import onnx

    chosen = set(op_types)
    present = {node.op_type for node in model.graph.node}
    for op_type in sorted(chosen - present):
        if not onnx.defs.has(op_type):
            raise WorkbenchError(
                f"{field}: ONNX has no operator `{op_type}`", hint=_closest(op_type, present, "the graph has")
            )
    return chosen


def _closest(wanted: str, names: Collection[str], have: str) -> str:
    close = get_close_matches(wanted.strip("*"), names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(f'`{name}`' for name in close)}?"
    return f"{have} {', '.join(f'`{name}`' for name in sorted(names)[:5])}, …"
