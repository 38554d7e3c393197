"""The winner of a search, written down as a recipe that `run` reproduces it with."""

import re
from pathlib import Path

from workbench.backends import DEFAULT, Runtime
from workbench.errors import WorkbenchError
from workbench.results.verdict import Comparison
from workbench.system.files import write_atomic
from workbench.workspace.recipe import NAME_PATTERN, Variant
from workbench.workspace.workspace import Workspace


def recipe_path(workspace: Workspace, name: str | None) -> Path:
    """`recipes/tuned-<model>.yaml` of the workspace, or another name there. Raises WorkbenchError."""
    stem = name or f"tuned-{workspace.name}"
    if re.fullmatch(NAME_PATTERN, stem) is None:
        raise WorkbenchError(
            f"`{stem}` is not a name for a recipe", hint="use letters, digits, `.`, `_` and `-`, at most 60"
        )
    return workspace.root / "recipes" / f"{stem}.yaml"


HEADER = "# Written by `krishi-bench tune`"


def check_ours(path: Path) -> None:
    """Raise WorkbenchError where a file is there that tune did not write."""
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
        raise WorkbenchError(
            f"{path} is there, and tune did not write it", hint="choose another --name, or move it away"
        )


def _stated(runtime: Runtime) -> dict[str, object]:
    """What was said of it; the backend too, where it is not the one that is taken where nothing is said."""
    named = {} if runtime.backend == DEFAULT else {"backend": runtime.backend}
    return named | runtime.model_dump(mode="json", exclude_unset=True, exclude={"backend"})


def write_recipe(winner: Variant, path: Path, comparison: Comparison) -> None:
    """The winner as a recipe that `run` reproduces it with."""
    import yaml

    row = next(row for row in comparison.rows if row.variant == winner.name)
    assert row.speedup is not None
    said = f"{row.speedup:.2f} times the baseline's speed on {comparison.info.machine.cpu}"
    content: dict[str, object] = {
        "name": path.stem,
        "description": f"{winner.name}: {winner.description or 'found by tune'}",
        "needs": list(winner.needs),
        "export": winner.export.model_dump(mode="json", exclude_unset=True),
        "steps": [step.model_dump(mode="json", exclude_unset=True) for step in winner.steps],
        "runtime": _stated(winner.runtime),
        "preprocess": winner.preprocess.model_dump(mode="json", exclude_none=True),
    }
    kept = {key: value for key, value in content.items() if value}
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f"{HEADER} from run {comparison.info.run_id}: {said}.\n{text}".encode())
