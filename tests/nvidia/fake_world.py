"""What a test arranges of a pretended TensorRT, and what its classes share."""

import enum
from typing import Any, TypeVar

from tests.nvidia.fake_cuda import FakeCuda
from tests.nvidia.surface import Surface

MAGIC = b"fake tensorrt engine\n"
Kind = TypeVar("Kind", bound="Fake")


class World:
    """What a test arranges and looks at.

    built: the settings of each build. deserialized: how often an engine was opened. refuse: the parser's
    errors. complaint: why the builder fails. told: what the inspector says. unrecordable: execution cannot
    be captured. device: whose timings are taken. plugins: how often they were registered.
    """

    def __init__(self, surface: Surface, cuda: FakeCuda) -> None:
        self.surface, self.cuda = surface, cuda
        self.built: list[dict[str, Any]] = []
        self.deserialized = 0
        self.refuse: list[tuple[str, str, str]] = []
        self.complaint: str | None = None
        self.told: str | None = None
        self.unrecordable = False
        self.device = "this GPU"
        self.shown: dict[type, type[Any]] = {}
        self.enums: dict[str, Any] = {key: enum.IntEnum(key, held) for key, held in surface.enums.items()}
        self.plugins = 0


class Fake:
    """api: the real class. What is shown or set beyond its recorded names fails the test."""

    api = ""
    _world: World

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            names = self._world.surface.classes[self.api]
            assert name in names, f"{self.api}.{name} does not exist in {self._world.surface.version}"
        object.__setattr__(self, name, value)


class Logger:
    """Not held to its names: users derive from it."""

    def __init__(self) -> None:
        self.ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class HostMemory(Fake):
    api = "IHostMemory"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data

    @property
    def nbytes(self) -> int:
        return len(self._data)


class Dims:
    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes

    def __iter__(self) -> Any:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)


def shape_of(value: Any) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)


def bound(kind: type[Kind], world: World) -> type[Kind]:
    """The class in a world of its own; it shows names of the recorded surface alone."""
    if kind not in world.shown:
        shown = {name for name in dir(kind) if not name.startswith("_")} - {"api"}
        names = world.surface.classes[kind.api]
        assert shown <= names, f"{shown - names} does not exist in {world.surface.version}"
        world.shown[kind] = type(kind.__name__, (kind,), {"_world": world})
    return world.shown[kind]
