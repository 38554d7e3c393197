"""A `.tflite` file in an interpreter: opened from bytes, one call at a time, NHWC and INT8 at its ends."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError, summary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


REFUSED = (ValueError, RuntimeError)  # what the interpreter raises for files and inputs


@dataclass(frozen=True, slots=True)
class End:
    """The input or the output: index of its tensor, its shape, and how INT8 values are scaled there.

    scale: None where it is float32. A value is `scale * (stored - zero)`.
    """

    index: int
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero: int = 0

    @classmethod
    def of(cls, details: dict[str, Any]) -> "End":
        name = details["dtype"].__name__
        scale, zero = details["quantization"] if name != "float32" else (None, 0)
        return cls(int(details["index"]), tuple(map(int, details["shape"])), name, scale, int(zero))


class Interpreter:
    """An open file of one photo a call; for one thread. channels_last: it takes (1, H, W, 3)."""

    def __init__(self, data: bytes, name: str, *, threads: int) -> None:
        """name: for messages. Raises WorkbenchError where it is no classifier that LiteRT opens."""
        from ai_edge_litert.interpreter import Interpreter as Native

        before = _threads_here()
        try:
            self.native = Native(model_content=data, num_threads=threads)
            self.native.allocate_tensors()
        except REFUSED as error:
            raise WorkbenchError(
                f"LiteRT cannot open {name}: {summary(error)}",
                hint="step `litert` writes such files; TensorFlow's own operators need another runtime",
            ) from error
        # The interpreter does not say how many threads it took: its pool has one fewer, beside the caller's.
        self.threads = threads if before is None else 1 + (_threads_here() or 0) - before
        inputs, outputs = self.native.get_input_details(), self.native.get_output_details()
        self.taken, self.given = _only(inputs, "input", name), _only(outputs, "output", name)
        self.channels_last = self.taken.shape[-1:] == (3,)
        _check_ends(self.taken, self.given, name)

    def run(self, photo: "NDArray[Any]") -> "NDArray[np.float32]":
        """(1, classes) logits of (1, 3, H, W) float32. Raises WorkbenchError where the file takes another."""
        import numpy as np

        values = photo.transpose(0, 2, 3, 1) if self.channels_last else photo
        if values.shape != self.taken.shape:
            raise WorkbenchError(
                f"LiteRT cannot run a batch of shape {photo.shape}: the file takes {self.taken.shape}"
            )
        if self.taken.scale is not None:
            values = stored(values, self.taken)
        # Written in place: transposing and copying are one pass.
        np.copyto(self.native.tensor(self.taken.index)(), values)
        try:
            self.native.invoke()
        except REFUSED as error:
            raise WorkbenchError(f"LiteRT cannot run the network: {summary(error)}") from error
        logits: NDArray[np.float32] = self.native.get_tensor(self.given.index)
        if self.given.scale is not None:
            logits = (logits.astype(np.float32) - np.float32(self.given.zero)) * np.float32(self.given.scale)
        return logits


def stored(values: "NDArray[np.float32]", end: End) -> "NDArray[Any]":
    """The values as the integers that an end in INT8 takes: rounded, and cut at its limits."""
    import numpy as np

    assert end.scale is not None
    limits = np.iinfo(end.dtype)
    scaled = values * np.float32(1 / end.scale)
    scaled += np.float32(end.zero)
    np.rint(scaled, out=scaled)
    return np.clip(scaled, limits.min, limits.max, out=scaled).astype(end.dtype)


def _only(found: list[dict[str, Any]], what: str, name: str) -> End:
    if len(found) != 1:
        raise WorkbenchError(f"{name} has {len(found)} {what}s: a classifier has one")
    return End.of(found[0])


def _check_ends(taken: End, given: End, name: str) -> None:
    photo = len(taken.shape) == 4 and 3 in (taken.shape[1], taken.shape[3])
    if not photo or taken.shape[0] != 1 or len(given.shape) != 2 or given.shape[0] != 1:
        raise WorkbenchError(
            f"{name} takes {taken.shape} and gives {given.shape}: a classifier takes one photo, (1, height, "
            "width, 3) or (1, 3, height, width), and gives (1, classes)",
            hint="LiteRT files are made for one photo a call: export it with a fixed batch of 1",
        )
    if unknown := [end.dtype for end in (taken, given) if end.dtype not in ("float32", "int8", "uint8")]:
        raise WorkbenchError(f"{name} has ends of type {unknown[0]}: photos and logits are float32 or INT8")


def _threads_here() -> int | None:
    """Threads of this process; None where the system does not list them."""
    tasks = Path("/proc/self/task")
    return len([*tasks.iterdir()]) if tasks.is_dir() else None
