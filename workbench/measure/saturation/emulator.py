"""INT8 that is right on one CPU and wrong on another: 16-bit sums that saturate.

x86 processors with AVX2 but without VNNI multiply unsigned by signed bytes with `vpmaddubsw`, which adds
neighbouring products in pairs and clips each sum to 16 bits: 255 * 127 twice is 64770, and 32767 is kept.
VNNI and ARM's dot product add in 32 bits. (onnxruntime's quantisation guide; NNCF's `OverflowFix`.)
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError
from workbench.measure.records import AT_RISK, EXACT_ANYWAY, Saturation
from workbench.measure.saturation.int16 import Tally

if TYPE_CHECKING:
    from numpy.typing import NDArray


def saturation_of(path: Path, photos: "NDArray[Any]") -> Saturation | None:
    """Emulate the 16-bit arithmetic on photos, through the whole network; see the module's first lines.

    photos: a handful, as the graph takes them: (n, C, H, W) float32, or what its input is. Each goes through
    the network alone and twice, with exact sums and with clipped ones; the answer is the same on any CPU.
    None where nothing multiplies unsigned by signed bytes. Raises WorkbenchError where onnxruntime cannot
    run the file.
    """
    import numpy as np

    from workbench.measure.saturation.network import SplitNetwork

    if not len(photos):
        raise WorkbenchError("saturation: there is no photo to emulate on", hint="give at least one")
    network = SplitNetwork(path)
    if not network.layers:
        return None
    tally: Tally = Counter()
    exact = np.concatenate([network.run(photo[None]) for photo in photos])
    clipped = np.concatenate([network.run(photo[None], tally) for photo in photos])
    at_risk = tuple(name for name, count in tally.items() if count)
    largest = float(np.abs(exact).max())
    return Saturation(
        layers_at_risk=at_risk,
        logit_error=float(np.abs(clipped - exact).max()) / largest if largest else 0.0,
        top1_changed=int((clipped.argmax(1) != exact.argmax(1)).sum()),
        photos=len(photos),
        validated=EXACT_ANYWAY if at_risk else (*EXACT_ANYWAY, AT_RISK),
    )
