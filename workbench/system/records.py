"""The base of every frozen model of the project, and records as JSON files."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workbench.errors import Place, WorkbenchError
from workbench.system.files import read_plain, write_atomic

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """A frozen model that reads what earlier versions wrote.

    REMOVED: fields that are gone, and the values that may be dropped (None: all); another is an error.
    REMOVED_VALUES: values that are gone, of fields that are still there.
    """

    # Built when first read or written: the processes that measure do neither, and there are many.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    REMOVED: ClassVar[Mapping[str, Collection[object] | None]] = {}
    REMOVED_VALUES: ClassVar[Mapping[str, Collection[object]]] = {}

    @classmethod
    def removed_setting(cls, given: Mapping[str, Any]) -> str | None:
        """The first setting, as `name: value`, that this version no longer has; None where there is none."""
        for name, harmless in cls.REMOVED.items():
            if name in given and harmless is not None and given[name] not in harmless:
                return f"{name}: {given[name]}"
        gone = (name for name, values in cls.REMOVED_VALUES.items() if given.get(name) in values)
        return next((f"{name}: {given[name]}" for name in gone), None)

    @model_validator(mode="before")
    @classmethod
    def _without_removed(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if (setting := cls.removed_setting(given)) is not None:
            raise ValueError(f"`{setting}` was removed in this version of krishi-bench")
        return {name: value for name, value in given.items() if name not in cls.REMOVED}


Parsed = TypeVar("Parsed", bound=BaseModel)


def read_record(path: Path, model: type[Parsed], *, what: str, hint: str | None = None) -> Parsed:
    """The record in a plain file. Raises as `parse_record` does, and for a link or a missing file."""
    return parse_record(read_plain(path), path, model, what=what, hint=hint)


def parse_record(
    data: bytes, where: Path | str, model: type[Parsed], *, what: str, hint: str | None = None
) -> Parsed:
    """JSON as a `model`. where, what: the place and the kind of record, for messages.

    Raises WorkbenchError naming every field that is wrong, or the schema version where it is another one.
    """
    try:
        content = json.loads(data)
    except ValueError as error:
        raise WorkbenchError(f"{where} is not JSON: {error}", hint=hint) from error
    if (field := model.model_fields.get("schema_version")) is not None:
        found = content.get("schema_version") if isinstance(content, dict) else None
        if found != field.default:
            raise WorkbenchError(
                f"{where} has schema_version {found}; this krishi-bench reads {field.default}",
                hint=hint or "read it with the version of krishi-bench that wrote it, or a newer one",
            )
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise invalid(f"{where} is not a valid {what}", error, hint=hint) from error


def write_record(path: Path, record: BaseModel) -> None:
    """Replace the file as a whole."""
    write_atomic(path, to_json(record))


def to_json(record: BaseModel) -> bytes:
    return record.model_dump_json(indent=2).encode() + b"\n"


def invalid(message: str, error: ValidationError, *, hint: str | None = None) -> WorkbenchError:
    """The message, and below it every problem in a line of its own."""
    return WorkbenchError("\n  ".join([message, *problems_of(error)]), hint=hint)


def problems_of(error: ValidationError) -> list[str]:
    """`steps[0].method: Field required`, for each problem; those of a whole model have no place."""
    found = [(dotted(each["loc"]), each["msg"].removeprefix("Value error, ")) for each in error.errors()]
    return [f"{place}: {message}" if place else message for place, message in found]


def dotted(place: Place) -> str:
    """`steps[0].calibration.method`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
