"""The user's code that builds the network: `file.py:callable` or `package.module:callable`."""

import importlib
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from workbench.errors import WorkbenchError
from workbench.files import sha256_bytes
from workbench.weights import first_line, some

if TYPE_CHECKING:
    import torch


def build(spec: str, args: Mapping[str, JsonValue], num_classes: int | None) -> "torch.nn.Module":
    """Call the factory. Raises WorkbenchError for whatever it raises, and where it gives no network.

    num_classes: passed on where `args` is empty and the factory has a parameter of that name.
    """
    import torch

    with _user_code(spec):
        factory = _resolve(spec)
        arguments: dict[str, Any] = dict(args)
        if not arguments and num_classes and "num_classes" in inspect.signature(factory).parameters:
            arguments["num_classes"] = num_classes
        model = factory(**arguments)
    if not isinstance(model, torch.nn.Module):
        raise WorkbenchError(
            f"model.factory: `{spec}` returned a {type(model).__name__}, not a torch.nn.Module"
        )
    return model


def parts(spec: str) -> tuple[str, str]:
    """The file or module, and the callable. Raises WorkbenchError where one or the file is missing."""
    place, _, attribute = spec.rpartition(":")
    if not place or not attribute:
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
def _user_code(spec: str) -> Iterator[None]:
    """The factory's folder on sys.path, for its siblings; whatever it raises named, as theirs to mend."""
    place = spec.rpartition(":")[0]
    folder = [str(Path(place).parent)] if place.endswith(".py") else []
    sys.path[:0] = folder
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:  # user code may raise anything
        raise WorkbenchError(
            f"model.factory: `{spec}` raised {type(error).__name__}: {first_line(error)}",
            hint="call it in a Python shell with `model.factory_args` to see where",
        ) from error
    finally:
        for path in folder:
            with suppress(ValueError):  # the user's code may have tidied up
                sys.path.remove(path)


def _resolve(spec: str) -> Callable[..., object]:
    place, attribute = parts(spec)
    module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    factory: object = getattr(module, attribute, None)
    if not callable(factory):
        public = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise WorkbenchError(
            f"model.factory: {place} has no callable `{attribute}`", hint=f"it has {some(public)}"
        )
    return factory


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"krishi_factory_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # always so for a .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    return module


def code_digests(spec: str) -> list[tuple[str, str]]:
    """(path, sha256) of the source files that a factory consists of, found without importing them."""
    place = spec.rpartition(":")[0]
    if place.endswith(".py"):
        folder = Path(place).parent
        files = [*folder.glob("*.py"), *folder.glob("*/*.py")]
    else:
        module = _module_file(place)
        folder = Path() if module is None else module.parent
        in_package = module is not None and (folder / "__init__.py").is_file()
        files = list(folder.glob("*.py")) if in_package else [] if module is None else [module]
    return sorted(
        (file.relative_to(folder).as_posix(), sha256_bytes(file.read_bytes()))
        for file in files
        if file.is_file()
    )


def _module_file(name: str) -> Path | None:
    """The source file of `package.module`: `find_spec` would import the package on the way."""
    search: Sequence[str] | None = [str(Path.cwd()), *sys.path]
    spec = None
    for part in name.split("."):
        if search is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(part, search)
        if spec is None:
            return None
        search = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.origin is not None else None
