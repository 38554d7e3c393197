"""Fields and values of earlier versions: what was written with them still loads where it can."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, model_validator


class Compatible(BaseModel):
    """A model that reads what earlier versions wrote.

    REMOVED: fields that are gone, and their values that change nothing (None: all of them do not). Such a
    field is dropped; any other value is an error.
    REMOVED_VALUES: values that are gone, of fields that are still there.
    """

    REMOVED: ClassVar[Mapping[str, Collection[object] | None]] = {}
    REMOVED_VALUES: ClassVar[Mapping[str, Collection[object]]] = {}

    @classmethod
    def removed_setting(cls, given: Mapping[str, Any]) -> str | None:
        """The first setting, as `name: value`, that this version no longer has; None where there is none."""
        for name, harmless in cls.REMOVED.items():
            if name in given and harmless is not None and given[name] not in harmless:
                return f"{name}: {given[name]}"
        for name, values in cls.REMOVED_VALUES.items():
            if given.get(name) in values:
                return f"{name}: {given[name]}"
        return None

    @model_validator(mode="before")
    @classmethod
    def _without_removed(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if (setting := cls.removed_setting(given)) is not None:
            raise ValueError(f"`{setting}` was removed in this version of krishi-bench")
        return {name: value for name, value in given.items() if name not in cls.REMOVED}
