"""The record of how a published model explains its answers: by a second model file, or by occlusion."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from workbench.system.records import Record

HeatMethod = Literal["class-activation-map", "grad-cam", "occlusion"]


class ClassMaps(Record):
    """A model file that gives the answer, and then the head's scores at each place of the last feature map.

    companions: files that it takes too. grid: (height, width) of that map. step: how far from their mean to
    each place the head was applied. error: largest difference between the mean of the maps and the scores on
    the golden images, as a fraction of the largest score.
    """

    file: str
    companions: tuple[str, ...] = ()
    grid: tuple[PositiveInt, PositiveInt]
    step: PositiveFloat
    error: NonNegativeFloat

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file, *self.companions)


class ExplanationMethod(Record):
    """why: of the method, one sentence. maps: None for occlusion."""

    method: HeatMethod
    why: str
    maps: ClassMaps | None = None
