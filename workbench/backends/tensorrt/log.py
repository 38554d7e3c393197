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
    """The one logger of this process, with TensorRT's plug-ins registered; TensorRT needs it to the end.

    trt: the module `tensorrt`. `errors`: the last messages since `clear`.
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
    # Some operators are plug-ins, which parser and engines have to find.
    trt.init_libnvinfer_plugins(log, "")
    return log


def made(trt: Any, doing: str, make: Callable[[], Any], *, hint: str | None = None) -> Any:
    """The result of `make`. Raises WorkbenchError with TensorRT's log for None, False or an exception."""
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
    return "; ".join(" ".join(message.split()) for message in tuple(log_of(trt).errors))
