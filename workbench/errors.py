"""The errors a user is meant to read. Everything else is a defect and shows a traceback."""


class WorkbenchError(Exception):
    """What the user gave cannot be used. The command line prints it and exits with 2.

    message: what is wrong, naming the file and the field.
    hint: what to do about it, one sentence, or None where the message says it all.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Refused(WorkbenchError):
    """The input is right and the answer is no (a budget missed, a gate closed). Exit code 1."""


class Unsuited(WorkbenchError):
    """Nothing is wrong, but this variant is not for this model or machine: its trial is `skipped`."""


# What the extras bring; any other missing module is a defect, or the user's own.
OPTIONAL = frozenset(
    {
        "torch", "onnx", "onnxruntime", "onnxscript", "onnxslim", "onnxsim", "pyarrow",
        "fastapi", "starlette", "uvicorn", "prometheus_client", "openvino", "nncf", "transformers",
    }
)  # fmt: skip


def missing_extra(error: ModuleNotFoundError) -> WorkbenchError | None:
    """The sentence for an optional package that is not installed; None for any other module."""
    package = (error.name or "").partition(".")[0]
    if package not in OPTIONAL:
        return None
    return WorkbenchError(f"`{package}` is not installed", hint="pip install 'krishi-bench[cpu]', or [gpu]")
