"""What the runtimes of phones and boards share: settings, one photo a call, the rule on their delegate."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from workbench.backends.audit import Audit, Delegation
from workbench.backends.base import RuntimeSettings
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class EdgeSettings(RuntimeSettings):
    """The settings of the runtimes of phones and boards."""

    PRECISIONS: ClassVar = {"cpu": ("f32",)}

    full_delegation: Literal["optional", "required"] = Field(
        "optional",
        description="`required`: the trial fails, with the numbers, unless XNNPACK runs the whole network in "
        "one piece; `optional`: the audit says how much of it XNNPACK runs.",
    )

    @property
    def largest_batch(self) -> int:
        return 1

    @field_validator("batch")
    @classmethod
    def _one_photo(cls, batch: PositiveInt) -> PositiveInt:
        if batch != 1:
            raise ValueError("its files are made for one photo a call: leave `batch` out")
        return batch


def one_by_one(
    run: "Callable[[Any], NDArray[np.float32]]",
) -> "Callable[[NDArray[Any]], NDArray[np.float32]]":
    """`run`, which takes one photo, for any number of them."""

    def infer(batch: "NDArray[Any]") -> "NDArray[np.float32]":
        import numpy as np

        if len(batch) == 1:
            return run(batch)
        return np.concatenate([run(batch[row : row + 1]) for row in range(len(batch))])

    return infer


def with_delegation(
    audit: Audit, delegation: Delegation | None, runtime: EdgeSettings, *distributions: str
) -> Audit:
    """The audit with what the delegate runs, and the size of the runtime. None: nobody recorded that.

    Raises WorkbenchError where the whole network was to run in the delegate, and does not.
    """
    if runtime.full_delegation == "required" and (delegation is None or not delegation.whole):
        found = delegation.sentence() if delegation else "its file does not say how much of it is delegated"
        raise WorkbenchError(
            f"runtime.full_delegation: {found}",
            hint="leave the operators outside in another precision (`exclude_op_types`), or take `optional`",
        )
    sentence = [delegation.sentence()] if delegation else []
    return audit.model_copy(
        update={
            "delegation": delegation,
            "runtime_bytes": installed_bytes(*distributions) or None,
            "verdict": "; ".join([audit.verdict, *sentence]),
        }
    )


def installed_bytes(*distributions: str) -> int:
    """Of the files of installed distributions, by their own records; 0 for those that are not installed."""
    from importlib.metadata import PackageNotFoundError, files

    total = 0
    for name in distributions:
        try:
            total += sum(file.size or 0 for file in files(name) or ())
        except PackageNotFoundError:
            continue
    return total
