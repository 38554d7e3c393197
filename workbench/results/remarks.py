"""What looks wrong with a network or its photos, whichever variant wins. The words are made in `report`."""

from typing import Literal

from pydantic import Field

from workbench.system.records import Record

Gravity = Literal["grave", "note"]
RemarkKind = Literal[
    "not_finite",
    "outputs",
    "class_order",
    "near_chance",
    "most_frequent",
    "one_class",
    "never_predicted",
    "confidence",
    "inputs",
    "other_inputs",
    "unstable",
    "training_mode",
    "no_photos",
    "contradictory",
    "shared_photos",
    "copies",
]


class Remark(Record):
    """One kind of finding. form: of a kind that has several, which one it is.

    figures: its numbers by name; rates are fractions of 1. names: of classes or files.
    """

    kind: RemarkKind
    gravity: Gravity
    form: str | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    names: tuple[str, ...] = ()


def graver_first(remarks: tuple[Remark, ...]) -> tuple[Remark, ...]:
    return tuple(sorted(remarks, key=lambda remark: remark.gravity != "grave"))
