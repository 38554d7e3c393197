"""Photo by photo against the baseline: recall of each class, confusions, changed answers, confidence."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from workbench.errors import plural, some
from workbench.measure.records import BASELINE
from workbench.report.page import charts
from workbench.report.page.blocks import Chart, Gallery, PageSection, lines, table
from workbench.report.page.gallery import PHOTOS, thumbnails
from workbench.report.page.run_data import Predictions, RunData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLASSES = 40  # shown, those that lose most
CONFUSIONS = 20
BINS = 10  # of confidence

NOTHING_KEPT = "The run kept no predictions of the photos to compare: nothing is known here."


def recalls(run: RunData) -> PageSection:
    """Recall of each class before and after, the class that loses most first."""
    title = "Recall of each class, before and after"
    if (known := run.predictions) is None:
        return PageSection("recalls", title, lines(NOTHING_KEPT))
    series, names = [*known.probabilities], run.info.class_names
    found = {name: _recalls(known, name, len(names)) for name in series}
    there = [label for label, photos in enumerate(_photos(known, len(names))) if photos]
    before = found[BASELINE]
    worst = {label: min(found[name][label] - before[label] for name in series) for label in there}
    order = sorted(there, key=lambda label: (worst[label], names[label]))[:CLASSES]
    values = [
        {"class": names[label], "series": name, "recall": found[name][label]}
        for label in order
        for name in series
    ]
    photos = _photos(known, len(names))
    figures = table(
        "Recall in percent, on all validation photos",
        ("class", "photos", *series),
        [
            (names[label], f"{photos[label]:,}", *(f"{found[name][label]:.1f}" for name in series))
            for label in order
        ],
    )
    chart = Chart(title, charts.recalls(values, [names[label] for label in order], series), figures)
    more = len(there) - len(order)
    cut = f"The {plural(more, 'class')} that lose least are left out." if more else ""
    return PageSection("recalls", title, (*lines(_scope(run, known)), chart, *lines(cut)))


def _scope(run: RunData, known: Predictions) -> str:
    held_out = run.info.certification_images
    parts = f", of which {held_out:,} were held out of the selection" if held_out else ""
    photos = plural(len(known.labels), "validation photo")
    return f"On all {photos}{parts}; the classes that lose most come first."


def _photos(known: Predictions, classes: int) -> list[int]:
    import numpy as np

    return [int(count) for count in np.bincount(known.labels, minlength=classes)]


def _recalls(known: Predictions, variant: str, classes: int) -> list[float]:
    """In percent; 0 for classes without a photo."""
    import numpy as np

    right = known.labels[known.answers(variant) == known.labels]
    counts = np.bincount(right, minlength=classes).tolist()
    return [100 * n / max(1, photos) for n, photos in zip(counts, _photos(known, classes), strict=True)]


def confusions(run: RunData) -> PageSection:
    """Photos of one class taken for another: what appeared and what went, largest change first."""
    title = "Confusions that appeared or went"
    if (known := run.predictions) is None:
        return PageSection("confusions", title, ())
    series, names = [*known.probabilities], run.info.class_names
    counts = {name: _confused(known, name) for name in series}
    changes = {
        pair: max((counts[name][pair] - counts[BASELINE][pair] for name in series[1:]), key=abs)
        for pair in set().union(*counts.values())
    }
    found = sorted((pair for pair in changes if changes[pair]), key=lambda p: (-abs(changes[p]), p))
    if not found:
        return PageSection("confusions", title, lines("None did."))
    figures = table(
        "Photos taken for another class",
        ("really", "taken for", *series),
        [
            (names[truth], names[answer], *(f"{counts[name][truth, answer]:,}" for name in series))
            for truth, answer in found[:CONFUSIONS]
        ],
        texts=2,
    )
    more = len(found) - CONFUSIONS
    return PageSection("confusions", title, (figures, *lines(f"{more:,} more changed." if more > 0 else "")))


def _confused(known: Predictions, variant: str) -> Counter[tuple[int, int]]:
    answers = known.answers(variant)
    wrong = answers != known.labels
    return Counter(zip(known.labels[wrong].tolist(), answers[wrong].tolist(), strict=True))


def changed(run: RunData) -> PageSection:
    """A gallery of photos that a variant answers otherwise than the baseline."""
    title = "Photos whose answer changed"
    if (known := run.predictions) is None:
        return PageSection("changed", title, ())
    before, series = known.answers(BASELINE), [*known.probabilities][1:]
    differing = {name: known.answers(name) != before for name in series}
    counts = [f"{name}: {plural(int(rows.sum()), 'photo')}" for name, rows in differing.items()]
    rows = _worst_first(known, differing)
    if not rows:
        what = f"{some(series, quote='')} answers every photo as the baseline does."
        return PageSection("changed", title, lines(what))
    photos, missing = thumbnails(run, known, rows[:PHOTOS])
    bounded = f"{PHOTOS} of {len(rows):,} are shown." if len(rows) > PHOTOS else ""
    note = f"{', '.join(counts)}. Lost ones come first, then gained ones. {bounded}"
    return PageSection("changed", title, (*lines(note.strip(), missing), Gallery(photos)))


def _worst_first(known: Predictions, differing: "dict[str, NDArray[np.bool_]]") -> list[int]:
    """Rows: lost photos of the most certain baseline first, then gained ones, then others."""
    labels, confidence = known.labels, known.probabilities[BASELINE].max(axis=1)
    right = known.answers(BASELINE) == labels
    changed_rows = sorted({row for rows in differing.values() for row in rows.nonzero()[0].tolist()})

    def rank(row: int) -> tuple[int, float]:
        gained = any(known.answers(name)[row] == labels[row] for name in differing)
        return 0 if right[row] else 1 if gained else 2, -float(confidence[row])

    return sorted(changed_rows, key=rank)


def reliability(run: RunData) -> PageSection:
    """Are answers given with 90 % confidence right in 90 of 100?"""
    title = "Reliability of confidence"
    if (known := run.predictions) is None:
        return PageSection("reliability", title, ())
    series = [*known.probabilities]
    values = [value for name in series for value in _bins(known, name)]
    figures = table(
        "By bins of confidence, in percent",
        ("variant", "confidence", "right", "photos"),
        [
            (str(v["series"]), f"{v['confidence']:.1f}", f"{v['right']:.1f}", f"{v['photos']:,}")
            for v in values
        ],
    )
    chart = Chart(title, charts.reliability(values, series), figures)
    errors = [f"{name} {100 * error:.2f}" for name in series if (error := _ece(run, name)) is not None]
    note = f"Expected calibration error, in points: {', '.join(errors)}." if errors else ""
    return PageSection("reliability", title, (chart, *lines(note)))


def _ece(run: RunData, variant: str) -> float | None:
    trial = run.trials.get(variant)
    return trial.accuracy.ece if trial and trial.accuracy else None


def _bins(known: Predictions, variant: str) -> list[dict[str, Any]]:
    """Those of ten equal bins of confidence that hold a photo."""
    import numpy as np

    confidence = known.probabilities[variant].max(axis=1)
    right = known.answers(variant) == known.labels
    slots = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "series": variant,
            "confidence": 100 * float(confidence[slots == slot].mean()),
            "right": 100 * float(right[slots == slot].mean()),
            "photos": int((slots == slot).sum()),
        }
        for slot in np.unique(slots).tolist()
    ]
