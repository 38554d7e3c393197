"""What is on disk is counted by kind; what is the user's stays, and what is needed goes only when named."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.builders import error_of, run_info, trial
from workbench.backends import OrtRuntime
from workbench.cli import main
from workbench.registry.storage import Stored, clear, stored
from workbench.results.folder import RunFolder
from workbench.system.files import exclusive
from workbench.workspace.workspace import Workspace, sample

OLD = OrtRuntime(version="1.0.0")
LONG_AGO = time.time() - 40 * 86400


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A run in onnxruntime 1.0.0 whose model is in the cache, beside things that nobody has used for long."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("KRISHI_CACHE", str(cache))
    environment = OLD.environment()
    assert environment is not None
    run = RunFolder.create(tmp_path / "results")
    run.save_info(run_info(runtimes={"baseline": OrtRuntime(), "old": OLD}))
    run.append(trial("old", artifact_key="c0ffee"))
    for path in (
        "artifacts/c0/c0ffee/model.onnx",
        "artifacts/de/decaf/model.onnx",
        "engines/e1/engine.plan",
        "pixels/old.npy",
        "sample-1/photo.png",
        f"environments/{environment.folder.name}/environment.json",
        f"environments/{environment.folder.name}/bin/python",
        "environments/openvino-2025.0-0123/environment.json",
        "environments/openvino-2025.0-0123/bin/python",
        "environments/broken-1-0123/lib/x.py",
        "environments/openvino-2025.0-0123.lock",
    ):
        (cache / path).parent.mkdir(parents=True, exist_ok=True)
        (cache / path).write_bytes(bytes(1000))
    for path in [*cache.rglob("*"), *cache.glob("environments/*")]:
        os.utime(path, (LONG_AGO, LONG_AGO))
    (cache / "pixels" / "new.npy").write_bytes(bytes(1000))
    return sample(tmp_path)


def by_name(items: list[Stored]) -> dict[str, str | None]:
    return {item.name: item.needed for item in items}


def names(items: tuple[Stored, ...]) -> set[str]:
    return {item.name for item in items}


IDLE = {"decaf", "e1", "old.npy", "sample-1", "openvino-2025.0-0123", "broken-1-0123"}


def test_what_a_run_is_promoted_with_is_needed_and_what_nobody_used_for_a_month_is_not(
    workspace: Workspace,
) -> None:
    found = by_name(stored(workspace))
    (run,) = (name for name in found if name.startswith("20"))
    promoted = f"run {run} can be promoted"
    (old,) = (name for name in found if name.startswith("onnxruntime-1.0.0-"))
    assert found == {
        run: "a run of yours",
        "c0ffee": promoted,
        old: promoted,
        "new.npy": "used in the last 30 days",
        **dict.fromkeys(IDLE),
    }


def test_what_a_device_of_a_fleet_measured_is_needed_too(workspace: Workspace) -> None:
    (run,) = workspace.results.iterdir()
    fleet = workspace.results / "20260102-030405"
    (fleet / "devices").mkdir(parents=True)
    run.rename(fleet / "devices" / "pi5-a")
    (fleet / "fleet.json").write_text("{}")
    found = by_name(stored(workspace))
    assert found["20260102-030405"] == "a run of yours"
    assert found["c0ffee"] == "run 20260102-030405/devices/pi5-a can be promoted"


def test_gc_says_what_it_would_take_and_takes_it_with_delete(workspace: Workspace) -> None:
    plan = clear(workspace, unneeded=True)
    assert (names(plan.removed), plan.done) == (IDLE, False)
    assert all(Path(item.path).exists() for item in plan.removed)
    done = clear(workspace, unneeded=True, delete=True)
    assert done.done
    assert not any(Path(item.path).exists() for item in done.removed)
    assert IDLE.isdisjoint(by_name(stored(workspace)))


def test_a_kind_or_a_thing_is_taken_away_by_name_though_it_is_needed(workspace: Workspace) -> None:
    assert len(clear(workspace, remove=["environments"]).removed) == 3
    clear(workspace, remove=["onnxruntime-1.0.0", "models"], delete=True)
    left = by_name(stored(workspace))
    assert "c0ffee" not in left
    assert not any(name.startswith("onnxruntime-1.0.0") for name in left)
    assert "openvino-2025.0-0123" in left


def test_runs_are_never_taken_away_and_a_misspelt_name_is_answered(workspace: Workspace) -> None:
    assert "cannot be made again" in error_of(lambda: clear(workspace, remove=["results"])).message
    error = error_of(lambda: clear(workspace, remove=["enviroments"]))
    assert error.hint == "did you mean `environments`?"


def test_nothing_is_taken_away_while_a_run_is_timing(workspace: Workspace, tmp_path: Path) -> None:
    with exclusive(tmp_path / "cache" / "timing.lock", lambda: None):
        error = error_of(lambda: clear(workspace, unneeded=True, delete=True))
    assert error.message == "a run is timing on this machine"
    assert by_name(stored(workspace)).keys() > IDLE


def test_storage_shows_kinds_with_sizes_and_answers_in_json(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace.root)
    assert main(["storage"]) == 0
    text = capsys.readouterr().out
    assert "  openvino-2025.0-0123" in text
    assert "`krishi-bench storage --gc` lists that" in text
    assert main(["storage", "--gc", "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {item["name"] for item in answer["removed"]} == IDLE
    assert answer["done"] is False
    assert answer["freed_bytes"] == sum(item["size_bytes"] for item in answer["removed"])
    assert main(["storage", "--gc", "--delete"]) == 0
    assert "removed: " in capsys.readouterr().out
    assert main(["storage", "--delete"]) == 2
    assert "say what: --gc, or --remove WHAT" in capsys.readouterr().err
