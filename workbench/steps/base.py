"""The base of the steps: the facts that each class states, and the photos that a step may read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from workbench.backends.base import Operators, RuntimeSettings
from workbench.errors import WorkbenchError
from workbench.photos.contract import Batch, Preprocess
from workbench.system.records import Record

if TYPE_CHECKING:
    from workbench.backends.artifact import Format
    from workbench.photos.dataset import Images
    from workbench.system.environments import VirtualEnvironment

Reads = Literal["calibration", "validation", "contract", "processor"]
Family = Literal["int8", "fp16", "tidying"]
# What converters, and the code of a network that they run, raise for what they cannot take.
CONVERTER_ERRORS = (
    RuntimeError, ValueError, TypeError, KeyError, NotImplementedError, AssertionError, AttributeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class OpsetNeed:
    """The lowest opset for `what`, which is spelt as in a recipe. why: half a sentence."""

    opset: int
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Photos:
    """The photos that steps and their checks may read.

    choosing: rows of the validation photos that a step may choose by, None for all. samples: a few photos as
    the source takes them; noise by default.
    """

    contract: Preprocess
    calibration: "Images | None" = None
    validation: "Images | None" = None
    samples: "Batch | None" = None
    choosing: Sequence[int] | None = None


def calibration_of(photos: Photos, use: str) -> "Images":
    """The photos that step `use` calibrates on. Raises WorkbenchError where the workspace names none."""
    if photos.calibration is None:
        raise WorkbenchError(
            f"{use} needs photos to calibrate on",
            hint="name a folder of them as `data.calibration` in krishi.yaml",
        )
    return photos.calibration


class BaseStep(Record):
    """A step as a recipe states it. Its class states the facts that other packages need.

    PACKAGES: the distributions whose versions decide its result; part of the key in the cache.
    FAMILY: `int8` and `fp16` change the precision and need a network in FP32; `tidying` keeps precision and
    logits.
    READS: what decides its result beside the graph and the settings; part of the key too.
    HALVES: activations may become FP16, whose range is checked and noted. RESIZES: it changes the batch size.
    GIVES_PIXELS, TAKES_PIXELS: its result takes uint8 pixels; it works on graphs that do.
    LAST: nothing may follow. REPEATS: a second one in a recipe may find something to do.
    PORTABLE: the setting with which what it writes is for every runtime (see `operators`).
    NATIVE: formats other than ONNX that it writes itself, for the backends that open them (`apply_native`).
    FROM_TORCH: it takes the network as a torch.export program of one photo a call, and writes no ONNX.
    """

    PACKAGES: ClassVar[tuple[str, ...]]
    FAMILY: ClassVar[Family]
    READS: ClassVar[frozenset[Reads]] = frozenset()
    HALVES: ClassVar[bool] = False
    RESIZES: ClassVar[bool] = False
    GIVES_PIXELS: ClassVar[bool] = False
    TAKES_PIXELS: ClassVar[bool] = False
    LAST: ClassVar[bool] = False
    REPEATS: ClassVar[bool] = False
    PORTABLE: ClassVar[str | None] = None
    NATIVE: ClassVar["frozenset[Format]"] = frozenset()
    FROM_TORCH: ClassVar[bool] = False

    use: str

    @property
    def keeps_logits(self) -> bool:
        return self.FAMILY == "tidying"

    def operators(self) -> Operators:
        """The kind of operators it writes, as far as runtimes differ in them."""
        return "onnx"

    def environment(self, runtime: RuntimeSettings) -> "VirtualEnvironment | None":
        """The environment that its native format is written in, for this runtime; None: this one."""
        del runtime
        return None

    def opset_need(self) -> OpsetNeed | None:
        """The lowest opset, where it is higher than that of every export."""
        return None

    def note_of(self, result: Path) -> str | None:
        """The note about its work in the file it wrote, one sentence."""
        from workbench.steps.fp16.casts import notes_of

        notes = notes_of(result) if self.HALVES else None
        return notes.text() if notes else None

    def bound_to(self) -> str | None:
        """The processor its result is made for, None where it runs everywhere."""
        return None

    def changed(self) -> list[str]:
        """The settings that are given and differ from their defaults, by name."""
        fields = type(self).model_fields
        given = sorted(self.model_fields_set - {"use"})
        return [name for name in given if getattr(self, name) != fields[name].default]

    def ignored(self) -> dict[str, str]:
        """Those of them that do nothing, each with the setting that is why."""
        return {}

    def calibration_photos(self) -> int | None:
        """How many photos it is calibrated on at most; None where it is not."""
        return None
