"""Which optional packages are here, and how to install what is not."""

from contextlib import suppress
from importlib.util import find_spec

from workbench.errors import WorkbenchError, summary

# The distributions that one of our extras brings, or that a recipe may depend on, and the extra; None: no
# extra brings it.
EXTRAS: dict[str, str | None] = {
    "onnxruntime": "ort",
    "onnxruntime-gpu": "ort-gpu",
    "onnxruntime-openvino": None,
    "openvino": "openvino",
    "nncf": "openvino",
    "ai-edge-litert": "litert",
    "executorch": "executorch",
    "tensorrt": "tensorrt",
    "cuda-python": "tensorrt",
    "cuda-bindings": "tensorrt",
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "onnxslim": "export",
    "onnxsim": "export",
    "pyarrow": "export",
    "scipy": "export",
    "pandas": "frames",
    "tabulate": "frames",
    "altair": "report",
    "vl-convert-python": "report",
    "jinja2": "report",
    "plotext": "report",
    "ray": "fleet",
    "transformers": "transformers",
    "safetensors": "transformers",
    "opencv-python-headless": "opencv",
    "timm": None,
    "pillow-heif": "heif",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "prometheus-client": "serve",
}


def install(distribution: str) -> str:
    """The command that installs it, by our extra where one brings it."""
    extra = EXTRAS.get(distribution)
    return f"pip install '{f'krishi-bench[{extra}]' if extra else distribution}'"


def missing_package(module: str, *, extra: str | None = None) -> str | None:
    """None where `module` can be imported; else what to install. extra: another than its own."""
    if find_spec(module) is not None:
        return None
    command = f"pip install 'krishi-bench[{extra}]'" if extra else install(module)
    return f"`{module}` is not installed: {command}"


def require(*modules: str, extra: str = "frames") -> None:
    """Raise WorkbenchError for the first module of the extra that is not installed."""
    for module in modules:
        if (missing := missing_package(module, extra=extra)) is not None:
            raise WorkbenchError(missing)


def missing_extra(error: ModuleNotFoundError) -> WorkbenchError | None:
    """The sentence for a package of ours that is not installed; None for another, which is a defect."""
    module = (error.name or "").partition(".")[0]
    distribution = module.replace("_", "-")
    if distribution not in EXTRAS:
        return None
    return WorkbenchError(f"`{module}` is not installed", hint=install(distribution))


def unusable(distribution: str, error: Exception, *, hint: str | None = None) -> WorkbenchError:
    """The sentence for a package whose import failed. hint: where it is installed and fails all the same."""
    if isinstance(error, ModuleNotFoundError) and (missing := missing_extra(error)) is not None:
        return missing
    message = f"`{distribution}` cannot be imported: {summary(error)}"
    return WorkbenchError(message, hint=hint or install(distribution))


def versions(*distributions: str) -> dict[str, str]:
    """The installed version of each distribution, leaving out what is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in distributions:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
