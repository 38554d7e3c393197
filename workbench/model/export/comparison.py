"""torch's own logits, and whether an exported file gives the same."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.model.export.torch_exporters import (
    DEPENDENT,
    DEPENDENT_HINT,
    NETWORK_ERRORS,
    TWO_LOGITS,
    unable,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


Logits = Callable[["NDArray[np.float32]"], "NDArray[np.float32]"]
TOLERANCE = 1e-3  # of max(1, the largest logit)
STEADY = 1e-5  # what the same input may move a logit by, in the same process
ROUNDING, SLACK = 1e-6, 10.0  # of float32, relative; times what such a change of the input moves
BRANCHES = "a forward that branches on its input is a usual cause"


def torch_logits(
    model: "Callable[[torch.Tensor], object]", samples: "NDArray[np.float32]"
) -> "NDArray[np.float32]":
    """(n, classes) logits of (n, C, H, W) samples. Raises WorkbenchError where the network returns anything
    but one finite float tensor of that shape."""
    import numpy as np
    import torch

    try:
        with torch.inference_mode():
            output = model(torch.from_numpy(samples))
    except NETWORK_ERRORS as error:
        raise unable(model, samples.shape, error) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(samples):
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        raise WorkbenchError(
            f"the network returns {got}; expected one tensor of logits, ({len(samples)}, classes)",
            hint=TWO_LOGITS
            if isinstance(output, torch.Tensor) and output.shape == samples.shape[:1]
            else "give a network whose forward gives the logits alone: wrap it in the factory, or before it "
            "is saved as TorchScript or a program",
        )
    if output.shape[1] == 1:
        raise WorkbenchError("the network has 1 class: a classifier tells at least 2 apart", hint=TWO_LOGITS)
    logits: NDArray[np.float32] = output.float().numpy()
    if not np.isfinite(logits).all():
        raise WorkbenchError(
            "the network gives logits that are not finite (NaN or infinity)",
            hint="check the checkpoint: its weights may hold NaN, or training may have diverged",
        )
    return logits


def steady_logits(model: "torch.nn.Module", samples: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """The logits, where a photo gets the same ones again, and alone. Raises WorkbenchError."""
    import numpy as np

    batch = samples if len(samples) > 1 else np.concatenate([samples, -samples])
    expected = torch_logits(model, batch)
    largest = float(np.abs(expected).max())
    if float(np.abs(torch_logits(model, batch) - expected).max()) > STEADY * (1 + largest):
        raise WorkbenchError(
            "the network gives other answers for the same photo",
            hint="`eval()` does not end the chance in its forward: pass `self.training` to F.dropout, leave "
            "noise out",
        )
    if float(np.abs(torch_logits(model, batch[:1]) - expected[:1]).max()) > STEADY + TOLERANCE * largest:
        raise WorkbenchError(DEPENDENT, hint=DEPENDENT_HINT)
    return expected[: len(samples)]


def compare(
    expected: "NDArray[np.float32]",
    samples: "NDArray[np.float32]",
    run: Logits,
    hint: str = BRANCHES,
    tolerance: float = TOLERANCE,
) -> tuple[float, float]:
    """Largest absolute difference, and that over the largest expected logit: one photo alone, then all."""
    import numpy as np

    worst = 0.0
    for count in sorted({1, len(samples)}):
        got = run(samples[:count])
        if got.shape != expected[:count].shape:
            raise WorkbenchError(
                f"the exported file gives {got.shape} logits, torch {expected[:count].shape}"
            )
        difference = float(np.abs(got - expected[:count]).max())
        worst = difference if np.isnan(difference) else max(worst, difference)
    largest = float(np.abs(expected).max())
    if not worst <= tolerance * max(1.0, largest):
        raise WorkbenchError(
            f"the exported file does not compute what torch does: a logit differs by {worst:.3g} "
            f"(largest logit {largest:.3g}, tolerance {tolerance:g} of it)",
            hint=hint,
        )
    return worst, worst / largest if largest else worst


def refuse_branches(
    model: "torch.nn.Module", samples: "NDArray[np.float32]", run: Logits, tolerance: float
) -> None:
    """Compare the logits on inputs unlike photos too. Raises WorkbenchError where they differ: a trace
    keeps the branch that its example took, and photos that take another may be rare."""
    import numpy as np

    noise = np.random.default_rng(0).standard_normal(samples.shape, dtype=np.float32)
    for factor in (-1, 4, 1 / 64, 0):
        changed = samples * np.float32(factor)
        try:
            expected = torch_logits(model, changed)
            # A norm makes much of rounding where an input is nearly even: what torch's own answers move by
            # when the input moves as little is no sign of a branch.
            moved = torch_logits(
                model, changed + noise * np.float32(ROUNDING * max(1.0, np.abs(changed).max()))
            )
        except WorkbenchError:
            continue  # torch itself gives no finite logits for it
        own = SLACK * float(np.abs(moved - expected).max()) / max(1.0, float(np.abs(expected).max()))
        try:
            compare(expected, changed, run, tolerance=tolerance + own)
        except WorkbenchError as error:
            raise WorkbenchError(
                "the forward of the network branches on the values of its input, and the exported file keeps "
                f"one branch: on other inputs {error.message}",
                hint="write the branch with torch.where, or move it out of the network",
            ) from error
