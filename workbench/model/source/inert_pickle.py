"""Read a pickle, alone or in a checkpoint of torch, without importing or calling anything that it names.

Tensors, numpy arrays and plain containers are made by the functions of `_known`. Whatever else the file names
becomes a `InertObject`, which keeps its state and does nothing.
"""

import io
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from pickle import _Unpickler
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch


MAGIC = 0x1950A86A20F9469CFC6C  # the first object in a file of torch before 1.6
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
NUMBERS = re.compile(r"[biufcSU]\d+|O8?")  # numpy's types that are plain memory, or a list of objects
# A class that tensors and arrays name beside what makes them.
SILENT = frozenset(
    {"torch.Tensor", "torch.nn.parameter.Parameter", "numpy.ndarray", "torch.nn.parameter.Buffer"}
)


class InertObject(dict[Any, Any]):
    """An object of an unknown class, or the result of an unknown function: its attributes and items, inert.

    origin: the name of the class or function. parts: what it was called with, and what was appended to it.
    """

    def __init__(self, origin: str, parts: Iterable[object] = ()) -> None:
        super().__init__()
        self.origin = origin
        self.parts = list(parts)
        for part in self.parts:
            if isinstance(part, dict):
                self.update(part)

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__

    def append(self, part: object) -> None:
        self.parts.append(part)

    add = append

    def take(self, state: object) -> None:
        """Keep the attributes; those of `__slots__` come as the second of two."""
        for attributes in state if isinstance(state, tuple) else (state,):
            if isinstance(attributes, dict):
                self.update(attributes)


class _Maker:
    """A function of ours in the place of one that the file names: it can be called by the reader alone."""

    def __init__(self, call: Callable[..., object]) -> None:
        self.call = call


class InertUnpickler(_Unpickler):
    """names: of everything that a InertObject took the place of; a subclass has a list of its own."""

    names: ClassVar[list[str]] = []
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]

    def find_class(self, module: str, name: str) -> Any:
        if (known := _known().get(full := f"{module}.{name}")) is not None:
            return known
        if full not in SILENT and full not in self.names:
            self.names.append(full)
        return InertObject(full)

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError(f"extension {code} of the pickle protocol")

    def _make(self, what: object, arguments: Any) -> Any:
        if isinstance(what, _Maker):
            return what.call(*arguments)
        # copyreg's functions are called with the class that is meant.
        if isinstance(what, InertObject) and what.origin.startswith(("copyreg.", "copy_reg.")):
            what = next((part for part in arguments if isinstance(part, InertObject)), what)
        return InertObject(what.origin if isinstance(what, InertObject) else type(what).__name__, arguments)

    def _instantiate(self, kind: object, arguments: Any) -> None:
        self.append(self._make(kind, arguments))

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        named = self.stack.pop()
        arguments = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], (*arguments, named))

    def load_build(self) -> None:
        import numpy as np

        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, InertObject):
            made.take(state)
        elif isinstance(made, np.ndarray) and isinstance(state[2], np.dtype):
            made.__setstate__(state)
        elif isinstance(made, np.dtype) and state[1] not in ("<", "|", "="):
            raise ValueError("an array of numpy's in the byte order of another machine")
        # Of any other object nothing is needed: a tensor's attributes, a dict's `_metadata`.

    def load_binpersid(self) -> None:
        saved: Any = self.stack.pop()
        # Old files keep the source code of a module beside it.
        self.append(saved[1] if saved[0] == "module" else self.persistent_load(saved))

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError(f"a part that lies outside: {type(pid).__name__}")


for _code, _method in {
    pickle.REDUCE: InertUnpickler.load_reduce,
    pickle.NEWOBJ: InertUnpickler.load_reduce,
    pickle.NEWOBJ_EX: InertUnpickler.load_newobj_ex,
    pickle.BUILD: InertUnpickler.load_build,
    pickle.BINPERSID: InertUnpickler.load_binpersid,
}.items():
    InertUnpickler.dispatch[_code[0]] = _method


def read(file: Path | io.BytesIO) -> tuple[object, tuple[str, ...]]:
    """(content, names of what stand-ins replace), of a file of torch or a plain pickle.

    It may raise anything: the file may be damaged, or made to do so.
    """
    names: list[str] = []
    reader = type("Reader", (InertUnpickler,), {"names": names})
    if isinstance(file, Path) and not _is_zip(file):
        file = io.BytesIO(file.read_bytes())  # from memory, torch does not try an archive of tar
    if isinstance(file, io.BytesIO):
        first = reader(file, encoding="latin1").load()
        file.seek(0)
        if not (isinstance(first, int) and first == MAGIC):
            return first, tuple(names)
        return _load_torch(file, reader), tuple(names)
    with file.open("rb") as opened:  # of a path, torch looks at the name
        return _load_torch(opened, reader), tuple(names)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _load_torch(file: IO[bytes], reader: type[InertUnpickler]) -> object:
    import torch

    def load(file: Any, **settings: Any) -> object:
        return reader(file, **settings).load()

    module = SimpleNamespace(__name__=__name__, Unpickler=reader, load=load)
    forced = os.environ.pop(
        FORCE, None
    )  # torch would read with its own unpickler, and refuse what it does not know
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", pickle_module=module, weights_only=False)
    finally:
        if forced is not None:
            os.environ[FORCE] = forced


@lru_cache(maxsize=1)
def _known() -> dict[str, Any]:
    """What a file may name, and what takes its place: constants of torch, and functions of ours."""
    import torch

    constants = {
        str(value): value
        for value in vars(torch).values()
        if isinstance(value, torch.dtype | torch.qscheme | torch.layout)
    }
    storages = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
    functions = {**_container_makers(), **_torch_makers(constants), **_numpy_makers()}
    return {
        **constants,
        **dict.fromkeys(storages, torch.UntypedStorage),
        **{name: _Maker(function) for name, function in functions.items()},
    }


def _container_makers() -> dict[str, Callable[..., object]]:
    plain = {
        "set": set,
        "frozenset": frozenset,
        "list": list,
        "tuple": tuple,
        "dict": dict,
        "complex": complex,
    }
    return {
        **{f"{home}.{name}": made for home in ("builtins", "__builtin__") for name, made in plain.items()},
        "builtins.bytearray": lambda data=b"", *_: bytes(data) if isinstance(data, bytes) else b"",
        "_codecs.encode": lambda text, *_: text.encode("latin1"),
        "collections.OrderedDict": dict,
        "collections.Counter": dict,
        "collections.defaultdict": lambda *_: {},
    }


def _torch_makers(constants: dict[str, Any]) -> dict[str, Callable[..., object]]:
    import torch

    utils: Any = torch._utils
    return {
        "torch.Size": lambda sizes=(): tuple(sizes),
        "torch.device": lambda *parts: ":".join(map(str, parts)),
        "torch.serialization._get_layout": lambda name: constants[name],
        "torch.storage._load_from_bytes": lambda data: read(io.BytesIO(data))[0],
        "torch._tensor._rebuild_from_type_v2": lambda make, _kind, arguments, _state: make.call(*arguments),
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_tensor_v3": lambda storage, offset, size, stride, grad, _hooks, dtype, *_: (
            utils._rebuild_tensor_v3(storage, offset, size, stride, grad, {}, dtype)
        ),
        **{
            f"torch._utils._rebuild_{name}": lambda data, *_: data
            for name in ("parameter", "parameter_with_state", "device_tensor_from_cpu_tensor")
        },
        "torch._utils._rebuild_device_tensor_from_numpy": lambda data, dtype, *_: torch.from_numpy(data).to(
            dtype
        ),
        "torch._utils._rebuild_sparse_tensor": utils._rebuild_sparse_tensor,
        "torch._utils._rebuild_qtensor": lambda storage, offset, size, stride, scheme, *_: (
            utils._rebuild_qtensor(storage, offset, size, stride, scheme, False, {})
        ),
        "torch._utils._rebuild_meta_tensor_no_storage": lambda dtype, size, stride, *_: torch.empty_strided(
            size, stride, dtype=dtype, device="meta"
        ),
    }


def _numpy_makers() -> dict[str, Callable[..., object]]:
    return {
        "numpy.dtype": _numpy_type,
        **{f"numpy.{core}.multiarray._reconstruct": _empty_array for core in ("core", "_core")},
        **{f"numpy.{core}.multiarray.scalar": _numpy_scalar for core in ("core", "_core")},
        **{f"numpy.{core}.numeric._frombuffer": _numpy_array for core in ("core", "_core")},
    }


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: object) -> "torch.Tensor":
    from torch import _utils

    tensor: torch.Tensor = _utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-untyped-call]
    return tensor


def _empty_array(*_: object) -> Any:
    import numpy as np

    return np.empty(0, np.uint8)


def _numpy_type(code: object, *_: object) -> Any:
    """Inert for a type with fields, or whose memory is more than numbers."""
    import numpy as np

    return np.dtype(str(code)) if NUMBERS.fullmatch(str(code)) else InertObject(f"numpy.dtype({code})")


def _numpy_scalar(kind: Any, data: Any = b"") -> object:
    import numpy as np

    if not isinstance(kind, np.dtype):
        return kind
    return data if kind.hasobject else np.frombuffer(data, kind, 1)[0].item()


def _numpy_array(data: Any, kind: Any, shape: Any, order: Any) -> Any:
    import numpy as np

    return np.frombuffer(bytearray(data), kind).reshape(shape, order=order)
