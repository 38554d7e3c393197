"""TensorRT's messages: warnings and errors go to the log, errors also into exceptions."""

import logging
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from workbench.errors import WorkbenchError

LAST = 3  # messages in an exception


@lru_cache(maxsize=4)
def log_of(trt: Any) -> Any:
    """The logger of a process: TensorRT wants one, that lives as long as all that is made with it.

    TensorRT's own plug-ins are registered with it.

    trt: the module `tensorrt`. `errors`: what it has complained of since `clear`.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=LAST)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(msg.strip())
            elif severity != trt.ILogger.Severity.WARNING:
                return
            logging.getLogger("workbench.tensorrt").warning("%s", msg.strip())

    log = Log()
    # Some operators are plug-ins, to the parser as to an engine: they have to be known before either.
    trt.init_libnvinfer_plugins(log, "")
    return log


def made(trt: Any, doing: str, make: Callable[[], Any], *, hint: str | None = None) -> Any:
    """What `make` returns. Raises WorkbenchError with TensorRT's own complaints where that is nothing.

    TensorRT returns None or False, or its binding raises, and the reason is in its log alone.
    """
    log = log_of(trt)
    log.errors.clear()
    try:
        result = make()
    except (RuntimeError, TypeError, ValueError) as error:
        raise WorkbenchError(f"TensorRT, {doing}: {reasons(trt) or error}", hint=hint) from error
    if result is None or result is False:
        raise WorkbenchError(f"TensorRT, {doing}: {reasons(trt) or 'it gave no reason'}", hint=hint)
    return result


def reasons(trt: Any) -> str:
    """The last complaints, in one line; empty where there was none."""
    return "; ".join(" ".join(message.split()) for message in tuple(log_of(trt).errors))
