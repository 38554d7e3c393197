"""INT8 that is right on one CPU and wrong on another: 16-bit sums that saturate.

x86 processors with AVX2 but without VNNI multiply unsigned by signed bytes with `vpmaddubsw`, which adds
neighbouring products in pairs and clips each sum to 16 bits: 255 * 127 twice is 64770, and 32767 is kept.
VNNI and ARM's dot product add in 32 bits. (onnxruntime's quantisation guide; NNCF's `OverflowFix`.)
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from workbench.artifact import Precision
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT_ANYWAY = ("x86 with VNNI", "ARM with dot product")
AT_RISK = "x86 with AVX2 without VNNI"


class Saturation(BaseModel):
    """What 16-bit pair sums change, emulated on photos.

    layers_at_risk: nodes in which a sum saturated. worst_share: of the pair sums of the worst layer that did.
    logit_error: largest change of a logit, as a fraction of the largest logit. top1_changed: photos, out of
    `photos`, that are classified otherwise. validated: the kinds of CPU on which nothing changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers_at_risk: tuple[str, ...]
    worst_share: float
    logit_error: float
    top1_changed: NonNegativeInt
    photos: NonNegativeInt
    validated: tuple[str, ...]


def told(saturation: Saturation) -> str:
    """Where the INT8 sums are exact, as a phrase; what was only seen on photos is said to be."""
    exact = f"INT8 sums are exact on {' and '.join(EXACT_ANYWAY)}"
    if layers := len(saturation.layers_at_risk):
        moved = f"logits move by up to {100 * saturation.logit_error:.1f} %"
        changed = f"{saturation.top1_changed} of {saturation.photos} photos change class"
        return f"{exact}; on {AT_RISK} they saturate in {layers} layer(s): {moved}, {changed}"
    return f"{exact}; on {AT_RISK} none saturated on {saturation.photos} photos"


def cpu_classes(
    precision: Precision, saturation: Saturation | None, *, emulated: bool = True
) -> tuple[str, ...]:
    """The kinds of CPU on which an artifact computes the logits that were checked.

    saturation: of this artifact; None where it multiplies no unsigned by signed bytes. emulated: whether
    that was looked into at all; INT8 in a format other than ONNX cannot be.
    """
    if precision == "unknown":
        return ()
    harmless = emulated and (saturation is None or not saturation.layers_at_risk)
    return (*EXACT_ANYWAY, AT_RISK) if harmless or precision != "int8" else EXACT_ANYWAY


def saturation_of(path: Path, photos: "NDArray[Any]") -> Saturation | None:
    """Emulate the 16-bit arithmetic on photos, through the whole network; see the module's first lines.

    photos: a handful, as the graph takes them: (n, C, H, W) float32, or what its input is. Each goes through
    the network alone and twice, with exact sums and with clipped ones, with the same answer on any CPU.
    None where nothing multiplies unsigned by signed bytes. Raises WorkbenchError where onnxruntime cannot
    run the file.
    """
    import numpy as np

    from workbench.bytewise import Plan

    if not len(photos):
        raise WorkbenchError("saturation: there is no photo to emulate on", hint="give at least one")
    plan = Plan(path)
    if not plan.layers:
        return None
    tally: dict[str, tuple[int, int]] = {}
    exact = np.concatenate([plan.run(photo[None]) for photo in photos])
    clipped = np.concatenate([plan.run(photo[None], tally) for photo in photos])
    at_risk = tuple(name for name, (count, _) in tally.items() if count)
    largest = float(np.abs(exact).max())
    found = Saturation(
        layers_at_risk=at_risk,
        worst_share=max((count / total for count, total in tally.values()), default=0.0),
        logit_error=float(np.abs(clipped - exact).max()) / largest if largest else 0.0,
        top1_changed=int((clipped.argmax(1) != exact.argmax(1)).sum()),
        photos=len(photos),
        validated=(),
    )
    return found.model_copy(update={"validated": cpu_classes("int8", found)})
