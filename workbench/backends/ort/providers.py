"""The provider of onnxruntime that really got the graph: it falls back to the CPU without an error."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import onnxruntime


# The option with which a session keeps which provider got which node.
RECORD = "session.record_ep_graph_assignment_info"


def assigned(session: "onnxruntime.InferenceSession") -> dict[str, int]:
    """Nodes of the graph per provider, as the session was split, before a provider fuses what it took.

    The session must have been opened with RECORD, by onnxruntime 1.24 or newer.
    """
    parts = session.get_provider_graph_assignment_info()
    return dict(Counter(part.ep_name for part in parts for _ in part.get_nodes()))


def refuse_other(taken: str, wanted: str, missing: Callable[[], str | None]) -> None:
    """Raise WorkbenchError where the session as a whole fell back: its first provider is another.

    missing: names the library that the provider lacks, and what to install.
    """
    if taken != wanted:
        reason = missing()
        raise WorkbenchError(
            f"asked for {wanted}, onnxruntime took {taken}" + (f": {reason}" if reason else ""),
            hint=None if reason else "the log of this trial has what onnxruntime printed",
        )


def refuse_idle(nodes: Mapping[str, int], wanted: str) -> None:
    """Raise WorkbenchError where the provider that was asked for took no node: it would only seem slow."""
    if not nodes.get(wanted):
        others = " and ".join(sorted(name for name, count in nodes.items() if count)) or "nothing"
        raise WorkbenchError(
            f"{wanted} took none of the {sum(nodes.values())} nodes; all ran on {others}",
            hint="the provider has no kernels for this graph (opset, number format): "
            "try another variant, or `graph_level: basic`",
        )
