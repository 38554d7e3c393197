"""Everything a run knows of one variant, read from a small run folder."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.builders import absent_trial, run_info, trial
from workbench.errors import WorkbenchError
from workbench.measure.accuracy import accuracy, parity
from workbench.measure.readings import Readings
from workbench.measure.records import Saturation, WholePath
from workbench.registry.model_card import saturation_words
from workbench.report.details import answer, text
from workbench.results.folder import RunFolder
from workbench.results.history import details
from workbench.results.records import TrialResult

CLASSES = ("rust", "scab", "well")
LABELS = [0] * 10 + [1] * 10 + [2] * 5
PATH = WholePath(photo="256 px", bytes=20_000, decode_ns=2e6, preprocess_ns=1e6, infer_ns=4.5e6, rest_ns=5e5)


def logits_of(answers: list[int]) -> np.ndarray:
    return 4 * np.eye(3, dtype=np.float32)[answers]


# The baseline takes one photo of scab for well; the variant gets that one right and three of rust wrong.
BASELINE = logits_of([0] * 10 + [2] + [1] * 9 + [2] * 5)
VARIANT = logits_of([1, 1, 2] + [0] * 7 + [1] * 10 + [2] * 5)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path)
    run.save_info(run_info(run_id="20260102-030405", class_names=CLASSES))
    np.savez(run.path / "validation.npz", labels=np.array(LABELS), certifies=np.zeros(25, dtype=bool))
    for name, logits in (("baseline", BASELINE), ("int8[a=b]", VARIANT)):
        np.savez(run.predictions(name), logits=logits)
    return run


@pytest.fixture
def measured() -> TrialResult:
    made = trial(
        "int8[a=b]",
        rounds=(1.9, 2.0, 2.0, 2.1, 2.2, 2.3),
        accuracy=accuracy(VARIANT, BASELINE, LABELS),
        parity=parity(VARIANT, BASELINE),
        cold_start_s=0.25,
        steady_memory_bytes=30_000_000,
        saturated_ips=321.0,
        saturated_log_ratios=(math.log(1.8),) * 6,
        readings=Readings(load_s=(0.05, 0.045, 0.07), peak_memory_bytes=(40_000_000, 41_000_000)),
        whole_path=(PATH,),
    )
    assert made.latency is not None
    known = {"confirmed": True, "settled": False, "p95_ns_ci": (5.5e6, 6.5e6), "p99_ns": None}
    return made.model_copy(update={"latency": made.latency.model_copy(update=known)})


def test_the_text_is_this(folder: RunFolder, measured: TrialResult) -> None:
    assert text(details(folder, folder.info(), measured, ())) == (
        "int8[a=b] of run 20260102-030405 ended ok\n"
        "  onnxruntime, CPUExecutionProvider, threads 1, opset 18, weights fp32\n"
        "accuracy on 25 photos for selection\n"
        "  top-1 88.00 %, macro-F1 88.06 %\n"
        "  drop 8.00 points [−10.23, 27.08]: 3 photos lost, 1 gained, McNemar p 0.62\n"
        "  agrees with the source model on 84.00 % of 25 photos; largest logit difference 4; KL 0.61 nats\n"
        "  expected calibration error 8.47 points\n"
        "  rust: 3 lost, 0 gained of 10 (p 0.50, Holm)\n"
        "  scab: 0 lost, 1 gained of 10 (p 1.00, Holm)\n"
        "  new confusion: rust taken for scab, 2\n"
        "  new confusion: rust taken for well, 1\n"
        "latency, from the final rounds: 300 hot calls in 6 rounds\n"
        "  speed-up 2.079 [1.931, 2.238]; batch 1\n"
        "  ms: p50 4.76, p90 5.24, p95 5.71 [5.50, 6.50], p99 of too few rounds, cold p50 7.14\n"
        "  at least one launch never settled in its warm-up\n"
        "cost\n"
        "  file 8.0 MB\n"
        "  load 50.0 ms (45.0 to 70.0 in 3 launches)\n"
        "  cold start 250.0 ms\n"
        "  peak memory 40.0 MB (40.0 to 41.0 in 2 launches)\n"
        "  steady memory 30.0 MB\n"
        "  all processors 321.0 photos/s\n"
        "  1.80 times the baseline's photos a second [1.80, 1.80]\n"
        "  photo of 256 px: 8.00 ms = decode 2.00 + preprocess 1.00 + inference 4.50 + rest 0.50"
    )


def test_the_facts_are_the_record_and_what_follows_from_it(folder: RunFolder, measured: TrialResult) -> None:
    facts = json.loads(json.dumps(answer(details(folder, folder.info(), measured, ())), allow_nan=False))
    assert facts["run"] == "20260102-030405"
    assert {key: facts[key] for key in measured.model_dump()} == measured.model_dump(mode="json")
    assert [(c["name"], c["losses"], c["gains"]) for c in facts["class_changes"]] == [
        ("rust", 3, 0),
        ("scab", 0, 1),
    ]
    assert facts["new_confusions"] == [
        {"truth": "rust", "taken_for": "scab", "images": 2},
        {"truth": "rust", "taken_for": "well", "images": 1},
    ]


def test_the_text_shows_the_first_ten_classes_and_the_facts_all(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path)
    run.save_info(run_info(class_names=tuple(f"class-{n}" for n in range(13))))
    right, wrong = np.eye(13, dtype=np.float32), np.roll(np.eye(13, dtype=np.float32), 1, axis=1)
    np.savez(run.path / "validation.npz", labels=np.arange(13))
    np.savez(run.predictions("baseline"), logits=right)
    np.savez(run.predictions("wrong"), logits=wrong)
    judged = trial(
        "wrong", accuracy=accuracy(wrong, right, list(range(13))), parity=parity(wrong, right), latency=None
    )
    got = details(run, run.info(), judged, ())
    assert len(got.changes) == len(got.confusions) == 13
    assert text(got).count(" lost, 0 gained of 1 ") == 10
    assert text(got).count("new confusion") == 10
    assert ", top-5 " in text(got)
    assert "latency" not in text(got)


def test_what_was_never_measured_has_a_reason_and_no_blanks(folder: RunFolder) -> None:
    skipped = absent_trial("gpu", "skipped", "no CUDA device").model_copy(
        update={"provider": None, "threads": None, "precision": None}
    )
    got = details(folder, folder.info(), skipped, ())
    assert text(got) == "gpu of run 20260102-030405 ended skipped: no CUDA device\n  onnxruntime"
    assert (got.changes, got.confusions) == ((), ())


def test_a_run_from_before_labels_were_kept_is_shown_without_classes(
    folder: RunFolder, measured: TrialResult
) -> None:
    (folder.path / "validation.npz").unlink()
    got = details(folder, folder.info(), measured, ())
    assert (got.changes, got.confusions) == ((), ())
    assert "drop 8.00 points" in text(got)


def test_predictions_that_are_gone_are_an_error_with_their_name(
    folder: RunFolder, measured: TrialResult
) -> None:
    folder.predictions("baseline").unlink()
    with pytest.raises(WorkbenchError, match=r"baseline\.npz cannot be read"):
        details(folder, folder.info(), measured, ())


def test_what_was_only_seen_on_photos_is_not_called_exact() -> None:
    fine = Saturation(
        layers_at_risk=(), logit_error=0, top1_changed=0, photos=8, validated=("x86 with VNNI",)
    )
    risky = fine.model_copy(update={"layers_at_risk": ("conv",), "logit_error": 0.12, "top1_changed": 2})
    exact = "INT8 sums are exact on x86 with VNNI and ARM with dot product; on x86 with AVX2 without VNNI "
    assert saturation_words(fine) == exact + "none saturated on 8 photos"
    assert saturation_words(risky) == exact + (
        "they saturate in 1 layer: logits move by up to 12.0 %, 2 of 8 photos change class"
    )
