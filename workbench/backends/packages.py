"""Which optional packages are here: a missing one is a value, then a sentence."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def missing_package(module: str, *, extra: str) -> str | None:
    """None where `module` can be imported; else what to install."""
    if find_spec(module) is not None:
        return None
    return f"`{module}` is not installed: pip install 'krishi-bench[{extra}]'"


def versions(*distributions: str) -> dict[str, str]:
    """The installed version of each distribution, leaving out what is not installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
