"""What a server is told when it starts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.registry.manifest import check_name
from workbench.registry.semver import parse

MOST_WORKERS = 64  # each has a model of its own; a slip of the finger must not start a thousand


@dataclass(frozen=True, slots=True)
class Settings:
    """Which model to serve, and the limits it is served under.

    model: its name in the registry; None takes the only one there is.
    pin: a version to serve for good, instead of what the alias points at.
    shadow, sample: a version that sees this share of the live photos, and answers nobody.
    canary, weight: a version that answers this share of the photos.
    max_body_bytes: of one photo, form and all; max_batch_bytes: of a batch or of tensors.
    max_buffered_bytes: of all bodies that are in memory at one time.
    body_timeout_s: from the first byte of a request's body to the last.
    queue_budget_s: requests that would wait longer than this for a thread are refused.
    deadline_s: from the last byte of a body until work on it must have begun.
    drain_delay_s: after SIGTERM, how long the port stays open so that a load balancer sees /readyz say no.
    drain_timeout_s: after that, how long requests in flight may take.
    retry_s: pause between two attempts to load the first model.
    watch_s: pause between two looks at where the alias points.
    api_key: what clients must bring; None lets everyone in. Not shown where settings are.
    """

    registry: Path = Path("registry")
    model: str | None = None
    alias: str = "production"
    pin: str | None = None
    workers: int = 1
    shadow: str | None = None
    sample: float = 0.1
    canary: str | None = None
    weight: float = 0.05
    max_body_bytes: int = 10_000_000
    max_batch_bytes: int = 50_000_000
    max_buffered_bytes: int = 256_000_000
    body_timeout_s: float = 30.0
    queue_budget_s: float = 1.0
    deadline_s: float = 5.0
    drain_delay_s: float = 1.0
    drain_timeout_s: float = 30.0
    retry_s: float = 5.0
    watch_s: float = 1.0
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_name(self.alias, "an alias")
        if self.model is not None:
            check_name(self.model, "a model")
        for version in (self.pin, self.shadow, self.canary):
            if version is not None:
                parse(version)
        if self.workers > MOST_WORKERS:
            raise WorkbenchError(
                f"{self.workers} workers are more than the {MOST_WORKERS} there may be",
                hint="one process uses all processors already; a few more are for isolation",
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read the KRISHI_* variables (docs/serving.md). An empty one counts as absent.

        Raises WorkbenchError naming the variable that makes no sense.
        """
        return cls(
            registry=Path(environ.get("KRISHI_REGISTRY") or "registry"),
            model=environ.get("KRISHI_MODEL") or None,
            alias=environ.get("KRISHI_ALIAS") or "production",
            pin=environ.get("KRISHI_PIN") or None,
            workers=whole_number(environ, "KRISHI_WORKERS", 1, least=1, most=MOST_WORKERS),
            shadow=environ.get("KRISHI_SHADOW") or None,
            sample=share(environ, "KRISHI_SAMPLE", 0.1),
            canary=environ.get("KRISHI_CANARY") or None,
            weight=share(environ, "KRISHI_WEIGHT", 0.05),
            queue_budget_s=seconds(environ, "KRISHI_QUEUE_BUDGET", 1.0),
            deadline_s=seconds(environ, "KRISHI_DEADLINE", 5.0),
            drain_delay_s=seconds(environ, "KRISHI_DRAIN_DELAY", 1.0),
            watch_s=seconds(environ, "KRISHI_WATCH", 1.0, least=0.01),
            api_key=api_key(environ),
        )


def seconds(environ: Mapping[str, str], name: str, default: float, *, least: float = 0.0) -> float:
    what = f"a number of seconds, {least:g} or more" if least else "a number of seconds"
    return _number(environ, name, default, least=least, most=86400.0, what=what)


def share(environ: Mapping[str, str], name: str, default: float) -> float:
    return _number(environ, name, default, least=0.0, most=1.0, what="a share from 0 to 1")


def whole_number(environ: Mapping[str, str], name: str, default: int, *, least: int, most: int) -> int:
    text = environ.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise WorkbenchError(
            f"{name}={text!r} is not a whole number from {least} to {most}", hint=f"try {name}={default}"
        )
    return int(text)


def port_number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise WorkbenchError(f"{name}={text!r} is not a port number", hint=f"try {name}={default}")
    return int(text)


def api_key(environ: Mapping[str, str]) -> str | None:
    """KRISHI_API_KEY, or the content of the file KRISHI_API_KEY_FILE names, as secrets are mounted."""
    key, file = environ.get("KRISHI_API_KEY") or None, environ.get("KRISHI_API_KEY_FILE") or None
    if file is not None:
        if key is not None:
            raise WorkbenchError(
                "KRISHI_API_KEY and KRISHI_API_KEY_FILE are both set", hint="set one of them"
            )
        try:
            key = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WorkbenchError(f"KRISHI_API_KEY_FILE: {file} cannot be read: {error}") from error
    if key is None:
        return None
    key = key.strip()  # HTTP takes spaces off the ends of a header
    # What does not fit a header can never be sent, and an empty key would look like protection.
    if not (key.isascii() and key.isprintable() and 8 <= len(key) <= 256):
        raise WorkbenchError(
            "the API key is not one: 8 to 256 printable ASCII characters are needed",
            hint="make one with `openssl rand -hex 32`",
        )
    return key


def _number(
    environ: Mapping[str, str], name: str, default: float, *, least: float, most: float, what: str
) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:
        raise WorkbenchError(f"{name}={text!r} is not {what}", hint=f"try {name}={default:g}")
    return value
