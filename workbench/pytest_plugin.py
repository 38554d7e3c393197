"""A pytest plugin: the fixture `krishi`, whose `gate` fails a test for a real regression.

    def test_the_network_is_no_worse(krishi):
        krishi.gate("model.onnx", against="reference.onnx", fail_on="accuracy, p95>5%, size>10%")

It is registered by its entry point, so every session of pytest imports this module: nothing but pytest and
the standard library may be imported before the fixture is used.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from workbench.results.gate import GateReport
    from workbench.workspace.workspace import Workspace


@pytest.fixture
def krishi(tmp_path: Path) -> "Krishi":
    """Gates of krishi-bench: `krishi.gate(...)`."""
    return Krishi(tmp_path)


class Krishi:
    """folder: for a workspace that is put together from arguments."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def gate(
        self,
        *candidates: str | Path,
        against: str | Path = "production",
        fail_on: str = "accuracy, p95>5%, size>10%",
        workspace: str | Path | None = None,
        data: str | Path | None = None,
        class_names: Sequence[str] | None = None,
        preprocess: Mapping[str, Any] | None = None,
        strict: bool = False,
        rounds: int = 20,
        time_budget_s: float = 180.0,
        seed: int = 0,
    ) -> "GateReport":
        """Measure candidates against a reference, as `krishi-bench gate` does; fail the test with the table.

        candidates, against: as on the command line. workspace: a folder with a krishi.yaml; by default the
        nearest. Without one: data, a folder with one folder of photos for each class; class_names, in the
        order of the network's outputs, by default those of the folders, sorted; preprocess, as in
        krishi.yaml; `against` is an .onnx file then. Raises WorkbenchError for what cannot be used.
        """
        from workbench.measure.latency import Plan
        from workbench.registry.gate import candidates_of, reference_of
        from workbench.report import gate as words
        from workbench.results.gate import parse_conditions
        from workbench.run.gate import GateRequest, run_gate
        from workbench.run.pipeline import Options
        from workbench.system.packages import missing_extra
        from workbench.system.progress import silent
        from workbench.workspace.workspace import find

        try:
            if data is None:
                found = find(Path(workspace) if workspace is not None else None, Path.cwd())
            else:
                found = workspace_of(self._folder / "gate", against, data, class_names, preprocess)
            wanted = candidates_of(found, [str(each) for each in candidates], None, None)
            request = GateRequest(
                reference_of(found, str(against)), wanted, parse_conditions(fail_on, found.budget), strict
            )
            plan = Plan(rounds=rounds, budget_s=time_budget_s, seed=seed)
            made = run_gate(found, request, Options(plan=plan, arguments=("gate",)), silent)
        except ModuleNotFoundError as error:
            raise missing_extra(error) or error from error
        if made.exit_code:
            pytest.fail(words.text(made), pytrace=False)
        return made


def workspace_of(
    folder: Path,
    against: str | Path,
    data: str | Path,
    class_names: Sequence[str] | None,
    preprocess: Mapping[str, Any] | None,
) -> "Workspace":
    """A workspace, written into `folder`, of the reference's own file and photos (see `Krishi.gate`)."""
    from workbench.errors import WorkbenchError
    from workbench.workspace.workspace import FILE_NAME, load

    if Path(against).suffix != ".onnx":
        hint = "or give a workspace"
        raise WorkbenchError("krishi.gate: with `data`, `against` is an .onnx file", hint=hint)
    photos = Path(data).absolute()
    if class_names is None and photos.is_dir():
        class_names = sorted(each.name for each in photos.iterdir() if each.is_dir())
    folder.mkdir(exist_ok=True)
    names, path = folder / "classes.json", folder / FILE_NAME
    names.write_text(json.dumps(list(class_names or ())), encoding="utf-8")
    content = {
        "name": "gate",
        "model": {"checkpoint": str(Path(against).absolute()), "class_names": str(names)},
        "data": {"validation": str(photos)},
        "preprocess": dict(preprocess or {}),
    }
    path.write_text(json.dumps(content), encoding="utf-8")  # YAML holds all of JSON
    return load(path)
