"""What a server is told when it starts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import WorkbenchError


@dataclass(frozen=True, slots=True)
class Settings:
    """Which model to serve, and the limits it is served under.

    model: its name in the registry; None takes the only one there is.
    body_timeout_s: from the first byte of a request's body to the last.
    drain_delay_s: after SIGTERM, how long the port stays open so that a load balancer sees /readyz say no.
    drain_timeout_s: after that, how long requests in flight may take.
    retry_s: pause between two attempts to load a model that could not be loaded.
    """

    registry: Path = Path("registry")
    model: str | None = None
    alias: str = "production"
    max_body_bytes: int = 10_000_000
    body_timeout_s: float = 30.0
    drain_delay_s: float = 1.0
    drain_timeout_s: float = 30.0
    retry_s: float = 5.0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read the KRISHI_* variables (docs/serving.md). An empty one counts as absent."""
        return cls(
            registry=Path(environ.get("KRISHI_REGISTRY") or "registry"),
            model=environ.get("KRISHI_MODEL") or None,
            alias=environ.get("KRISHI_ALIAS") or "production",
            drain_delay_s=seconds(environ, "KRISHI_DRAIN_DELAY", 1.0),
        )


def seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise WorkbenchError(f"{name}={text!r} is not a number of seconds", hint=f"try {name}={default:g}")
    return value


def port_number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise WorkbenchError(f"{name}={text!r} is not a port number", hint=f"try {name}={default}")
    return int(text)
