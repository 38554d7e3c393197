"""Which provider of onnxruntime really got the graph: it falls back to the CPU without an error."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from workbench.errors import WorkbenchError

# Without it a session does not keep who got what.
RECORD = "session.record_ep_graph_assignment_info"


def assigned(session: Any) -> dict[str, int] | None:
    """Nodes of the graph per provider, as the session was split; None before onnxruntime 1.24.

    Counted before a provider fuses what it took. The session must have been opened with RECORD.
    """
    read = getattr(session, "get_provider_graph_assignment_info", None)
    if read is None:
        return None
    return dict(Counter(part.ep_name for part in read() for _ in part.get_nodes()))


def refuse_other(taken: str, wanted: str, missing: Callable[[], str | None]) -> None:
    """Raise WorkbenchError where the session as a whole fell back: its first provider is another.

    missing: says which library that provider lacks, and what to install.
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
