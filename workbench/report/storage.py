"""What is kept on disk, in words; `answer`: the keys of `--format json`."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from workbench.errors import plural
from workbench.registry.storage import Kind, Storage, Stored

NAMES: dict[Kind, str] = {
    "results": "runs",
    "registry": "published versions",
    "models": "built models",
    "engines": "engines of GPU runtimes",
    "environments": "environments of their own",
    "caches": "photos, logits and what was learnt of them",
}
LISTED: tuple[Kind, ...] = ("environments", "engines")  # a line each


def answer(storage: Storage) -> dict[str, Any]:
    return {
        "items": [asdict(item) for item in storage.items],
        "removed": [asdict(item) for item in storage.removed],
        "done": storage.done,
        "freed_bytes": _size_of(storage.removed),
    }


def text(storage: Storage, *, asked: bool) -> str:
    """For a terminal: what there is, or what was or would be taken away where that was asked."""
    return _removal(storage) if asked else _overview(storage)


def _overview(storage: Storage) -> str:
    rows = [("what", "in", "MB", "not needed, MB")]
    for kind, name in NAMES.items():
        items = [item for item in storage.items if item.kind == kind]
        idle = [item for item in items if item.needed is None]
        rows.append((name, f"{len(items):,}", _mb(_size_of(items)), _mb(_size_of(idle)) if idle else "-"))
        if kind in LISTED:
            rows += [(f"  {item.name}", "", _mb(item.size_bytes), _idle(item)) for item in items]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]
    idle_bytes = _size_of([item for item in storage.items if item.needed is None])
    lines.append(f"{_mb(_size_of(storage.items))} MB in all")
    if idle_bytes:
        lines.append(f"nothing needs {_mb(idle_bytes)} MB of it: `krishi-bench storage --gc` lists that")
    return "\n".join(lines)


def _removal(storage: Storage) -> str:
    would = "" if storage.done else "would be "
    lines = [
        f"{would}removed: {item.path}, {_mb(item.size_bytes)} MB"
        + (f" ({item.needed})" if item.needed else "")
        for item in storage.removed
    ]
    lines.append(f"{_mb(_size_of(storage.removed))} MB {would}freed, {plural(len(storage.removed), 'item')}")
    if storage.removed and not storage.done:
        lines.append("nothing was changed: add --delete to do it")
    return "\n".join(lines)


def _idle(item: Stored) -> str:
    return _mb(item.size_bytes) if item.needed is None else "-"


def _size_of(items: Sequence[Stored]) -> int:
    return sum(item.size_bytes for item in items)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f}"
