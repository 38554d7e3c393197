"""Runtimes as results and bundles of before have them: every backend's fields, and some that are gone."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator

from workbench.backends import DEFAULT, SETTINGS, Runtime

# Fields that were written for every backend alike; at these values they ask for nothing.
WRITTEN: dict[str, object] = {
    "provider": None,
    "precision": None,
    "streams": None,
    "compile": False,
    "cuda_graph": False,
    "max_batch": None,
    "graph_level": "all",
    "spinning": None,
}
# Likewise, of fields that no backend has any more.
REMOVED: dict[str, object] = {
    "execution_mode": "sequential",
    "arena": True,
    "prepacking": True,
    "flush_denormals": False,
    "workspace_mb": None,
    "builder_level": None,
    "hardware_compatible": False,
    "version_compatible": False,
}
REMOVED_VALUES: dict[str, tuple[object, ...]] = {
    "provider": ("tensorrt", "tensorrt-rtx"),
    "graph_level": ("extended", "layout"),
}


def removed_setting(given: Mapping[str, object]) -> str | None:
    """The first setting, as `name: value`, that this version no longer has; None where there is none."""
    for name, value in given.items():
        if (name in REMOVED and value != REMOVED[name]) or value in REMOVED_VALUES.get(name, ()):
            return f"{name}: {value}"
    return None


def _read(given: object) -> object:
    """Leave out what asks for nothing. Raises ValueError for a setting that is gone."""
    if not isinstance(given, dict):
        return given
    if (setting := removed_setting(given)) is not None:
        raise ValueError(f"`{setting}` was removed in this version of krishi-bench")
    settings = SETTINGS.get(str(given.get("backend", DEFAULT)))
    own = settings.model_fields if settings else {}
    idle = {**WRITTEN, **REMOVED}
    return {
        name: value for name, value in given.items() if name in own or name not in idle or value != idle[name]
    }


def _readable(given: object) -> object:
    """Leave out runtimes that this version no longer has: their trials stay, but cannot be promoted."""
    if not isinstance(given, dict):
        return given
    return {
        variant: runtime
        for variant, runtime in given.items()
        if not (isinstance(runtime, dict) and removed_setting(runtime))
    }


RecordedRuntime = Annotated[Runtime, BeforeValidator(_read)]
RecordedRuntimes = Annotated[dict[str, RecordedRuntime], BeforeValidator(_readable)]
