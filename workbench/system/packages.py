"""Which optional packages are here: a missing one is a value, then a sentence."""


def missing_package(module: str, *, extra: str) -> str | None:
    """None where `module` can be imported; else what to install."""
    from importlib.util import find_spec

    if find_spec(module) is not None:
        return None
    return f"`{module}` is not installed: pip install 'krishi-bench[{extra}]'"


def versions(*distributions: str) -> dict[str, str]:
    """The installed version of each distribution, leaving out what is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
