"""The `needs` of a recipe: libraries and processor features, and the reason where one is missing."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from workbench.errors import FieldProblem, did_you_mean
from workbench.system.machine import FEATURE_GROUPS, collect
from workbench.system.packages import EXTRAS, install, versions

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

Installed = Callable[[str], str | None]


def understood(need: str) -> str:
    """Return `need` unchanged. Raises FieldProblem where one of its alternatives is unknown."""
    for part in _alternatives(need):
        if part in FEATURE_GROUPS:
            continue
        name, versions = _library(part)
        if name not in EXTRAS:
            raise FieldProblem(
                f"`{part}` is neither a library nor a processor feature that is known here",
                hint=did_you_mean(name, [*EXTRAS, *FEATURE_GROUPS])
                or f"libraries: {', '.join(EXTRAS)}; features: {', '.join(FEATURE_GROUPS)}",
            )
        _specifier(name, versions)
    return need


Need = Annotated[str, AfterValidator(understood)]
"""`openvino>=2025.0`, a library; `avx512_vnni`, a processor feature; `avx512_bf16 | amx`, either."""


def unmet(
    needs: Sequence[str], *, flags: Collection[str] | None = None, installed: Installed | None = None
) -> str | None:
    """The reason why a variant with these needs is skipped on this machine; None where they are met.

    flags: the processor's; this one's by default. installed: a distribution's version, or None where it is
    not installed.
    """
    here = frozenset(collect().features if flags is None else flags)
    lookup = installed or (lambda name: versions(name).get(name))
    for need in needs:
        problems = [_missing(part, here, lookup) for part in _alternatives(need)]
        if all(problems):
            return f"it needs {need.replace('|', 'or')}: " + "; ".join(p for p in problems if p)
    return None


def _missing(part: str, flags: frozenset[str], installed: Installed) -> str | None:
    if part in FEATURE_GROUPS:
        if FEATURE_GROUPS[part] & flags:
            return None
        unknown = "this system does not tell what its processor has"
        return f"this processor has no {part}" if flags else unknown
    name, versions = _library(part)
    if (version := installed(name)) is None:
        return f"{name} is not installed: {install(name if EXTRAS[name] else part)}"
    if _specifier(name, versions).contains(version, prereleases=True):
        return None
    return f"{name} {version} is installed"


def _alternatives(need: str) -> list[str]:
    return [part.strip() for part in need.split("|")]


def _library(part: str) -> tuple[str, str]:
    """Split `openvino>=2025.0` into its name, in lower case, and its versions."""
    name = re.split(r"[\s<>=!~]", part, maxsplit=1)[0]
    return name.lower().replace("_", "-"), part[len(name) :].strip()


def _specifier(name: str, versions: str) -> "SpecifierSet":
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(versions)
    except InvalidSpecifier:
        raise FieldProblem(
            f"`{versions}` is no version that {name} can be held against", hint=f"write `{name}>=1.2`"
        ) from None
