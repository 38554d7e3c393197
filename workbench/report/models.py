"""The registry as a list."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from workbench.registry.store import Registry
from workbench.report.cells import percent, rounded


@dataclass(frozen=True, slots=True)
class Listed:
    """One published version; its fields are the keys of `--format json`. top1: fraction of 1."""

    name: str
    version: str
    aliases: tuple[str, ...]
    variant: str
    run: str
    created_at: str
    size_bytes: int
    top1: float | None
    forced: str | None


def listed(registry: Registry) -> list[Listed]:
    """All versions of all models, oldest version first."""
    found = []
    for name in registry.names():
        aliases = registry.aliases(name)
        for version in registry.versions(name):
            manifest = registry.bundle(name, version).manifest
            accuracy = manifest.measured.accuracy
            found.append(
                Listed(
                    name=name,
                    version=version,
                    aliases=tuple(alias for alias, at in sorted(aliases.items()) if at.version == version),
                    variant=manifest.provenance.variant,
                    run=manifest.provenance.run_id,
                    created_at=manifest.created_at.isoformat(timespec="seconds"),
                    size_bytes=manifest.artifact.total_bytes,
                    top1=accuracy.top1 if accuracy else None,
                    forced=manifest.provenance.forced,
                )
            )
    return found


def as_table(entries: Sequence[Listed]) -> str:
    """Aligned columns; a version's aliases stand behind it."""
    if not entries:
        return "nothing is published yet: `krishi-bench promote` publishes the winner of the latest run"
    rows = [("model", "version", "alias", "variant", "MB", "top-1 %", "published", "run")]
    rows += [
        (
            entry.name,
            entry.version,
            ",".join(entry.aliases) or "-",
            entry.variant + (" (forced)" if entry.forced else ""),
            rounded(entry.size_bytes, 1e6),
            percent(entry.top1),
            f"{datetime.fromisoformat(entry.created_at):%Y-%m-%d %H:%M}",
            entry.run,
        )
        for entry in entries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
