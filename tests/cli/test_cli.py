"""The command line: what it exits with, and which stream says what."""

import inspect
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pandas as pd
import pytest
import yaml

from tests.builders import absent_trial, run_info, trial
from workbench import __version__
from workbench.cli import MODULES, main
from workbench.cli.measure import run as run_command
from workbench.cli.options import TableFormat, parse_seconds
from workbench.errors import WorkbenchError
from workbench.measure import samples
from workbench.measure.latency import Measured, Plan, Sample
from workbench.measure.records import RACE, TWIN
from workbench.report import Format, TextFormat
from workbench.results.folder import RunFolder
from workbench.run.pipeline import Options
from workbench.steps import STEPS
from workbench.system.packages import missing_extra

ROOT = Path(__file__).parents[2]
SAVED = ROOT / "tests" / "data" / "results-v1"


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


class Ran(NamedTuple):
    """What a command exited with and wrote."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> Ran:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version").out == f"krishi-bench {__version__}\n"


def test_python_runs_the_package_as_the_command() -> None:
    command = [sys.executable, "-m", "workbench", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, f"krishi-bench {__version__}\n")


def test_a_closed_output_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m workbench schema recipe >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_installed_command_is_this_function() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"krishi-bench": "workbench.cli:main"}


@pytest.mark.parametrize(
    ("arguments", "message", "command"),
    [
        ([], "Missing command.", ""),
        (["dance"], "No such command 'dance'.", ""),
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?", ""),
        (["run", "--round", "3"], "No such option: --round (Possible options: --rounds)", " run"),
        (["gc", "--keep", "many"], "Invalid value for '--keep': `many` is not a number from 0 up", " gc"),
        (["promote", "--force"], "Option '--force' requires an argument.", " promote"),
        (["promote", "--force", " "], "Invalid value for '--force': say why", " promote"),
        (["promote", "--force", "--variant=a"], "Invalid value for '--force': say why", " promote"),
        (
            ["compare", "--variant", "a", "--format", "csv"],
            "Invalid value for '--format': with --variant it is table or json",
            " compare",
        ),
        (
            ["compare", "--variant", "a", "--output", "a.txt"],
            "Invalid value for '--output': not allowed with --variant",
            " compare",
        ),
        (
            ["compare", "--variant", "a", "--verbose"],
            "Invalid value for '--verbose': not allowed with --variant",
            " compare",
        ),
        (
            ["compare", "--pairs", "--columns", "audit"],
            "Invalid value for '--columns': not allowed with --pairs",
            " compare",
        ),
        (
            ["schema", "recipes"],
            "Invalid value for 'of': 'recipes' is not one of 'recipe', 'workspace', 'fleet', 'compare'.",
            " schema",
        ),
        (
            ["promote", "--bump", "minor", "--version", "1.0.0"],
            "Invalid value for '--version': not allowed with --bump",
            " promote",
        ),
        (
            ["serve", "--pin", "1.0.0", "--alias", "canary"],
            "Invalid value for '--alias': not allowed with --pin",
            " serve",
        ),
        (["export", "--output", "m.onnx"], "Missing option '--checkpoint'.", " export"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_one_message(
    run: Run, arguments: list[str], message: str, command: str
) -> None:
    got = run(*arguments)
    assert (got.code, got.out) == (2, "")
    assert got.err == f"error: {message}\nhint: see `krishi-bench{command} --help`\n"


def test_a_value_that_is_none_of_the_choices_is_answered_with_them(run: Run) -> None:
    got = run("compare", "--format", "xml")
    assert (got.code, got.out) == (2, "")
    assert "'xml' is not one of 'table', 'markdown', 'csv', 'json', 'html'" in got.err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60s", 60), ("10m", 600), ("1h", 3600), ("90", 90), ("1.5m", 90), ("0.5s", 0.5), ("1e3", 1000)],
)
def test_a_time_is_in_seconds_minutes_or_hours(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "0", "0s", "-5s", "10 parsecs", "10d", "nan", "inf", "infm", "1h30m"]
)
@pytest.mark.parametrize("option", ["--time-budget", "--build-timeout"])
def test_what_is_no_time_exits_with_2_and_shows_how_one_is_written(run: Run, option: str, text: str) -> None:
    got = run("run", f"{option}={text}")
    assert (got.code, got.out) == (2, "")
    assert f"'{option}': `{text}` is not a time: give 90s, 10m or 1h\n" in got.err


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "ten", "1_0", "²"])
@pytest.mark.parametrize("option", ["--rounds", "--turns"])
def test_a_count_is_a_whole_number_from_1_up(run: Run, option: str, text: str) -> None:
    got = run("run", f"{option}={text}")
    assert (got.code, got.out) == (2, "")
    assert f"'{option}': `{text}` is not a number from 1 up\n" in got.err


def test_a_run_is_planned_as_the_engine_plans_unless_the_command_line_says_otherwise() -> None:
    plan, made = Plan(), Options()
    defaults = {name: p.default for name, p in inspect.signature(run_command).parameters.items()}
    planned = {"rounds": plan.rounds, "turns": plan.turns, "time_budget": plan.budget_s, "seed": plan.seed}
    assert {name: defaults[name] for name in planned} == planned
    assert defaults["build_timeout"] == made.build_timeout_s


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
        "nncf_int8, litert, executorch, fp16, fold_preprocess, optimize, fixed_batch, dynamic_batch\n"
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


@pytest.mark.parametrize("form", get_args(TextFormat))
def test_a_comparison_is_printed_as_data_only(run: Run, workspace: Path, form: str) -> None:
    got = run("compare", "--workspace", workspace, "--format", form)
    assert (got.code, got.err) == (0, "")
    assert "int8-static" in got.out
    assert "\x1b[" not in got.out


def test_parquet_goes_to_a_file(run: Run, workspace: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    got = run("compare", "--workspace", workspace, "--format", "parquet", "--output", path)
    assert (got.code, got.out, got.err) == (0, "", "")
    assert "int8-dynamic" in list(pd.read_parquet(path)["variant"])


@pytest.mark.parametrize("command", ["run", "tune", "compare"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    run: Run, workspace: Path, command: str
) -> None:
    got = run(command, "--workspace", workspace, "--output", workspace)
    assert (got.code, got.out) == (2, "")
    assert got.err == f"error: --output: {workspace} is a folder\nhint: name a file in it\n"


def test_the_formats_offered_are_those_that_can_be_written() -> None:
    # The page needs the folders of the runs, so that another module makes it.
    assert {*get_args(Format), "html"} == {*get_args(TableFormat)}


def test_the_comparison_in_json_is_valid_and_names_the_winner(run: Run, workspace: Path) -> None:
    found: dict[str, Any] = json.loads(run("compare", "--workspace", workspace, "--format", "json").out)
    assert found["verdict"]["winner"] == "int8-static[method=minmax]"
    assert [row["variant"] for row in found["rows"] if row["winner"]] == [found["verdict"]["winner"]]


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
        {row["variant"]: row["speedup"] for row in json.loads(run(*compare, *more).out)["rows"]}
        for more in ([], ["--reanalyse"])
    )
    assert stored["int8-static[method=minmax]"] == pytest.approx(2.08, abs=0.01)
    assert again["int8-static[method=minmax]"] == pytest.approx(3.0)
    shown = run("compare", "--workspace", workspace, "--variant", "int8-static[method=minmax]", "--reanalyse")
    assert "speed-up 3.000 [3.000, 3.000]" in shown.out


def test_pairs_want_the_raw_samples_and_a_format_that_holds_them(run: Run, workspace: Path) -> None:
    asked = ("compare", "--workspace", workspace, "--pairs")
    shown = run(*asked)
    assert (shown.code, shown.out) == (2, "")
    assert "latency.parquet is not there: this run kept no raw samples" in shown.err
    assert "with --pairs it is table, csv, json" in run(*asked, "--format", "html").err
    assert "not allowed with --variant" in run(*asked, "--variant", "fp32").err


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


@pytest.mark.parametrize(
    ("known", "skipped", "text"),
    [
        ({"uncertified": "3 photos are in both", "leak": True}, [], "not certified: 3 photos are in both"),
        ({"budget": {"max_size_mb": 1}}, [], "No winner\n  nothing fits the budget"),
        ({}, ["gpu"], "nothing else was measured (1 skipped): this says nothing about the others"),
    ],
)
def test_without_a_certified_winner_among_several_the_answer_is_no(
    run: Run, workspace: Path, known: dict[str, Any], skipped: list[str], text: str
) -> None:
    folder = RunFolder.create(workspace / "results")
    folder.save_info(run_info(run_id=folder.run_id, **known))
    for result in [trial("baseline"), *(absent_trial(name, "skipped", "no CUDA device") for name in skipped)]:
        folder.append(result)
    got = run("compare", folder.run_id, "--workspace", workspace)
    assert (got.code, got.err) == (1, "")
    assert text in got.out
    folder.append(trial("slow", speedup=0.5))
    assert run("compare", folder.run_id, "--workspace", workspace).code == int(bool(known))


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("promote --variant int8-dynamic", {1}),  # it did not end well
        ("promote --variant nobody", {2}),
        ("promote --require-shadow 0.99", {1, 2}),
        ("rollback", {1, 2}),
    ],
)
def test_what_cannot_be_published_or_rolled_back_to_is_an_error_that_leaves_no_registry(
    run: Run, workspace: Path, command: str, codes: set[int]
) -> None:
    got = run(*command.split(), "--workspace", workspace)
    assert got.code in codes
    assert got.out == ""
    assert got.err.startswith("error: ")
    assert not (workspace / "registry").exists()


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
    keys = "name description export steps runtime preprocess matrix extends needs"
    assert set(described["properties"]) == set(keys.split())
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
def test_a_share_is_a_fraction_from_0_to_1(run: Run, option: str, text: str) -> None:
    got = run("serve", f"{option}={text}")
    assert (got.code, got.out) == (2, "")
    assert f"'{option}': `{text}` is not a fraction from 0 to 1\n" in got.err


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a server would have been started with, instead of one."""
    pytest.importorskip("fastapi")
    found: list[Any] = []
    monkeypatch.setattr("serve.server.run", found.append)
    return found


def test_serving_is_told_everything_the_command_line_says(
    run: Run, workspace: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRISHI_API_KEY", "open sesame, says the farmer")
    told = "--pin 1.2.0 --workers 2 --shadow 1.3.0 --sample 0.2 --canary 1.4.0 --weight 0.3"
    told += " --queue-budget 2s --deadline 10s --host 0.0.0.0 --port 80"
    told += " --keep-alive 2m --cors-origins https://a.org,https://b.org --root-path /leaves/"
    assert run("serve", "--workspace", workspace, *told.split()).code == 0
    (settings,) = started
    assert (settings.registry, settings.model, settings.pin) == (workspace / "registry", "leaves", "1.2.0")
    candidates = (settings.shadow, settings.sample, settings.canary, settings.weight)
    assert candidates == ("1.3.0", 0.2, "1.4.0", 0.3)
    assert (settings.workers, settings.queue_budget_s, settings.deadline_s) == (2, 2.0, 10.0)
    assert (settings.keep_alive_s, settings.root_path) == (120.0, "/leaves")
    assert settings.cors_origins == ("https://a.org", "https://b.org")
    assert settings.api_key == "open sesame, says the farmer"
    assert (settings.host, settings.port) == ("0.0.0.0", 80)


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
    assert (started[1].alias, started[1].pin) == ("staging", None)


def test_there_is_nothing_to_collect_where_nothing_was_published(run: Run, workspace: Path) -> None:
    got = run("gc", "--workspace", workspace, "--delete")
    assert (got.code, got.out) == (2, "")
    assert got.err == f"error: there is no registry at {workspace}/registry\n"
    assert not (workspace / "registry").exists()


def completed(line: str, workspace: Path) -> list[str]:
    """What bash is offered at the end of a line that has been typed so far."""
    done = subprocess.run(
        [sys.executable, "-m", "workbench"],
        capture_output=True,
        text=True,
        check=True,
        cwd=workspace,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_KRISHI_BENCH_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        },
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("krishi-bench ", list(MODULES)),
        ("krishi-bench ro", ["rollback"]),
        ("krishi-bench run int8-s", ["int8-static"]),
        ("krishi-bench run --rou", ["--rounds"]),
        ("krishi-bench compare --format m", ["markdown"]),
        ("krishi-bench compare 2026", ["20260102-030405"]),
        ("krishi-bench promote --variant int8-d", ["int8-dynamic"]),
    ],
)
def test_bash_completes_commands_options_recipes_runs_and_variants(
    workspace: Path, line: str, offered: list[str]
) -> None:
    assert completed(line, workspace) == offered


@pytest.mark.parametrize(
    ("file", "line"),
    [("krishi.yaml", "compare 2026"), ("results/20260102-030405/trials.jsonl", "compare --variant b")],
)
def test_completion_offers_nothing_of_what_cannot_be_read(workspace: Path, file: str, line: str) -> None:
    (workspace / file).write_text("model: [\n")
    assert completed(f"krishi-bench {line}", workspace) == []


def test_the_completion_script_for_bash_is_shown() -> None:
    bash = ["bash", "-c", f"{sys.executable} -m workbench --show-completion; true"]
    shown = subprocess.run(bash, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "complete -o default -F" in shown.stdout
    assert "_KRISHI_BENCH_COMPLETE=complete_bash" in shown.stdout


def test_a_defect_shows_pythons_own_traceback(workspace: Path) -> None:
    script = (
        "from workbench.cli import main\n"
        "import workbench.workspace.draft\n"
        "workbench.workspace.draft.write_draft = lambda folder: 1 / 0\n"
        "main(['init'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (["--fail-on", "p95"], "--fail-on: `p95` has no margin", "`p95>5%`"),
        (["--fail-on", "sizes>1%"], "--fail-on: `sizes` is not measured", "did you mean `size`?"),
        (["--junit", "krishi.yaml/g.xml"], "--junit: krishi.yaml/g.xml cannot be written", "is no folder"),
        (["--markdown", "."], "--markdown: . is a folder", "name a file in it"),
        (
            ["--fail-on", "size>1%", "--pytest-benchmark", "b.json"],
            "nothing is timed",
            "krishi-bench gate --help",
        ),
        (["--variant", "quick", "fp32"], "not allowed beside candidates", "krishi-bench gate --help"),
        (["--beside", "krishi.yaml"], "krishi.yaml is no JSON of pytest-benchmark", "--benchmark-json FILE"),
        (["fp32"], "--against: `production` is no .onnx file", "krishi-bench promote"),
    ],
)
def test_a_gate_that_cannot_be_asked_is_told_before_anything_is_measured(
    run: Run, workspace: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str, remedy: str
) -> None:
    monkeypatch.chdir(workspace)
    done = run("gate", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert remedy in done.err
