"""The sanity look of a run, in order; the modules beside it judge."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from workbench.backends.artifact import Artifact
from workbench.measure.records import Parity
from workbench.photos.dataset import Images
from workbench.results.remarks import Remark, graver_first
from workbench.run.prepare import Prepared
from workbench.run.sanity import inputs
from workbench.run.sanity.answers import is_low, of_answers
from workbench.run.sanity.photos import of_photos, same_pixels
from workbench.system.child import ChildError, call

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.run.sanity.class_order import Rows

# Photos whose inputs are looked at; whose answers are, where nothing is measured; that are given again.
SAMPLE, QUICK, AGAIN = 64, 256, 8
TIMEOUT_S = 300.0
RUNTIME = ("numpy", "onnxruntime")
FoundT = TypeVar("FoundT")


def look(
    prepared: Prepared,
    baseline: Artifact,
    outputs: "NDArray[np.float32]",
    log: Path,
    rows: "Rows | None" = None,
) -> tuple[Remark, ...]:
    """Everything there is to remark on, grave ones first.

    outputs: (n, classes) of the source model on all validation photos, or on `rows` of them.
    log: of the process that tries other normalisations, where the accuracy is low.
    """
    import numpy as np

    job, names = prepared.job, prepared.class_names
    rows = np.arange(len(job.photos)) if rows is None else rows
    labels = np.asarray(job.photos.labels)[rows]
    found, right = of_answers(outputs, labels, names), outputs.argmax(axis=1) == labels
    if not baseline.info.pixels:
        place = spread(len(rows), SAMPLE)
        # Where the names are in the wrong order, the accuracy says nothing of the inputs.
        ordered, some = all(remark.kind != "class_order" for remark in found), rows[place]
        low = ordered and is_low(int(right.sum()), len(right), len(names))
        found += inputs.of_inputs(job.photos.pixels()[some], job.contract, low=low)
        if low:
            tried = _ask(inputs.try_inputs, baseline, job.photos, some, log)
            found += inputs.of_tried(tried or {}, int(right[place].sum()), len(some))
    digests = same_pixels(job.photos)
    accuracy, separation = float(right.mean()), prepared.separation
    found += of_photos(prepared.validation, prepared.calibration, separation, names, accuracy, digests)
    return graver_first(tuple(found))


def look_quickly(prepared: Prepared, baseline: Artifact, log: Path) -> tuple[Remark, ...]:
    """The same on a few hundred photos. Raises ChildError where the baseline cannot run them."""
    photos = prepared.job.photos
    rows, doing = spread(len(photos), QUICK), "running the baseline"
    found = call(
        inputs.outputs_of, baseline, photos, rows, log=log, timeout_s=TIMEOUT_S, label=doing, imports=RUNTIME
    )
    return look(prepared, baseline, found, log, rows)


def of_parity(photos: Images, baseline: Artifact, parity: Parity | None, log: Path) -> tuple[Remark, ...]:
    """parity: of one photo at a time with the source model's outputs, which were computed in batches."""
    if parity is None or parity.max_rel <= inputs.SAME:
        return ()
    changes = _ask(inputs.repeat, baseline, photos, spread(len(photos), AGAIN), log)
    return inputs.unstable(*changes) if changes else ()


def spread(total: int, count: int) -> "Rows":
    """At most `count` rows at even distances: photos are ordered by class."""
    import numpy as np

    return np.unique(np.linspace(0, total - 1, count).astype(np.int64))


def _ask(
    function: Callable[[Artifact, Images, "Rows"], FoundT],
    baseline: Artifact,
    photos: Images,
    rows: "Rows",
    log: Path,
) -> FoundT | None:
    """What the function finds in a process of its own; None where the network cannot run so: the log says
    why, and there is nothing to remark on."""
    doing = "the sanity look"
    try:
        given = (baseline, photos, rows)
        return call(function, *given, log=log, timeout_s=TIMEOUT_S, label=doing, imports=RUNTIME)
    except ChildError:
        return None
