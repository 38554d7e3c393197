"""What stands between a comparison and the registry. The model is one that computes next to nothing."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import CONTRACT, absent_trial, artifact_info, counts, run_info, trial
from tests.versions import workspace_folder
from workbench.backends import NullRuntime
from workbench.backends.artifact import Artifact, ArtifactCache
from workbench.backends.table import BACKENDS
from workbench.errors import Refused, WorkbenchError
from workbench.measure.records import Accuracy
from workbench.photos.preprocess import normalize
from workbench.photos.stress import METHOD, STRESSES
from workbench.registry.bundle_writer import Promotion
from workbench.registry.promotion import publish
from workbench.registry.store import Registry
from workbench.report.registry import promotion, promotion_answer
from workbench.report.verdict import shortfalls
from workbench.results.folder import RunFolder
from workbench.results.records import Budget, FieldBudget
from workbench.results.stress import StressCell, StressedVariant, StressRecord, write_stress
from workbench.system.files import cache_folder
from workbench.workspace.workspace import Workspace, find

WEIGHTS = b"weights"
REASON = "the trial field needs it today"
RUNTIME = NullRuntime()
INFO = artifact_info(WEIGHTS, classes=2)


def store() -> Artifact:
    def build(target: Path) -> Artifact:
        (target / INFO.file).write_bytes(WEIGHTS)
        return Artifact(target, INFO)

    return ArtifactCache(cache_folder()).store("ab" * 32, build)


@dataclass
class Bench:
    workspace: Workspace

    def run(self, *, missing: bool = False, accuracy: Accuracy | None = None, **more: Any) -> RunFolder:
        """A run of the baseline and `good`, twice as fast. more: of the run's record, and `certification`."""
        certification = more.pop("certification", None)
        if "budget" in more:
            self.workspace = replace(self.workspace, budget=more["budget"])
        folder = RunFolder.create(self.workspace.results)
        runtimes = {"baseline": RUNTIME, "good": RUNTIME}
        folder.save_info(
            run_info(run_id=folder.run_id, name="leaf", preprocess=CONTRACT, runtimes=runtimes, **more)
        )
        pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
        with BACKENDS["null"].session(store(), RUNTIME) as session:
            logits = session.infer(normalize(pixels, CONTRACT))
        np.savez(folder.path / "golden.npz", pixels=pixels, indices=np.arange(4))
        np.savez(folder.predictions("good"), logits=logits)
        good = trial(
            "good",
            speedup=2.0,
            backend="null",
            certification=certification,
            artifact_key=("cd" if missing else "ab") * 32,
            artifact_digest=INFO.sha256,
        )
        folder.append(trial("baseline", certification=certification))
        folder.append(good.model_copy(update={"accuracy": accuracy} if accuracy else {}))
        return folder

    def publish(self, *, variant: str | None = None, force: str | None = None) -> Promotion:
        return publish(
            self.workspace,
            run_id=None,
            variant=variant,
            bump=None,
            version=None,
            alias="production",
            force=force,
            describe=shortfalls,
        )

    @property
    def versions(self) -> list[str]:
        return Registry(self.workspace.registry).versions("leaf")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path / "cache"))
    return Bench(find(workspace_folder(tmp_path / "leaf"), tmp_path))


def test_a_certified_winner_is_published_and_nothing_is_said_to_be_forced(bench: Bench) -> None:
    bench.run(certification=counts())
    done = bench.publish()
    assert (done.variant, done.version, done.alias) == ("good", "1.0.0", "production")
    assert done.bundle.manifest.provenance.forced is None
    assert promotion_answer(done) == {
        "name": "leaf",
        "version": "1.0.0",
        "variant": "good",
        "alias": "production",
        "previous": None,
        "why": "the first version",
        "unchanged": False,
        "folder": str(done.bundle.folder),
    }
    assert promotion(done).splitlines()[0] == "leaf 1.0.0 is production: good; the first version"
    again = bench.publish()
    assert promotion(again).startswith("production of leaf already points at 1.0.0: this very model")


def test_a_winner_that_is_not_certified_is_refused_and_nothing_is_published(bench: Bench) -> None:
    run = bench.run(certification=counts(losses=20))
    with pytest.raises(Refused) as caught:
        bench.publish()
    assert caught.value.message == (
        f"`good` of run {run.run_id} misses the budget: drop 2.00 points (budget 1)"
    )
    assert "--force REASON" in (caught.value.hint or "")
    assert bench.versions == []


def test_force_publishes_it_and_the_manifest_says_what_was_missed(bench: Bench) -> None:
    bench.run(certification=counts(losses=20))
    done = bench.publish(force=REASON)
    assert bench.versions == ["1.0.0"]
    forced = done.bundle.manifest.provenance.forced
    assert forced == f"{REASON}; drop 2.00 points (budget 1)"


def test_force_without_a_need_for_it_is_recorded_too(bench: Bench) -> None:
    bench.run(certification=counts())
    assert bench.publish(force=REASON).bundle.manifest.provenance.forced == REASON


def test_what_is_missed_on_either_part_of_the_photos_is_named(bench: Bench) -> None:
    bench.run(certification=counts(losses=20), accuracy=counts(losses=30))
    with pytest.raises(Refused, match=r"drop 3\.00 points \(budget 1\); drop 2\.00 points"):
        bench.publish(variant="good")


def test_a_field_rule_waits_for_its_stresses_and_the_card_shows_them(bench: Bench) -> None:
    rule = Budget(field=FieldBudget(severity=3, max_drop=0.02))
    run = bench.run(certification=counts(), budget=rule)
    with pytest.raises(
        Refused, match=r"not measured under field stresses of severity 3: `krishi-bench stress "
    ):
        bench.publish()
    record = stress_of(run, losses=25)
    write_stress(run, record)
    with pytest.raises(
        Refused, match=r"misses the budget: under motion-blur of severity 3: drop 2\.50 points"
    ):
        bench.publish()
    write_stress(run, stress_of(run, losses=0))
    card = (bench.publish().bundle.folder / "MODEL_CARD.md").read_text()
    assert "## Photos as a field gives them" in card
    assert "| messenger | 1,000 | 97.0% | 97.0% | +0.00% | +0.30% |" in card


def stress_of(run: RunFolder, losses: int) -> StressRecord:
    """Of `good`, at severity 3: so many losses under motion blur, none under the others."""
    baseline, good = run.trials()
    cells = tuple(
        StressCell(stress=name, severity=3, accuracy=counts(lost), baseline_ece=None)
        for name, lost in zip(STRESSES, [losses, *[0] * 8], strict=True)
    )
    stressed = StressedVariant(
        variant="good", digest=good.digest, artifact_digest=good.artifact_digest, cells=cells
    )
    return StressRecord(
        method=METHOD,
        run_id=run.run_id,
        measured_at=run.info().created_at,
        validation_digest=run.info().validation_digest,
        baseline_digest=baseline.artifact_digest,
        held_out=True,
        libraries={},
        variants=(stressed,),
    )


def test_photos_used_for_calibration_certify_nothing_unless_forced(bench: Bench) -> None:
    bench.run(uncertified="3 photos are in both", leak=True)
    with pytest.raises(Refused, match="misses the budget: 3 photos are in both"):
        bench.publish()
    assert bench.publish(force=REASON).version == "1.0.0"


def test_too_few_photos_to_keep_any_apart_is_no_reason_to_refuse(bench: Bench) -> None:
    bench.run(uncertified="200 photos are too few")
    assert bench.publish().bundle.manifest.provenance.forced is None


def test_a_class_that_loses_too_much_is_refused(bench: Bench) -> None:
    bench.run(budget=Budget(max_class_drop=0.001), certification=counts(losses=2, gains=0))
    with pytest.raises(Refused, match=r"class rust loses 0\.2 % of its photos \(budget 0\.1\)"):
        bench.publish(variant="good")


def test_a_run_without_a_winner_has_nothing_to_promote(bench: Bench) -> None:
    run = bench.run(budget=Budget(max_size_mb=0.001))
    with pytest.raises(Refused, match=f"run {run.run_id} has no winner"):
        bench.publish(force=REASON)


def test_force_does_not_bring_back_a_model_that_is_gone(bench: Bench) -> None:
    bench.run(missing=True, certification=counts(losses=20))
    with pytest.raises(WorkbenchError, match="the model of `good` is gone"):
        bench.publish(force=REASON)
    assert bench.versions == []


def test_what_is_good_enough_is_what_the_workspace_says_now(bench: Bench) -> None:
    bench.run()
    bench.workspace = replace(bench.workspace, budget=Budget(max_size_mb=0.001))
    with pytest.raises(Refused, match=r"file .* MB \(budget 0\.001\)"):
        bench.publish(variant="good")


@pytest.mark.parametrize("force", [None, REASON])
@pytest.mark.parametrize(("status", "ended"), [("skipped", "was skipped"), ("failed", "failed")])
def test_of_what_was_never_measured_there_is_nothing_to_publish_by_force_either(
    bench: Bench, status: str, ended: str, force: str | None
) -> None:
    run = bench.run()
    run.append(absent_trial("gpu", status, "no CUDA device"))
    with pytest.raises(Refused) as caught:
        bench.publish(variant="gpu", force=force)
    assert caught.value.message == (
        f"`gpu` of run {run.run_id} {ended}, so there is nothing to publish: no CUDA device"
    )
    assert caught.value.hint == "choose another with --variant"
    assert bench.versions == []


def test_a_run_of_another_model_is_not_promoted_under_this_name(bench: Bench) -> None:
    bench.run()
    bench.workspace = replace(bench.workspace, name="other")
    with pytest.raises(WorkbenchError, match="is of the model `leaf`, the workspace is of `other`"):
        bench.publish(variant="good")
