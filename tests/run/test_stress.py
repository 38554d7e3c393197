"""Stress of a run's variants by real worker processes; the runtime computes next to nothing."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.builders import artifact_info, error_of, run_info, trial
from tests.versions import workspace_folder
from workbench.backends import NullRuntime
from workbench.backends.artifact import Artifact, ArtifactCache
from workbench.backends.table import BACKENDS
from workbench.cli import main
from workbench.errors import WorkbenchError
from workbench.measure.accuracy import accuracy
from workbench.measure.records import SameAnswers
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import batch_of, crop_pixels
from workbench.photos.stress import STRESSES, apply_stresses
from workbench.results.folder import RunFolder
from workbench.results.records import PhotoFiles
from workbench.results.stress import StressRecord, read_stress
from workbench.run.stress import StressRequest, measure_stress
from workbench.system.files import cache_folder, write_arrays
from workbench.system.progress import Progress, silent

PHOTOS, RUNTIME = 40, NullRuntime()
INFO = artifact_info(b"weights", classes=2)
# The null network calls bright photos the second class; for the variant, less has to be bright.
CONTRACT = Preprocess(resize=16, crop=12, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
DARKER = CONTRACT.model_copy(update={"mean": (0.4, 0.4, 0.4), "resize": 12})
RULE = "budget: {field: {severity: 3, max_drop: 0.02}}\n"


@dataclass(frozen=True)
class Bench:
    root: Path
    folder: RunFolder
    paths: list[Path]
    labels: list[int]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = workspace_folder(tmp_path_factory.mktemp("stress") / "leaf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRISHI_CACHE", str(root.parent / "cache"))
        yield made(root)


def made(root: Path) -> Bench:
    """A run of the baseline, `darker` and `twin`, the baseline again; half of its photos held out."""
    (root / "krishi.yaml").write_text((root / "krishi.yaml").read_text() + RULE)
    folder = RunFolder.create(root / "results")
    artifact = ArtifactCache(cache_folder()).store("ab" * 32, build)
    info = run_info(
        run_id=folder.run_id,
        name="leaf",
        preprocess=CONTRACT,
        runtimes=dict.fromkeys(("baseline", "darker", "twin"), RUNTIME),
        certification_images=PHOTOS // 2,
    )
    folder.save_info(info)
    built = {"backend": "null", "artifact_key": "ab" * 32, "artifact_digest": artifact.digest}
    folder.append(trial("baseline", **built))
    folder.append(trial("darker", speedup=2.0, preprocess=DARKER, **built))
    folder.append(trial("twin", same_answers=SameAnswers(images=PHOTOS, max_rel=0.0, bound=1e-3), **built))
    paths, labels = [], [number * 2 // PHOTOS for number in range(PHOTOS)]
    rng = np.random.default_rng(0)
    for number, label in enumerate(labels):
        pixels = (70 if label == 0 else 150) + rng.normal(0, 12, (1, 1, 3)) + rng.normal(0, 20, (30, 24, 3))
        paths.append(root / "val" / f"{number:02}.png")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1])
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    folder.save_photos(PhotoFiles(paths=tuple(map(str, paths)), sha256=digests))
    certifies = np.arange(PHOTOS) % 2 == 1
    write_arrays(folder.path / "validation.npz", labels=np.asarray(labels), certifies=certifies)
    return Bench(root, folder, paths, labels)


def build(target: Path) -> Artifact:
    (target / INFO.file).write_bytes(b"weights")
    return Artifact(target, INFO)


@pytest.fixture(scope="module")
def measured(bench: Bench) -> StressRecord:
    request = StressRequest((), ("dusk", "overexposure", "messenger"), severities=(2,))
    return measure_stress(bench.folder, bench.folder.info(), request, silent)


def answers(bench: Bench, rows: list[int], stress: str, contract: Preprocess) -> np.ndarray[Any, Any]:
    """By the plain functions, one after the other."""
    with BACKENDS["null"].session(Artifact(bench.root, INFO), RUNTIME) as session:
        photos = [apply_stresses(bench.paths[row].read_bytes(), [stress], 2, CONTRACT)[0] for row in rows]
        crops = [crop_pixels(photo, contract)[None] for photo in photos]
        return np.concatenate([session.infer(batch_of(crop, contract, raw=False)) for crop in crops])


def test_counts_are_those_of_the_held_out_photos_under_the_same_stress(
    bench: Bench, measured: StressRecord
) -> None:
    rows = list(range(1, PHOTOS, 2))
    labels = [bench.labels[row] for row in rows]
    (variant,) = measured.variants
    assert variant.variant == "darker"  # the winner
    assert [cell.stress for cell in variant.cells] == ["dusk", "overexposure", "messenger"]
    for cell in variant.cells:
        before, after = (answers(bench, rows, cell.stress, contract) for contract in (CONTRACT, DARKER))
        assert cell.accuracy == accuracy(after, before, labels)
        assert cell.baseline_ece == accuracy(before, before, labels).ece
    assert measured.held_out
    assert {cell.accuracy.images for cell in variant.cells} == {PHOTOS // 2}
    changed = [cell.accuracy.losses + cell.accuracy.gains for cell in variant.cells]
    assert max(changed) > 0


def test_what_is_known_is_not_measured_again(bench: Bench, measured: StressRecord) -> None:
    told: list[Progress] = []
    request = StressRequest(("darker",), ("dusk",), severities=(2,), limit=10)
    assert measure_stress(bench.folder, bench.folder.info(), request, told.append) == measured
    assert told == []
    assert read_stress(bench.folder, bench.folder.info(), bench.folder.trials()) == measured


def test_the_cost_is_named_first_and_more_is_added_to_what_is_known(
    bench: Bench, measured: StressRecord
) -> None:
    told: list[Progress] = []
    request = StressRequest(("all",), ("rain-drops",), severities=(1, 3), limit=17)
    record = measure_stress(bench.folder, bench.folder.info(), request, told.append)
    assert told[0].what == (
        "17 of 20 held-out photos at severity 1, 3; 1 stress: 34 stressed photos, answered by 1 variant and "
        "the baseline, less than a minute"
    )
    assert (told[-1].done, told[-1].total) == (34, 34)
    (variant,) = record.variants
    assert len(variant.cells) == len(measured.variants[0].cells) + 2


def test_a_photo_that_is_not_as_it_was_measured_is_refused(bench: Bench) -> None:
    request = StressRequest((), ("dusk",), severities=(5,))
    kept = bench.paths[1].read_bytes()
    bench.paths[1].write_bytes(bench.paths[3].read_bytes())
    try:
        error = error_of(lambda: measure_stress(bench.folder, bench.folder.info(), request, silent))
    finally:
        bench.paths[1].write_bytes(kept)
    assert error.message == f"{bench.paths[1]} is not the photo that the run measured"
    assert "krishi-bench run" in (error.hint or "")


def test_a_gate_has_no_plain_export_and_is_not_stressed(bench: Bench) -> None:
    info = bench.folder.info().model_copy(update={"reference": "1.0.0 (production)"})
    with pytest.raises(WorkbenchError, match=r"is of a gate, .* against 1\.0\.0 "):
        measure_stress(bench.folder, info, StressRequest((), ("dusk",)), silent)


def run(bench: Bench, *words: str) -> int:
    return main(["stress", *words, "--workspace", str(bench.root), "--quiet"])


def test_the_command_shows_stresses_by_severity_and_says_no_where_the_rule_is_missed(
    bench: Bench, measured: StressRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bench, "--severity", "3") == 1  # 20 photos certify nothing
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0] == f"leaf, run {bench.folder.run_id}: 20 held-out photos under field stresses"
    assert [line.split()[0] for line in lines[4:13]] == [*STRESSES]
    assert "darker: NOT certified to lose at most 2 points under " in shown
    assert run(bench, "--severity", "2,3", "--only", "dusk,messenger") == 1
    shown = capsys.readouterr().out
    assert "darker by severity: top-1 of the baseline in %" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert run(bench, "--severity", "2", "--only", "dusk", "--format", "json") == 0
    answer = json.loads(capsys.readouterr().out)
    (row,) = answer["rows"]
    assert answer["left_out"] == []
    assert (row["variant"], row["stress"], row["severity"], row["images"]) == ("darker", "dusk", 2, 20)


def test_all_leaves_out_what_computes_the_baselines_function_and_says_so(
    bench: Bench, measured: StressRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bench, "--severity", "2", "--only", "dusk", "--variant", "all") == 0
    shown = capsys.readouterr().out
    assert "not measured, as they compute the baseline's function: twin" in shown
    assert "darker: " in shown
    assert "twin: " not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--severity", "6"], "`6` is not a number from 1 to 5"),
        (["--only", "fog"], "`fog` is no stress"),
        (["--variant", "dark"], "has no variant `dark`"),
        (["--limit", "0"], "`0` is not a number from 1 up"),
        (["--variant", "all", "--variant", "dark"], "`all` is every variant"),
    ],
)
def test_bad_input_is_named(
    bench: Bench, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(bench, *words) == 2
    assert message in capsys.readouterr().err
