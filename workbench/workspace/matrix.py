"""Expand the matrix of a recipe: the values of a variant and its label."""

from typing import Any

from workbench.errors import WorkbenchError, did_you_mean
from workbench.workspace import yamlfile

FIXED = ("name", "description", "needs", "extends", "matrix")  # keys that a matrix cannot vary


def labels_of(key: str, value: Any) -> list[str]:
    """The parts of a variant's name for a value: `opset=13`; strings in a mapping alone: `torchscript`."""
    if isinstance(value, dict):
        return [
            item if isinstance(item, str) else label
            for inner, item in value.items()
            for label in labels_of(str(inner), item)
        ]
    if isinstance(value, list):
        # An item that is a mapping is a step: `simplify+static_int8:int8`.
        items = [":".join(labels_of("", item)) if isinstance(item, dict) else str(item) for item in value]
        return [f"{key}={'+'.join(items) or 'none'}"]
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}"]


def assign(data: dict[str, Any], key: str, value: Any, document: yamlfile.Document) -> None:
    """Put `value` at a matrix key. Raises WorkbenchError where the recipe has no such place."""
    where = f"{document.where(('matrix', key))}: matrix: `{key}`"
    if key.partition(".")[0] in FIXED:
        hint = "`export`, `steps`, `runtime` and `preprocess` can vary"
        raise WorkbenchError(f"{where} is the same for all variants", hint=hint)
    target: Any = data
    *parents, last = key.split(".")
    for part in parents:
        target = _step(target, part, where) if isinstance(target, list) else target.setdefault(part, {})
        if not isinstance(target, dict | list):
            raise WorkbenchError(f"{where} leads through a plain value")
    if isinstance(target, list):
        target = {last: _step(target, last, where)}
        if not isinstance(value, dict):
            hint = "to vary which steps there are, give lists of steps under `steps`"
            raise WorkbenchError(f"{where}: {value!r} is no mapping to merge into the step", hint=hint)
    if isinstance(value, dict) and isinstance(target.get(last), dict):
        target[last].update(value)
    else:
        target[last] = value


def _step(steps: list[Any], part: str, where: str) -> dict[str, Any]:
    if not all(isinstance(step, dict) for step in steps):
        raise WorkbenchError(f"{where}: a step is a mapping such as {{use: simplify}} (got {steps!r})")
    named: list[dict[str, Any]] = [step for step in steps if step.get("use") == part]
    if part.isdecimal() and int(part) < len(steps):
        named = [steps[int(part)]]
    if len(named) == 1:
        return named[0]
    if named:
        hint = "name the one you mean by its position, counted from 0"
        raise WorkbenchError(f"{where}: there are {len(named)} steps `{part}`", hint=hint)
    meant = did_you_mean(part, (str(step.get("use")) for step in steps))
    raise WorkbenchError(f"{where}: the recipe has no step `{part}`", hint=meant)
