"""A fleet of one local device: killed in the race, taken up, and in the end equal to a plain run. What it
measures was built by another; two more devices share its photos out."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, cast

import numpy as np
import pytest

from tests.builders import Once
from tests.e2e.tiny import shared_student, write_workspace
from workbench.cli import main
from workbench.fleet.builders import Builders
from workbench.fleet.device_bench import DeviceBench
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.lease import FOLDER_VARIABLE, DeviceLock
from workbench.fleet.link import AnswerFrame, DeviceLink, ProcessLink
from workbench.fleet.openssh import explain
from workbench.fleet.progress import FleetProgress
from workbench.fleet.reach import WORKER, open_link
from workbench.fleet.records import FleetFolder, FleetStatus, devices_of
from workbench.fleet.run import FleetDriver, FleetOptions, begin_fleet, resume_fleet, variants_of
from workbench.fleet.session import DeviceSession
from workbench.fleet.shares import ClassShares
from workbench.fleet.shipment import SentVariant
from workbench.fleet.spec import DeviceSettings, FleetFile, load_fleet
from workbench.fleet.work import FleetWork
from workbench.measure.latency import Plan
from workbench.run.pipeline import Options, checked
from workbench.run.tune.bench import BenchLost
from workbench.system.child import child_environment
from workbench.system.files import sha256_file
from workbench.system.progress import Progress, silent
from workbench.system.records import read_record
from workbench.workspace.recipe import load as load_recipes
from workbench.workspace.workspace import load

pytestmark = pytest.mark.integration

FLEET = """
devices:
  here: {{class: dev, local: true}}
  maker: {{class: dev, local: true, role: build, cache: "{cache}"}}
"""
RECIPES = {
    "int8": "{name: int8, steps: [{use: static_int8, calibration: {images: 24}}]}",
    "torch": "{name: torch, runtime: {backend: torch}}",
}
# What is measured anew by each run, and what a fleet leaves to the driver or to no one.
NOT_DETERMINED = {
    "build_s", "load_s", "cold_start_s", "peak_memory_bytes", "steady_memory_bytes", "latency", "readings",
    "saturated_ips", "saturated_log_ratios", "whole_path", "built_on",
}  # fmt: skip


class Session(NamedTuple):
    root: Path
    driver: FleetDriver
    folder: FleetFolder
    first: FleetStatus
    second: FleetStatus


def open_and_kill(name: str, device: DeviceSettings, log: Path) -> DeviceLink:
    """A link whose worker is killed as soon as it is to race."""
    link = open_link(name, device, log)
    assert isinstance(link, ProcessLink)
    ask = link.ask

    def asked(op: str, blob: bytes = b"", **fields: Any) -> AnswerFrame:
        if op == "race":
            link.process.kill()
        return ask(op, blob, **fields)

    link.ask = asked  # type: ignore[method-assign, assignment]
    return link


@pytest.fixture(scope="module")
def session(once: Once, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    base, student = tmp_path_factory.mktemp("fleet"), shared_student(once)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRISHI_CACHE", str(student.cache(base / "cache")))
        patch.setenv(FOLDER_VARIABLE, str(base))
        root = base / "a work space"
        write_workspace(root, student.source, budget={"max_accuracy_drop": 1})
        (root / "fleet.yaml").write_text(FLEET.format(cache=base / "maker"))
        (root / "recipes").mkdir()
        for name, text in RECIPES.items():
            (root / "recipes" / f"{name}.yaml").write_text(text)
        workspace, fleet = load(root / "krishi.yaml"), load_fleet(root)
        variants = load_recipes([root / "recipes"])
        options = Options(plan=Plan(rounds=1, turns=1, budget_s=0.1))
        driver = begin_fleet(workspace, fleet, variants, FleetOptions(options, open=open_and_kill), silent)
        first = driver.measure(["here"])
        driver.settings = FleetOptions(options)
        second = driver.measure(["here"])
        # The driver has checked the baseline itself, as a run of one machine does; now the variant too.
        checked(driver.work.context, variants[0], Progress("checking", 0, 0))
        yield Session(root, driver, driver.folder, first, second)


def test_a_killed_worker_is_gone_and_what_it_checked_is_kept(session: Session) -> None:
    outcome = session.first.outcomes["here"]
    assert (outcome.state, outcome.checked) == ("gone", 3)
    assert outcome.reason == "its worker ended with exit code -9"
    assert session.first.incomplete_classes == ["dev"]


def test_the_run_taken_up_sends_nothing_again_and_ends(session: Session) -> None:
    assert session.second.outcomes["here"].state == "done"
    assert session.first.outcomes["here"].sent_bytes > 100_000
    logits = session.folder.device("here").predictions("baseline").stat().st_size
    assert (
        session.second.outcomes["here"].sent_bytes == logits
    )  # of the baseline, measured by the first session


def test_the_lease_ended_with_the_killed_worker_and_with_the_run(session: Session) -> None:
    assert DeviceLock(session.root.parent).holder() is None


def test_one_local_device_measures_what_a_plain_run_does(session: Session) -> None:
    trials = {trial.variant: trial for trial in session.folder.device("here").trials()}
    alone = {trial.variant: trial for trial in session.folder.build.trials()}
    assert set(alone) == {"baseline", "int8"}
    for name, expected in alone.items():
        found = trials[name]
        assert found.status == expected.status == "ok"
        assert found.model_dump(exclude=NOT_DETERMINED) == expected.model_dump(exclude=NOT_DETERMINED)
        logits = [
            np.load(run.predictions(name))["logits"]
            for run in (session.folder.device("here"), session.folder.build)
        ]
        assert np.array_equal(*logits)
    assert trials["int8"].latency is not None


def test_a_builder_makes_the_links_that_are_the_same_everywhere(session: Session) -> None:
    built = session.folder.run().built_on
    # The driver exports the baseline before anything else, and the variant comes from that export.
    assert built == {"baseline": ("the driver",), "int8": ("the driver", "maker")}
    trials = {trial.variant: trial for trial in session.folder.device("here").trials()}
    assert (trials["baseline"].built_on, trials["int8"].built_on) == (None, "maker")
    assert "maker" not in session.folder.run().devices


def open_apart(name: str, _device: DeviceSettings, log: Path) -> DeviceLink:
    """A link to a device of its own on this machine, as far as its lease and its cache go."""
    own = log.parents[3] / f"machine-{name}"
    own.mkdir(exist_ok=True)
    environment = {**child_environment(), "KRISHI_CACHE": str(own), FOLDER_VARIABLE: str(own)}
    return ProcessLink([sys.executable, "-P", "-m", WORKER], log, explain, environment)


def test_two_devices_that_share_the_photos_out_find_what_one_does(session: Session) -> None:
    local = DeviceSettings.model_validate({"class": "pair", "local": True})
    fleet, folder = FleetFile(devices={"a": local, "b": local}), FleetFolder.create(session.root / "results")
    run = session.driver.run.model_copy(update={"run_id": folder.run_id, "devices": devices_of(fleet)})
    options = FleetOptions(Options(), open=open_apart, shard=True)
    driver = FleetDriver(folder, run, fleet, session.driver.work, options, silent)
    assert driver.answer(["a", "b"], FleetProgress(silent, 2)) == ["a", "b"]
    record = read_record(folder.path / "shares" / "pair" / "shares.json", ClassShares, what="list")
    rows = {share.device: share.rows for share in record.shares}
    count = len(session.driver.work.context.job.photos)
    assert rows == {"a": tuple(range(0, count, 2)), "b": tuple(range(1, count, 2))}
    assert driver.answer(["a", "b"], FleetProgress(silent, 2)) == ["a", "b"]  # at once: all is answered
    alone = {trial.variant: trial for trial in session.folder.build.trials()}
    for name in ("a", "b"):
        trials = {trial.variant: trial for trial in folder.device(name).trials()}
        assert set(trials) == {"baseline", "int8", "torch"}
        for variant, expected in alone.items():
            found = trials[variant].model_dump(exclude=NOT_DETERMINED)
            assert found == expected.model_dump(exclude=NOT_DETERMINED)
            logits = [
                np.load(each.predictions(variant))["logits"]
                for each in (folder.device(name), session.folder.build)
            ]
            assert np.array_equal(*logits)


def test_a_run_that_is_complete_is_not_measured_again(session: Session) -> None:
    workspace, fleet = load(session.root / "krishi.yaml"), load_fleet(session.root)
    status = resume_fleet(workspace, fleet, session.folder.run_id, FleetOptions(Options()), silent)
    assert status == session.second
    assert [variant.name for variant in variants_of(session.folder)] == ["int8", "torch"]


def test_compiled_code_is_not_sent(session: Session) -> None:
    (torch,) = [t for t in session.folder.device("here").trials() if t.variant == "torch"]
    assert torch.status == "skipped" and "sends no compiled code" in (torch.reason or "")


def test_the_folder_of_a_device_is_one_of_a_run(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(session.root)
    run = f"{session.folder.run_id}/devices/here"
    main(["compare", run])
    assert f"more: `compare --verbose`, `compare --variant NAME`, `report {run}`" in capsys.readouterr().out
    for file in ("run.json", "latency.parquet", "photos.json", "validation.npz", "recipes/int8.yaml"):
        assert (session.folder.device("here").path / file).exists()
    assert not [p for p in session.folder.device("here").path.rglob("*") if p.is_symlink()]


def test_the_fleets_run_is_compared_by_class(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(session.root)
    assert main(["compare", session.folder.run_id]) == 0
    out = capsys.readouterr().out
    assert "measured on dev (here)" in out and "torch runs on none of the classes" in out
    for option in (
        ["--sort", "size"],
        ["--only", "pareto"],
        ["--plot"],
        ["--verbose"],
        ["--columns", "audit"],
        ["--reanalyse"],
    ):
        assert main(["compare", session.folder.run_id, *option]) == 2
        told = capsys.readouterr().err
        assert option[0] in told and "only for the run of one device" in told


def test_a_search_looks_at_candidates_and_profiles_layers_on_the_device(session: Session) -> None:
    work, run = session.driver.work, session.folder.device("here")
    int8 = next(variant for variant in work.variants if variant.name == "int8")
    trials, logits = {trial.variant: trial for trial in run.trials()}, run.predictions("baseline")
    with open_link("here", load_fleet(session.root).devices["here"], session.root / "look.txt") as link:
        device = DeviceSession(link)
        facts, _ = device.hello()
        device.lease("a driver", "a run", wait_s=10.0)
        device.send({**work.objects, sha256_file(logits): logits})
        assert device.begin(work.shipment("a run", facts)) > 0
        baseline = work.sent(work.context.baseline, facts)
        device.recall(baseline, trials["baseline"], sha256_file(logits))
        absent = replace(int8, name="absent", needs=("onnxruntime-openvino",))
        missing = device.absent([SentVariant.of(variant, ()) for variant in (int8, absent)])
        assert list(missing) == ["absent"] and "not installed" in missing["absent"]
        look = device.look(work.sent(int8, facts), work.add(int8))
        assert (look.size_bytes, look.same) == (trials["int8"].size_bytes, False)
        assert look.images == len(work.context.parts.selection)
        *_, (_, before), (_, after) = work.links["int8"]
        floats, quantized = device.profile(before.info, after.info, work.context.job.contract)
        assert floats and quantized and min(*floats.values(), *quantized.values()) >= 0


def test_the_candidates_of_a_search_are_built_by_builders(session: Session) -> None:
    context, maker = session.driver.work.context, load_fleet(session.root).builders
    (variant,) = load_recipes([session.root / "recipes" / "int8.yaml"])
    (step,) = variant.steps
    other = replace(variant, name="few", steps=(step.model_copy(update={"bias_correction": True}),))
    builders = Builders(maker, open_link, "a search", session.root / "logs", 60.0, silent)
    work = FleetWork(replace(context, built=dict(context.built)), [])
    link = cast(DeviceSession, None)
    bench = DeviceBench(link, cast(DeviceFacts, None), work, context, builders, Lock(), lambda: False)
    assert bench.build(other, 60.0).artifact.info.built_on == "maker"
    bench.stopped = lambda: True
    with pytest.raises(BenchLost):
        bench.build(other, 60.0)


def test_a_class_gets_a_version_of_its_own(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from workbench.registry.store import Registry

    monkeypatch.chdir(session.root)
    options = ["--run", session.folder.run_id, "--variant", "int8", "--force", "a test"]
    assert main(["promote", "--class", "dev", *options]) == 0, capsys.readouterr().err
    bundle = Registry(session.root / "registry").resolve(None, "production@dev")
    (on,) = bundle.manifest.measured_on
    assert (on.device_class, on.device, on.run_id) == ("dev", "here", f"{session.folder.run_id}/devices/here")
    assert main(["promote", "--class", "pi5", *options]) == 2
    assert "no device is of the class `pi5`" in capsys.readouterr().err
    assert main(["promote", *options]) == 2
    assert "--class NAME" in capsys.readouterr().err
