"""What a recipe needs: libraries and processor features, and the reason where one is not here."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from workbench.errors import FieldProblem, did_you_mean
from workbench.system.machine import collect

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet


# A feature is there where one of the kernel's flags is. x86: /proc/cpuinfo `flags`; ARM: `Features`.
FEATURES: dict[str, frozenset[str]] = {
    "avx2": frozenset({"avx2"}),
    "avx512": frozenset({"avx512f"}),
    "avx512_vnni": frozenset({"avx512_vnni"}),
    "avx_vnni": frozenset({"avx_vnni"}),
    "vnni": frozenset({"avx512_vnni", "avx_vnni"}),
    "avx512_bf16": frozenset({"avx512_bf16"}),
    "avx512_fp16": frozenset({"avx512_fp16"}),
    "amx": frozenset({"amx_int8", "amx_bf16"}),
    "amx_int8": frozenset({"amx_int8"}),
    "amx_bf16": frozenset({"amx_bf16"}),
    "asimd": frozenset({"asimd"}),
    "asimddp": frozenset({"asimddp"}),
    "asimdhp": frozenset({"asimdhp"}),
    "i8mm": frozenset({"i8mm"}),
    "bf16": frozenset({"bf16"}),
    "sve": frozenset({"sve"}),
}

# Distributions that a recipe can depend on, and the extra of ours that brings them.
LIBRARIES: dict[str, str | None] = {
    "onnxruntime": "ort",
    "onnxruntime-gpu": "ort-gpu",
    "onnxruntime-openvino": None,
    "openvino": "openvino",
    "nncf": "openvino",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13": "tensorrt-rtx",
    "tensorrt": "tensorrt",
    "cuda-python": "tensorrt",
    "cuda-bindings": "tensorrt",
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "onnxslim": "export",
    "onnxsim": "export",
    "transformers": None,
    "timm": None,
    "nvidia-modelopt": "modelopt",
}

Installed = Callable[[str], str | None]


def understood(need: str) -> str:
    """`need` as it is. Raises yamlfile.Problem where one of its alternatives is nothing known here."""
    for part in _alternatives(need):
        if part in FEATURES:
            continue
        name, versions = _library(part)
        if name not in LIBRARIES:
            raise FieldProblem(
                f"`{part}` is neither a library nor a processor feature that is known here",
                hint=did_you_mean(name, [*LIBRARIES, *FEATURES])
                or f"libraries: {', '.join(LIBRARIES)}; features: {', '.join(FEATURES)}",
            )
        _specifier(name, versions)
    return need


Need = Annotated[str, AfterValidator(understood)]
"""`openvino>=2025.0`, a library; `avx512_vnni`, a processor feature; `avx512_bf16 | amx`, either."""


def unmet(
    needs: Sequence[str], *, flags: Collection[str] | None = None, installed: Installed | None = None
) -> str | None:
    """Why a variant with these needs cannot be tried here, as its trial's reason; None where it can.

    needs: as `understood`. flags: the processor's; this one's by default. installed: a distribution's
    version, or None where it is not installed.
    """
    here = cpu_flags() if flags is None else frozenset(flags)
    lookup = installed or installed_version
    for need in needs:
        problems = [_missing(part, here, lookup) for part in _alternatives(need)]
        if all(problems):
            return f"it needs {need.replace('|', 'or')}: " + "; ".join(p for p in problems if p)
    return None


def _missing(part: str, flags: frozenset[str], installed: Installed) -> str | None:
    if part in FEATURES:
        if FEATURES[part] & flags:
            return None
        return (
            f"this processor has no {part}" if flags else "this system does not tell what its processor has"
        )
    name, versions = _library(part)
    if (version := installed(name)) is None:
        extra = LIBRARIES[name]
        return f"{name} is not installed: pip install '{f'krishi-bench[{extra}]' if extra else part}'"
    if _specifier(name, versions).contains(version, prereleases=True):
        return None
    return f"{name} {version} is installed"


def cpu_flags() -> frozenset[str]:
    """The processor's features as the kernel names them; empty where it does not tell."""
    return frozenset(collect().features)


def features(flags: Collection[str]) -> tuple[str, ...]:
    """The names in FEATURES that these flags amount to."""
    return tuple(name for name, any_of in FEATURES.items() if any_of & frozenset(flags))


def installed_version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _alternatives(need: str) -> list[str]:
    return [part.strip() for part in need.split("|")]


def _library(part: str) -> tuple[str, str]:
    """`openvino>=2025.0` as its name, in lower case, and its versions."""
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
