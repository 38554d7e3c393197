"""The settings of the runtimes, and which backend is whose. Importing it loads no backend."""

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, cast, get_args

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter

from workbench.backends.base import (
    Backend,
    Engine,
    Infer,
    OnDevice,
    RuntimeSettings,
    Session,
    Target,
    backend_name,
)
from workbench.backends.executorch.settings import ExecutorchRuntime
from workbench.backends.litert.settings import LitertRuntime
from workbench.backends.null import NullRuntime
from workbench.backends.openvino.settings import OpenvinoRuntime
from workbench.backends.ort.settings import OrtRuntime
from workbench.backends.tensorrt.settings import TensorrtRuntime
from workbench.backends.torch.settings import TorchRuntime
from workbench.errors import FieldProblem

_Settings = (
    OrtRuntime
    | OpenvinoRuntime
    | TensorrtRuntime
    | LitertRuntime
    | ExecutorchRuntime
    | TorchRuntime
    | NullRuntime
)
SETTINGS: dict[str, type[RuntimeSettings]] = {backend_name(each): each for each in get_args(_Settings)}
DEFAULT = "onnxruntime"


def _complete(given: object) -> object:
    """Add the default backend, and leave out fields of other backends at their defaults, as files of earlier
    versions have them. Raises FieldProblem where such a field has another value.
    """
    if not isinstance(given, dict):
        return given
    given = {"backend": DEFAULT, **given}
    if (own := SETTINGS.get(str(given["backend"]))) is None:
        return given
    for name in given.keys() - own.model_fields.keys():
        fields = {key: each.model_fields[name] for key, each in SETTINGS.items() if name in each.model_fields}
        if any(given[name] != field.default for field in fields.values()):
            owners = ", ".join(fields)
            raise FieldProblem(
                f"`{name}` belongs to {owners}; backend `{given['backend']}` has none", at=(name,)
            )
        if fields:
            del given[name]
    return given


Runtime = Annotated[_Settings, Field(discriminator="backend"), BeforeValidator(_complete)]
RUNTIME: TypeAdapter[Runtime] = TypeAdapter(Runtime, config=ConfigDict(defer_build=True))


def removed_setting(runtime: Mapping[str, Any]) -> str | None:
    """The first setting of a recorded runtime that this version no longer has (see `Record`), or None."""
    settings = SETTINGS.get(str(runtime.get("backend", DEFAULT)))
    return settings.removed_setting(runtime) if settings else None


def backend_module(runtime: RuntimeSettings) -> str:
    """The name of the module that is its backend."""
    return re.sub(r"\.settings$", ".backend", type(runtime).__module__)


def backend_of(runtime: RuntimeSettings) -> Backend[Any]:
    """Its backend in the table, imported alone: of what a measuring process does, imports take longest."""
    return cast("Backend[Any]", import_module(backend_module(runtime)))


def targets_of(backend: str) -> frozenset[Target]:
    """What the files of a backend are opened on; of one that this version no longer has, a server."""
    return SETTINGS.get(backend, RuntimeSettings).TARGETS


def takes_onnx(runtime: RuntimeSettings) -> bool:
    """Whether the network is exported as an ONNX file for it, which steps can change."""
    return bool(backend_of(runtime).OPERATORS)


def takes_program(runtime: RuntimeSettings) -> bool:
    """Whether a step writes the file that it opens from the network in torch, as a torch.export program."""
    from workbench.backends.artifact import EXECUTABLE_FORMATS

    backend = backend_of(runtime)
    return not backend.OPERATORS and not backend.FORMATS & EXECUTABLE_FORMATS


def publishable(runtime: RuntimeSettings) -> bool:
    """Whether a server may get what it opens: nothing that runs code of its own, or is for devices alone."""
    from workbench.backends.artifact import DEVICE_FORMATS, EXECUTABLE_FORMATS

    return not backend_of(runtime).FORMATS & (EXECUTABLE_FORMATS | DEVICE_FORMATS)


__all__ = [
    "DEFAULT", "RUNTIME", "SETTINGS", "Backend", "Engine", "ExecutorchRuntime", "Infer", "LitertRuntime",
    "NullRuntime", "OnDevice", "OpenvinoRuntime", "OrtRuntime", "Runtime", "RuntimeSettings", "Session",
    "Target", "TensorrtRuntime", "TorchRuntime", "backend_module", "backend_of", "publishable",
    "removed_setting", "takes_onnx", "takes_program", "targets_of",
]  # fmt: skip
