"""Versions, promotions, collections and shadow reports in words; `..._answer`: keys of `--format json`."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from workbench.errors import WorkbenchError, one_line, plural
from workbench.registry.abstention import promise
from workbench.registry.bundle_writer import Promotion
from workbench.registry.gc import GRACE, Gone, Reclaimed
from workbench.registry.leases import read_leases
from workbench.registry.shadow_report import Pair, ShadowReport
from workbench.registry.store import Registry
from workbench.report.cells import percent, rounded
from workbench.report.text_table import text_table
from workbench.report.words import WIDTH

COLUMNS = ("model", "version", "alias", "variant", "MB", "top-1 %", "published", "run")
FOLDED = [COLUMNS.index(name) for name in ("alias", "variant", "published", "run")]  # where they must be
DROPPED = [COLUMNS.index("published")]  # on a narrow terminal


def versions_answer(registry: Registry) -> list[dict[str, Any]]:
    """All versions of all models, oldest version first; None for what cannot be read.

    problems: of its files, which are not hashed; servers: what those that run on this registry do with it.
    """
    leases = read_leases(registry.root)[0]
    return [
        {
            "name": name,
            "version": version,
            "aliases": _aliases(registry, name, version),
            **_bundle_answer(registry, name, version),
            "servers": [one.state for one in leases if (one.name, one.version) == (name, version)],
        }
        for name in registry.names()
        for version in registry.versions(name)
    ]


def _aliases(registry: Registry, name: str, version: str) -> list[str] | None:
    """Those that point at a version; None where their list is damaged, which `alias_faults` says."""
    try:
        return [alias for alias, at in sorted(registry.aliases(name).items()) if at.version == version]
    except WorkbenchError:
        return None


def _bundle_answer(registry: Registry, name: str, version: str) -> dict[str, Any]:
    unknown = dict.fromkeys(("variant", "run", "created_at", "size_bytes", "top1", "forced"))
    try:
        bundle = registry.bundle(name, version)
    except WorkbenchError as error:
        return {**unknown, "problems": [one_line(error)]}
    manifest = bundle.manifest
    problems = [problem for problem in bundle.problems(hashed=False) if not problem.harmless]
    accuracy, provenance = manifest.measured.accuracy, manifest.provenance
    return {
        "variant": provenance.variant,
        "run": provenance.run_id,
        "created_at": manifest.created_at.isoformat(timespec="seconds"),
        "size_bytes": manifest.artifact.total_bytes,
        "top1": accuracy.top1 if accuracy else None,
        "forced": provenance.forced,
        "problems": [f"{problem.path.name} {problem.what}" for problem in problems],
    }


def alias_faults(registry: Registry) -> list[str]:
    """A sentence for each list of aliases that is damaged, and each alias whose version is not there."""
    found = []
    for name in registry.names():
        try:
            aliases = registry.aliases(name)
        except WorkbenchError as error:
            found.append(one_line(error))
            continue
        found += [
            f"{name}: `{alias}` points at {at.version}, which is not there; `krishi-bench promote` or "
            "`rollback` points it at another"
            for alias, at in sorted(aliases.items())
            if at.version not in registry.versions(name)
        ]
    return found


def versions(entries: Sequence[Mapping[str, Any]], width: int = WIDTH) -> str:
    """Aligned columns, and below them what is to be said of single versions. width: of the terminal."""
    if not entries:
        return "nothing is published yet: `krishi-bench promote` publishes the winner of the latest run"
    rows: list[tuple[str, ...]] = [COLUMNS, *map(_row, entries)]
    lines = text_table(rows, width, folds=FOLDED, drops=DROPPED)
    for entry in entries:
        said = [*entry["problems"], *entry["servers"]]
        lines += [f"{entry['name']} {entry['version']}: {what}" for what in said]
    return "\n".join(lines)


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    aliases = "?" if entry["aliases"] is None else ",".join(entry["aliases"]) or "-"
    if entry["run"] is None:
        return entry["name"], entry["version"], aliases, "?", "?", "?", "?", "?"
    return (
        entry["name"],
        entry["version"],
        aliases,
        entry["variant"] + (" (forced)" if entry["forced"] else ""),
        rounded(entry["size_bytes"], 1e6),
        percent(entry["top1"]),
        f"{datetime.fromisoformat(entry['created_at']):%Y-%m-%d %H:%M}",
        entry["run"],
    )


def promotion_answer(done: Promotion) -> dict[str, object]:
    """The keys of `--format json`. servers: those that do not serve it, and why, if any. explanation: the
    method, where one was asked for."""
    servers, manifest = _servers(done), done.bundle.manifest
    explanation, rule = manifest.explanation, manifest.abstention
    return {
        "name": done.bundle.manifest.name,
        "version": done.version,
        "variant": done.variant,
        "alias": done.alias,
        "previous": done.previous,
        "why": done.why,
        "unchanged": done.unchanged,
        "folder": str(done.bundle.folder),
        **({"explanation": explanation.method} if explanation else {}),
        **({"abstention": {"promise": promise(rule), **rule.model_dump(mode="json")}} if rule else {}),
        **({"servers": servers} if servers else {}),
    }


def promotion(done: Promotion) -> str:
    """For a terminal."""
    name, version, rule = done.bundle.manifest.name, done.version, done.bundle.manifest.abstention
    said = [*([promise(rule)] if rule else []), *_servers(done)]
    more = "".join(f"\n{line}" for line in said)
    if done.unchanged:
        return f"{done.alias} of {name} already points at {version}: {done.why}{more}"
    before = f" (was {done.previous})" if done.previous else ""
    what = f"{name} {version} is {done.alias}{before}: {done.variant}; {done.why}"
    explanation = done.bundle.manifest.explanation
    explained = f"\nanswers are explained by {explanation.method}: {explanation.why}" if explanation else ""
    return f"{what}\n{done.bundle.folder}{explained}{more}"


def _servers(done: Promotion) -> list[str]:
    """What the servers do that cannot load the version, or serve the one before."""
    states = []
    with suppress(WorkbenchError):  # a lease that cannot be read: the promotion is done all the same
        for lease in read_leases(done.bundle.folder.parents[1])[0]:
            if lease.name == done.bundle.manifest.name and lease.version == done.version and lease.refused:
                states.append(lease.state)
            elif lease.name == done.bundle.manifest.name and lease.version == done.previous != done.version:
                states.append(
                    f"{lease} serves {lease.version}; `krishi-bench models` says when it has changed"
                )
    return states


def collection_answer(done: Reclaimed) -> dict[str, object]:
    return {**asdict(done), "freed_bytes": done.freed_bytes}


def collection(done: Reclaimed) -> str:
    would = "" if done.done else "would be "
    lines = [
        *(f"keeps {kept.name} {kept.version}: {', '.join(kept.why)}" for kept in done.kept),
        *(f"{would}moved to the trash: {_trash_item(gone)}" for gone in done.moved),
        *(f"in the trash until {gone.until[:16]} UTC: {_trash_item(gone)}" for gone in done.waiting),
        *(f"{would}deleted: {_trash_item(gone)}" for gone in done.deleted),
        *(f"{would}removed: {left.path}, left by an interrupted write" for left in done.leftovers),
    ]
    moved = sum(item.size_bytes for item in done.moved)
    hours = GRACE // timedelta(hours=1)
    lines.append(
        f"{_size(moved)} {would}moved to the trash, {_size(done.freed_bytes)} {would}freed; "
        f"what is in the trash is deleted by a collection {hours} hours later"
    )
    if not done.done:
        lines.append("nothing was changed: `krishi-bench gc --delete` does it")
    return "\n".join(lines)


def _trash_item(gone: Gone) -> str:
    return f"{gone.name} {gone.version}, {_size(gone.size_bytes)}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} KB"


def shadow_answer(report: ShadowReport) -> dict[str, object]:
    return {
        "url": report.url,
        "at": report.at.isoformat(timespec="seconds"),
        "running": report.running,
        "pairs": [_pair_answer(pair) for pair in report.pairs],
    }


def shadow(report: ShadowReport) -> str:
    idle = f"no shadow is running at {report.url}: `krishi-bench serve --shadow X.Y.Z` starts one"
    return "\n".join([*([] if report.running else [idle]), *map(_pair, report.pairs)])


def _pair_answer(pair: Pair) -> dict[str, object]:
    share, low, high = pair.agreement or (None, None, None)
    return {
        "name": pair.name,
        "version": pair.version,
        "shadow_version": pair.shadow_version,
        "shadow_digest": pair.digest,
        "requests": pair.compared,
        "agree": pair.agree,
        "disagree": pair.disagree,
        "failed": pair.failed,
        "shed": pair.shed,
        "agreement": share,
        "agreement_interval": None if share is None else [low, high],
        "mean_seconds": pair.served_s,
        "shadow_mean_seconds": pair.shadow_s,
        "ratio": pair.ratio,
    }


def _pair(pair: Pair) -> str:
    pairing = f"{pair.name or 'model'} {pair.shadow_version} in the shadow of {pair.version}"
    if pair.agreement is None:
        return f"{pairing}: no request compared yet ({pair.failed} failed, {pair.shed} left out)"
    share, low, high = pair.agreement
    lines = [
        f"{pairing}: {plural(pair.compared, 'request')} compared",
        f"  agreement {100 * share:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f}), "
        f"{pair.disagree} differ",
        f"  {pair.failed} failed, {pair.shed} left out while the server was busy",
    ]
    if pair.served_s is not None and pair.shadow_s is not None:
        times = f"{1000 * pair.shadow_s:.2f} ms against {1000 * pair.served_s:.2f} ms"
        ratio = f", {pair.ratio:.2f} times" if pair.ratio is not None else ""
        lines.append(f"  mean inference {times}{ratio}; the shadow runs at low priority")
    return "\n".join(lines)
