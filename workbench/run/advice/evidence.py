"""When a step, a setting or a runtime helps and when it hurts: the entries of evidence.yaml."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from workbench.run.advice import sources
from workbench.system.records import Record

EXPORT, PREPROCESS, RUNTIME = "export", "preprocess", "runtime"


@dataclass(frozen=True, slots=True)
class Key:
    """What the evidence is of.

    of: the `use` of a step, a backend, or a section of a recipe (`export`, `preprocess`, `runtime`).
    field: a setting of it, dotted where it is in a section of its own; "" for the step or backend itself.
    value: of the setting; None for every value but the default. gpu: on a GPU, where it replaces the key
    without.
    """

    of: str
    field: str = ""
    value: str | bool | None = None
    gpu: bool = False


class Evidence(Record):
    """helps, hurts: None where nothing is known. source: of both."""

    key: Key
    helps: str | None = None
    hurts: str | None = None
    source: str


@lru_cache(maxsize=1)
def all_evidence() -> dict[Key, Evidence]:
    import yaml

    phrases = vars(sources)
    entries = [
        Evidence(
            key=Key(**entry.pop("key")), **{name: text.format_map(phrases) for name, text in entry.items()}
        )
        for entry in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_bytes())
    ]
    return {entry.key: entry for entry in entries}


def evidence(of: str, field: str, value: str | bool | None, *, gpu: bool) -> Evidence | None:
    """The evidence for this value, or with None for any but the default; on a GPU, its own first."""
    key = Key(of, field, value)
    return (all_evidence().get(replace(key, gpu=True)) if gpu else None) or all_evidence().get(key)
