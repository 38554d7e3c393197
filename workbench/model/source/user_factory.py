"""The user's code that builds the network: `file.py:callable` or `package.module:callable`."""

import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from workbench.errors import WorkbenchError, some, summary
from workbench.system.files import sha256_file

if TYPE_CHECKING:
    import torch


CODE = frozenset({".py"})
# The files that a factory without a checkpoint reads its weights from.
DATA = frozenset({".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz", ".npy", ".pkl", ".h5"})


def build(
    spec: str, args: Mapping[str, JsonValue], num_classes: int | None, import_from: Path | None = None
) -> "torch.nn.Module":
    """Call the factory. Raises WorkbenchError for any error of it, and where it returns no network.

    num_classes: passed where the factory has a parameter of that name or takes any, and `args` has not.
    import_from: the folder where `package.module` is searched first.
    """
    import torch

    with _user_code(spec, import_from):
        factory = _resolve(spec)
        if isinstance(factory, torch.nn.Module):
            name = parts(spec)[1]
            raise WorkbenchError(
                f"model.factory: `{spec}` is a network, not a function that builds one",
                hint=f"write one beside it, `def create_model(): return {name}`, and name that",
            )
        arguments: dict[str, Any] = dict(args)
        parameters = inspect.signature(factory).parameters
        if num_classes and "num_classes" in parameters:
            arguments.setdefault("num_classes", num_classes)
        if lacking := _lacking(factory, arguments):
            raise WorkbenchError(
                f"model.factory: `{spec}` needs {some(lacking)}",
                hint=f"give it as in training: `model.factory_args: {{{lacking[0]}: ...}}` in krishi.yaml",
            )
        # As torchvision's take it, among `**kwargs`.
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        if num_classes and open_ended and "num_classes" not in arguments:
            model = _call_with_classes(factory, arguments, num_classes)
        else:
            model = factory(**arguments)
    if not isinstance(model, torch.nn.Module):
        raise WorkbenchError(
            f"model.factory: `{spec}` returned `{type(model).__name__}`, not a torch.nn.Module",
            hint="end it with `return model`: the network itself, not its weights",
        )
    _check_values(spec, model)
    return model


def _call_with_classes(factory: Callable[..., object], given: Mapping[str, Any], num_classes: int) -> object:
    """Call a factory of any keywords with the number of classes, or without where it refuses that."""
    try:
        return factory(**given, num_classes=num_classes)
    except TypeError as error:
        if "num_classes" not in str(error):
            raise
        return factory(**given)


def _check_values(spec: str, model: "torch.nn.Module") -> None:
    """Raise WorkbenchError where a parameter or buffer has no shape yet, or no memory."""
    from torch.nn.parameter import is_lazy

    named = [*model.named_parameters(), *model.named_buffers()]
    if lazy := [name for name, value in named if is_lazy(value)]:
        raise WorkbenchError(
            f"model.factory: `{spec}` returned a network whose layers have no shape yet: {some(lazy)}",
            hint="run it once in the factory, before `return model`: `model(torch.zeros(1, 3, 224, 224))`",
        )
    if empty := [name for name, value in named if value.is_meta]:
        raise WorkbenchError(
            f"model.factory: `{spec}` returned a network on the device `meta`, without values: {some(empty)}",
            hint="build it on the CPU",
        )


def _lacking(factory: Callable[..., object], given: Collection[str]) -> list[str]:
    """The parameters without a default that are not given."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        name
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind in named and parameter.default is inspect.Parameter.empty and name not in given
    ]


def parts(spec: str) -> tuple[str, str]:
    """The file or module, and the callable. Raises WorkbenchError where one or the file is missing."""
    place, _, attribute = spec.rpartition(":")
    if not place.strip(":") or not attribute or place.endswith(":"):
        raise WorkbenchError(
            f"model.factory: `{spec}` names no function",
            hint="write `file.py:callable` or `package.module:callable`",
        )
    if place.endswith(".py") and not Path(place).is_file():
        raise WorkbenchError(
            f"model.factory: {place} does not exist", hint="paths are relative to the folder of krishi.yaml"
        )
    return place, attribute


@contextmanager
def _user_code(spec: str, import_from: Path | None) -> Iterator[None]:
    """Put the factory's folder on sys.path, for its imports, and raise its errors as WorkbenchError."""
    place = spec.rpartition(":")[0]
    root = Path(place).parent if place.endswith(".py") else import_from
    folder = [str(root)] if root else []
    sys.path[:0] = folder
    try:
        yield
    except WorkbenchError:
        raise
    except SystemExit as error:
        raise WorkbenchError(
            f"model.factory: `{spec}` ended the program ({summary(error)})",
            hint="put what runs the training, such as `parse_args()`, below `if __name__ == '__main__':`",
        ) from error
    except ModuleNotFoundError as error:
        raise WorkbenchError(
            f"model.factory: `{spec}` raised {summary(error)}",
            hint="install it where krishi-bench is installed, or "
            + (
                f"put it beside {place}"
                if place.endswith(".py")
                else "name its folder as `model.import_from`"
            ),
        ) from error
    except Exception as error:  # user code may raise anything
        raise WorkbenchError(
            f"model.factory: `{spec}` raised {summary(error)}",
            hint="call it in a Python shell with `model.factory_args` to see where",
        ) from error
    finally:
        for path in folder:
            with suppress(ValueError):  # the user's code may have removed it
                sys.path.remove(path)


def _resolve(spec: str) -> Callable[..., object]:
    place, attribute = parts(spec)
    module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    factory: object = getattr(module, attribute, None)
    if not callable(factory):
        public = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise WorkbenchError(
            f"model.factory: {place} has no callable `{attribute}`",
            hint=f"it has {some(public) or 'none'}",
        )
    return factory


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"krishi_factory_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # always so for a .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    return module


def digests(spec: str, import_from: Path | None, suffixes: Collection[str]) -> list[tuple[str, str]]:
    """(path, sha256) of a factory's files with these suffixes, found without importing them."""
    folder, files = files_of(spec.rpartition(":")[0], import_from)
    return sorted(
        (file.relative_to(folder).as_posix(), sha256_file(file))
        for file in files
        if file.suffix.lower() in suffixes and file.is_file()
    )


def files_of(place: str, import_from: Path | None) -> tuple[Path, list[Path]]:
    """The folder of a factory's code and its files: of the user's code those one folder below too, of an
    installed module outside of a package its own file alone."""
    module = Path(place) if place.endswith(".py") else _module_file(place, import_from)
    if module is None:
        return Path(), []
    folder = module.parent
    if place.endswith(".py") or (import_from is not None and folder.is_relative_to(import_from)):
        return folder, [*folder.glob("*"), *folder.glob("*/*")]
    return folder, [*folder.glob("*")] if (folder / "__init__.py").is_file() else [module]


def _module_file(name: str, import_from: Path | None) -> Path | None:
    """The source file of `package.module`: `find_spec` would import the package on the way."""
    search: Sequence[str] | None = [*([str(import_from)] if import_from else []), str(Path.cwd()), *sys.path]
    spec = None
    for part in name.split("."):
        if search is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(part, search)
        if spec is None:
            return None
        search = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.origin is not None else None
