"""The command line: what it exits with, and which stream says what."""

import argparse
import json
import re
import shutil
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from workbench import __version__
from workbench.cli import FORMATS, main, parser
from workbench.errors import WorkbenchError, missing_extra
from workbench.measure import samples
from workbench.measure.latency import Measured, Plan, Sample
from workbench.measure.records import RACE, TWIN
from workbench.report import Format
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.run.pipeline import Options
from workbench.steps import STEPS

ROOT = Path(__file__).parents[2]
SAVED = ROOT / "tests" / "data" / "results-v1"
MakeTrial = Callable[..., TrialResult]
MakeInfo = Callable[..., RunInfo]


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    found: dict[str, argparse.ArgumentParser] = action.choices
    return found


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may touch the checkout or the user's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with one finished run, whose winner is known."""
    root = tmp_path / "leaves"
    (root / "val").mkdir(parents=True)
    (root / "student.ckpt").touch()
    (root / "krishi.yaml").write_text("model: {checkpoint: student.ckpt}\ndata: {validation: val}\n")
    shutil.copytree(SAVED, root / "results" / "20260102-030405")
    return root


class Ran:
    """What a command exited with and wrote."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> Ran:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


def exited(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> Ran:
    """For what argparse ends itself."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    captured = capsys.readouterr()
    return Ran(int(caught.value.code or 0), captured.out, captured.err)


def test_every_command_of_the_design_is_there() -> None:
    designed = {
        "init", "doctor", "export", "run", "compare", "promote", "models", "rollback", "verify", "serve",
        "schema",
    }  # fmt: skip
    assert designed <= set(commands())


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_and_every_option_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = exited(capsys, [command, "--help"])
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"usage: krishi-bench {command}")
    for action in commands()[command]._actions:
        assert not action.option_strings or action.option_strings[-1] in shown.out


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    shown = exited(capsys, ["--help"])
    assert shown.code == 0
    assert re.findall(r"^    ([a-z-]+)(?: |$)", shown.out, re.MULTILINE) == list(commands())


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert exited(capsys, ["--version"]).out == f"krishi-bench {__version__}\n"


def test_the_installed_command_is_this_function() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"krishi-bench": "workbench.cli:main"}


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["run", "--rounds", "many"], ["compare", "--format", "xml"]]
)
def test_a_wrong_command_line_exits_with_2_and_says_so_on_stderr(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    got = exited(capsys, arguments)
    assert (got.code, got.out) == (2, "")
    assert got.err.startswith("usage: krishi-bench")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60s", 60), ("10m", 600), ("1h", 3600), ("90", 90), ("1.5m", 90), ("0.5s", 0.5), ("1e3", 1000)],
)
def test_a_time_is_in_seconds_minutes_or_hours(text: str, seconds: float) -> None:
    assert parser().parse_args(["run", "--time-budget", text]).time_budget == seconds
    assert parser().parse_args(["run", "--build-timeout", text]).build_timeout == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "0", "0s", "-5s", "10 parsecs", "10d", "nan", "inf", "infm", "1h30m"]
)
@pytest.mark.parametrize("option", ["--time-budget", "--build-timeout"])
def test_what_is_no_time_exits_with_2_and_shows_how_one_is_written(
    capsys: pytest.CaptureFixture[str], option: str, text: str
) -> None:
    got = exited(capsys, ["run", f"{option}={text}"])
    assert (got.code, got.out) == (2, "")
    assert got.err.endswith(f"argument {option}: `{text}` is not a time: give 90s, 10m or 1h\n")


@pytest.mark.parametrize("option", ["--rounds", "--turns"])
def test_a_count_is_a_whole_number_from_1_up(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert vars(parser().parse_args(["run", option, "7"]))[option.removeprefix("--")] == 7
    for text in ("", "0", "-1", "1.5", "ten", "1_0", "²"):
        got = exited(capsys, ["run", f"{option}={text}"])
        assert (got.code, got.out) == (2, "")
        assert got.err.endswith(f"argument {option}: `{text}` is not a number from 1 up\n")


def test_a_run_is_planned_as_the_engine_plans_unless_told_otherwise() -> None:
    told, plan, made = parser().parse_args(["run"]), Plan(), Options()
    assert (told.rounds, told.turns, told.time_budget, told.seed) == (
        plan.rounds,
        plan.turns,
        plan.budget_s,
        plan.seed,
    )
    assert told.build_timeout == made.build_timeout_s


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "gone.yaml"),
        ("run", "--workspace", "gone"),
        ("compare",),
        ("compare", "20200101-000000"),
        ("promote",),
        ("models", "--workspace", "gone"),
        ("export", "--checkpoint", "gone.ckpt", "--output", "m.onnx"),
        ("init", "gone"),
    ],
)
def test_wrong_input_exits_with_2_and_one_message_on_stderr(run: Run, arguments: tuple[str, ...]) -> None:
    got = run(*arguments)
    assert (got.code, got.out) == (2, "")
    assert "error: " in got.err
    assert "Traceback" not in got.err


def test_a_misspelt_recipe_is_answered_in_full(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\nsteps:\n  - use: static_in8\n")
    got = run("run", recipe)
    assert (got.code, got.out) == (2, "")
    assert got.err == (
        f"error: {recipe} is not a valid recipe\n"
        f"  {recipe}:3: steps[0].use: `static_in8` is not one of simplify, dynamic_int8, static_int8, "
        "nncf_int8, "
        "modelopt_int8, fp16, fold_preprocess, optimize, fixed_batch, dynamic_batch\n"
        "hint: did you mean `static_int8`?\n"
    )
    assert not (tmp_path / "results").exists()


def test_a_misspelt_workspace_is_answered_with_its_line(run: Run, workspace: Path) -> None:
    path = workspace / "krishi.yaml"
    path.write_text(path.read_text() + "budgit: {}\n")
    got = run("compare", "--workspace", workspace)
    assert got.code == 2
    assert f"{path}:3: budgit: unknown key\nhint: did you mean `budget`?" in got.err


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(WorkbenchError, match="does not exist"):
        main(["run", "gone.yaml", "--debug"])


@pytest.mark.parametrize("form", FORMATS)
def test_a_comparison_is_printed_as_data_only(run: Run, workspace: Path, form: str) -> None:
    got = run("compare", "--workspace", workspace, "--format", form)
    assert (got.code, got.err) == (0, "")
    assert "int8-static" in got.out
    assert "\x1b[" not in got.out


def test_the_formats_offered_are_those_that_can_be_written() -> None:
    assert get_args(Format) == FORMATS


def test_the_comparison_in_json_is_valid_and_names_the_winner(run: Run, workspace: Path) -> None:
    rows: list[dict[str, Any]] = json.loads(run("compare", "--workspace", workspace, "--format", "json").out)
    assert [row["variant"] for row in rows if row["winner"]] == ["int8-static[method=minmax]"]


def test_a_run_can_be_named(run: Run, workspace: Path) -> None:
    assert run("compare", "20260102-030405", "--workspace", workspace).code == 0
    got = run("compare", "20260102-999999", "--workspace", workspace)
    assert got.code == 2
    assert got.err.endswith("hint: the latest is `20260102-030405`\n")


def test_a_run_of_before_raw_samples_were_kept_cannot_be_worked_out_again(run: Run, workspace: Path) -> None:
    got = run("compare", "--workspace", workspace, "--reanalyse")
    assert (got.code, got.out) == (2, "")
    assert "latency.parquet is not there: this run kept no raw samples" in got.err


def test_reanalyse_shows_what_the_raw_samples_say(run: Run, workspace: Path) -> None:
    pytest.importorskip("pyarrow")
    times = {"baseline": 3_000_000, TWIN: 3_000_000, "int8-static[method=minmax]": 1_000_000}
    race = Measured(
        samples=[
            Sample(name, number, place, 0, place, call, time_ns)
            for number in range(6)
            for place, (name, time_ns) in enumerate(times.items())
            for call in range(2)
        ]
    )
    samples.save({RACE: race}, workspace / "results" / "20260102-030405" / "latency.parquet")
    compare = ("compare", "--workspace", workspace, "--format", "json")
    stored, again = (
        {row["variant"]: row["speedup"] for row in json.loads(run(*compare, *more).out)}
        for more in ([], ["--reanalyse"])
    )
    assert stored["int8-static[method=minmax]"] == pytest.approx(2.08, abs=0.01)
    assert again["int8-static[method=minmax]"] == pytest.approx(3.0)
    shown = run("compare", "--workspace", workspace, "--variant", "int8-static[method=minmax]", "--reanalyse")
    assert "speed-up 3.000 [3.000, 3.000]" in shown.out


def test_one_variant_is_shown_in_full_as_text_or_json(run: Run, workspace: Path) -> None:
    asked = ("compare", "--workspace", workspace, "--variant", "int8-static[method=minmax]")
    shown, data = run(*asked), run(*asked, "--format", "json")
    assert (shown.code, shown.err, data.code, data.err) == (0, "", 0, "")
    assert shown.out.startswith("int8-static[method=minmax] of run results-v1 ended ok\n")
    assert json.loads(data.out)["variant"] == "int8-static[method=minmax]"


@pytest.mark.parametrize(
    ("runs", "variant", "err"),
    [
        (
            [],
            "int8-dynamc",
            "error: run 20260102-030405 has no variant `int8-dynamc`\nhint: did you mean `int8-dynamic`?\n",
        ),
        (["20200101-000000"], "baseline", None),
        (["20260102-030405"] * 2, "baseline", "error: `baseline` was asked of 2 runs\nhint: name one run\n"),
    ],
)
def test_a_variant_that_cannot_be_shown_exits_with_2(
    run: Run, workspace: Path, runs: list[str], variant: str, err: str | None
) -> None:
    got = run("compare", *runs, "--workspace", workspace, "--variant", variant)
    assert (got.code, got.out) == (2, "")
    assert err is None or got.err == err


def test_a_winner_that_is_not_certified_is_done_with_the_answer_no(
    run: Run, workspace: Path, trial: MakeTrial, run_info: MakeInfo
) -> None:
    folder = RunFolder.create(workspace / "results")
    folder.save_info(run_info(run_id=folder.run_id, uncertified="3 photos are in both", leak=True))
    folder.append(trial("baseline"))
    got = run("compare", folder.run_id, "--workspace", workspace)
    assert (got.code, got.err) == (1, "")
    assert "not certified: 3 photos are in both" in got.out


def test_no_winner_is_done_with_the_answer_no(
    run: Run, workspace: Path, trial: MakeTrial, run_info: MakeInfo
) -> None:
    folder = RunFolder.create(workspace / "results")
    folder.save_info(run_info(run_id=folder.run_id, budget={"max_size_mb": 1}))
    folder.append(trial("baseline"))
    got = run("compare", folder.run_id, "--workspace", workspace)
    assert (got.code, got.err) == (1, "")
    assert "no winner: nothing fits the budget" in got.out


def test_where_nothing_that_was_asked_for_could_be_measured_the_answer_is_no(
    run: Run, workspace: Path, trial: MakeTrial, absent_trial: MakeTrial, run_info: MakeInfo
) -> None:
    folder = RunFolder.create(workspace / "results")
    folder.save_info(run_info(run_id=folder.run_id))
    folder.append(trial("baseline"))
    folder.append(absent_trial("gpu", "skipped", "no CUDA device"))
    got = run("compare", folder.run_id, "--workspace", workspace)
    assert (got.code, got.err) == (1, "")
    assert "nothing else was measured (1 skipped): this says nothing about them" in got.out
    folder.append(trial("slow", speedup=0.5))
    assert run("compare", folder.run_id, "--workspace", workspace).code == 0


def test_what_did_not_end_well_cannot_be_promoted(run: Run, workspace: Path) -> None:
    got = run("promote", "--workspace", workspace, "--variant", "int8-dynamic")
    assert (got.code, got.out) == (1, "")
    assert got.err.startswith("error: ")
    assert not (workspace / "registry").exists()


def test_an_unknown_variant_cannot_be_promoted(run: Run, workspace: Path) -> None:
    got = run("promote", "--workspace", workspace, "--variant", "nobody")
    assert (got.code, got.out) == (2, "")


def test_the_workspace_is_found_from_a_folder_inside_it(
    run: Run, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace / "val")
    assert run("compare").code == 0


def test_an_empty_registry_is_no_error(run: Run, workspace: Path) -> None:
    shown = run("models", "--workspace", workspace)
    assert (shown.code, shown.err) == (0, "")
    assert "nothing is published yet" in shown.out
    assert json.loads(run("models", "--workspace", workspace, "--format", "json").out) == []


def test_there_is_nothing_to_roll_back_to(run: Run, workspace: Path) -> None:
    got = run("rollback", "--workspace", workspace)
    assert got.code in (1, 2)
    assert got.out == ""
    assert got.err.startswith("error: ")


def test_init_writes_a_workspace_once(run: Run, tmp_path: Path) -> None:
    first, again = run("init"), run("init")
    assert (first.code, first.err) == (0, "")
    assert first.out.endswith("wrote krishi.yaml: read it through, then `krishi-bench run`\n")
    assert (again.code, again.out) == (2, "")
    assert again.err == "error: krishi.yaml is there already\nhint: edit it, or move it away first\n"
    assert yaml.safe_load((tmp_path / "krishi.yaml").read_text())["data"] == {"validation": "data/val"}


def test_the_schema_is_json_and_names_every_step(run: Run) -> None:
    got = run("schema")
    described = json.loads(got.out)
    assert (got.code, got.err) == (0, "")
    assert set(described["properties"]) == {
        "name",
        "description",
        "export",
        "steps",
        "runtime",
        "preprocess",
        "matrix",
        "extends",
        "needs",
    }
    assert set(described["properties"]["steps"]["items"]["discriminator"]["mapping"]) == set(STEPS)


def test_the_schema_of_a_workspace_describes_its_budget(run: Run) -> None:
    described = json.loads(run("schema", "workspace").out)
    assert {"model", "data", "budget", "preprocess"} <= set(described["properties"])
    assert "max_accuracy_drop" in described["$defs"]["Budget"]["properties"]


def test_a_package_of_an_extra_that_is_not_installed_is_named_with_the_extra() -> None:
    missing = missing_extra(ModuleNotFoundError("No module named 'torch.onnx'", name="torch.onnx"))
    assert missing is not None
    assert missing.message == "`torch` is not installed"
    assert (
        missing_extra(ModuleNotFoundError("No module named 'workbench.nope'", name="workbench.nope")) is None
    )


@pytest.mark.parametrize("option", ["--sample", "--weight"])
@pytest.mark.parametrize("text", ["-0.1", "1.1", "half", "nan", ""])
def test_a_share_is_a_fraction_from_0_to_1(
    capsys: pytest.CaptureFixture[str], option: str, text: str
) -> None:
    got = exited(capsys, ["serve", f"{option}={text}"])
    assert got.err.endswith(f"argument {option}: `{text}` is not a fraction from 0 to 1\n")


def test_a_version_is_pinned_or_an_alias_is_followed(capsys: pytest.CaptureFixture[str]) -> None:
    got = exited(capsys, ["serve", "--pin", "1.0.0", "--alias", "canary"])
    assert (got.code, got.out) == (2, "")
    assert "argument --alias: not allowed with argument --pin" in got.err


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a server would have been started with, instead of one."""
    pytest.importorskip("fastapi")
    found: list[Any] = []
    monkeypatch.setattr("serve.app.serve", lambda settings, host, port: found.extend([settings, host, port]))
    return found


def test_serving_is_told_everything_the_command_line_says(
    run: Run, workspace: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRISHI_API_KEY", "open sesame, says the farmer")
    told = "--pin 1.2.0 --workers 2 --shadow 1.3.0 --sample 0.2 --canary 1.4.0 --weight 0.3"
    told += " --queue-budget 2s --deadline 10s --host 0.0.0.0 --port 80"
    assert run("serve", "--workspace", workspace, *told.split()).code == 0
    settings, host, port = started
    assert (settings.registry, settings.model, settings.pin) == (workspace / "registry", "leaves", "1.2.0")
    assert (settings.shadow, settings.sample, settings.canary, settings.weight) == (
        "1.3.0",
        0.2,
        "1.4.0",
        0.3,
    )
    assert (settings.workers, settings.queue_budget_s, settings.deadline_s) == (2, 2.0, 10.0)
    assert settings.api_key == "open sesame, says the farmer"
    assert (host, port) == ("0.0.0.0", 80)


def test_serving_without_options_is_as_the_server_serves_by_itself(
    run: Run, workspace: Path, started: list[Any]
) -> None:
    assert run("serve", "--workspace", workspace).code == 0
    from serve.settings import Settings

    settings = started[0]
    assert settings == Settings(registry=workspace / "registry", model="leaves")


def test_what_the_command_line_leaves_open_the_environment_says(
    run: Run, workspace: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"PIN": "1.2.0", "WORKERS": "2", "SHADOW": "1.3.0", "CANARY": "1.4.0", "QUEUE_BUDGET": "2"}
    for name, value in said.items():
        monkeypatch.setenv(f"KRISHI_{name}", value)
    assert run("serve", "--workspace", workspace, "--shadow", "1.5.0").code == 0
    settings = started[0]
    assert (settings.pin, settings.workers, settings.canary) == ("1.2.0", 2, "1.4.0")
    assert (settings.shadow, settings.queue_budget_s) == ("1.5.0", 2.0)
    # An alias that is asked for is followed, whatever the environment pins.
    assert run("serve", "--workspace", workspace, "--alias", "staging").code == 0
    assert (started[3].alias, started[3].pin) == ("staging", None)


def test_a_shadow_result_is_demanded_before_anything_is_published(run: Run, workspace: Path) -> None:
    asked = ("promote", "--workspace", workspace, "--require-shadow")
    got = run(*asked, "0.99")
    assert got.code in (1, 2)
    assert not (workspace / "registry").exists()


def test_there_is_nothing_to_collect_where_nothing_was_published(run: Run, workspace: Path) -> None:
    got = run("gc", "--workspace", workspace, "--delete")
    assert (got.code, got.out) == (2, "")
    assert got.err == f"error: there is no registry at {workspace}/registry\n"
    assert not (workspace / "registry").exists()
