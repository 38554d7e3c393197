"""A stand-in for `tensorrt` 10 or 11 that shows no name which the real one lacks.

Its engine is the ONNX file with a header, and computes through onnxruntime on the CPU. It is as particular as
the real one: contexts need a profile, memory, a shape within the profile; a recorded graph must not have its
context changed; an engine opens with the version that built it.
"""

from types import ModuleType
from typing import Any

from tests.nvidia.fake_builder import (
    Builder,
    Config,
    Network,
    Parser,
    ParserError,
    Profile,
    Tensor,
    TimingCache,
)  # fmt: skip
from tests.nvidia.fake_engine import Context, Engine, Inspector, Runtime
from tests.nvidia.fake_world import Fake, HostMemory, Logger, World, bound

CLASSES: tuple[type[Fake], ...] = (
    HostMemory, Tensor, Network, ParserError, Parser, Profile, TimingCache, Config, Builder, Runtime, Engine,
    Inspector, Context,
)  # fmt: skip


def module(world: World) -> ModuleType:
    """`tensorrt`. A name that the recorded module lacks is not there."""
    trt = ModuleType("tensorrt")
    trt.__version__ = world.surface.version  # type: ignore[attr-defined]
    shown: dict[str, Any] = {kind.api: bound(kind, world) for kind in CLASSES}
    shown |= {name: members for name, members in world.enums.items() if "." not in name}

    def init_libnvinfer_plugins(logger: Logger, namespace: str) -> bool:
        assert logger.ready
        assert namespace == ""
        world.plugins += 1
        return True

    shown["init_libnvinfer_plugins"] = init_libnvinfer_plugins
    shown["ILogger"] = type("ILogger", (Logger,), {"Severity": world.enums["ILogger.Severity"]})
    assert shown.keys() <= world.surface.module
    for name, thing in shown.items():
        setattr(trt, name, thing)
    return trt
