"""What two runs or more do not have in common, so that their figures are read with it in mind."""

from collections.abc import Iterator, Mapping, Sequence

from workbench.results.records import RunInfo
from workbench.system.records import Record

# Of `RunInfo`; what is measured is no condition, and names and dates always differ.
CONDITIONS = (
    "machine", "libraries", "name", "checkpoint_digest", "validation_digest", "validation_images",
    "calibration_digest", "class_names", "preprocess", "budget",
)  # fmt: skip


class RunDifference(Record):
    """what: the place in `run.json`, such as `machine.cpu`. values: of each run; None: not there."""

    what: str
    values: tuple[str | None, ...]


def differences_of(infos: Sequence[RunInfo]) -> tuple[RunDifference, ...]:
    """The machine first, then versions, model, photos and budget."""
    places = [dict(_places(info.model_dump(mode="json", include=set(CONDITIONS)))) for info in infos]
    known = dict.fromkeys(
        what for field in CONDITIONS for each in places for what in each if _of(what, field)
    )
    found = [RunDifference(what=what, values=tuple(each.get(what) for each in places)) for what in known]
    return tuple(each for each in found if len(set(each.values)) > 1)


def _of(what: str, field: str) -> bool:
    return what == field or what.startswith(f"{field}.")


def _places(content: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _places(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ", ".join(map(str, value))
        elif value is not None:
            yield f"{prefix}{name}", str(value)
