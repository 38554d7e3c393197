"""A version as an app's developer gets it, checked by the Python in it; phones, by a stand-in for adb."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import edge
from tests.builders import CONTRACT as SQUARE
from tests.builders import error_of
from tests.versions import publish as publish_null
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import pixels_of
from workbench.registry.android import reference
from workbench.registry.android.package import chosen, package
from workbench.registry.android.phones import PhoneTiming, connected, time_on_phones, timing_of
from workbench.registry.bundle import Bundle
from workbench.registry.store import Registry
from workbench.report.phones import packaged

CONTRACT, NAMES = edge.CONTRACT, edge.CLASS_NAMES


def photo(path: Path, size: tuple[int, int], **saving: Any) -> Path:
    """A smooth coloured photo."""
    coarse = np.random.default_rng(size[0]).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, **saving)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A version of a LiteRT file, with its run beside it."""
    pytest.importorskip("ai_edge_litert", reason="it opens the model")
    root = tmp_path_factory.mktemp("android")
    return edge.published(root, [photo(root / f"{n}.jpg", (40 + 30 * n, 60)) for n in range(3)])


def check(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the package's own Python."""
    command = [sys.executable, "-P", str(folder / "reference.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def results_of(bundle: Bundle) -> Path:
    return bundle.folder.parents[2] / "results"


def test_the_reference_gives_our_answers_for_pixels_and_for_whole_photos(
    bundle: Bundle, tmp_path: Path
) -> None:
    done = package(bundle, tmp_path / "app", results_of(bundle))
    assert (done.golden, done.photos, done.missing) == (3, 3, None)
    checked = check(done.folder)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("ok   photos/") == checked.stdout.count("ok   golden/") == 3
    answered = check(done.folder, "photos/000.jpg").stdout
    golden = json.loads((done.folder / "golden.json").read_text())
    assert golden["photos"][0]["label"] in answered
    assert (done.folder / "labels.txt").read_text().split() == list(NAMES)
    rule = json.loads((done.folder / "preprocess.json").read_text())
    assert (rule["resize"], rule["crop"], rule["input"]["layout"]) == ([20, 20], [16, 16], "NHWC")


def test_the_reference_needs_nothing_of_ours() -> None:
    tree = ast.parse(Path(reference.__file__).read_text())
    named = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    named += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    allowed = {"json", "sys", "pathlib", "typing", "numpy", "PIL", "ai_edge_litert"}
    assert {name.partition(".")[0] for name in named} <= allowed


def test_the_reference_tells_a_wrong_answer(bundle: Bundle, tmp_path: Path) -> None:
    folder = package(bundle, tmp_path / "app", results_of(bundle)).folder
    path = folder / "preprocess.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mean": [0.1, 0.2, 0.9]}))
    checked = check(folder)
    assert checked.returncode == 1
    assert "BAD  golden/000.png" in checked.stdout


def test_without_the_run_there_are_pixels_alone_and_the_reason(bundle: Bundle, tmp_path: Path) -> None:
    done = package(bundle, tmp_path / "app", tmp_path / "nowhere")
    assert (done.golden, done.photos) == (3, 0)
    assert done.missing
    assert done.missing in (done.folder / "README.md").read_text()
    assert check(done.folder).returncode == 0


def test_a_folder_that_is_there_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    error = error_of(lambda: package(bundle, tmp_path / "app", results_of(bundle)))
    assert "is there already" in error.message
    assert not list((tmp_path / "app").iterdir())


def test_what_no_phone_opens_is_refused_with_what_to_do(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    publish_null(registry, "1.0.0")
    other = chosen(registry, "leaf", "1.0.0")
    error = error_of(lambda: package(other, tmp_path / "app", tmp_path))
    assert "an Android app opens LiteRT files" in error.message
    assert "krishi-bench run litert" in (error.hint or "")


RULES = {
    "shorter": CONTRACT,
    "timm": CONTRACT.model_copy(update={"rounding": "timm", "interpolation": "bicubic"}),
    "padded": Preprocess(resize=16, crop=16, resize_mode="longer", mean=SQUARE.mean, std=SQUARE.std),
    "squeezed": Preprocess(resize=(20, 24), crop=(16, 20), mean=SQUARE.mean, std=SQUARE.std),
    "bgr": CONTRACT.model_copy(update={"channels": "BGR", "rounding": "transformers"}),
    "full": CONTRACT.model_copy(update={"decode": "full"}),
}
SHAPES = [(40, 60), (61, 33), (400, 300), (333, 517)]


@pytest.mark.parametrize("name", RULES)
def test_the_reference_cuts_photos_as_the_server_does(name: str, bundle: Bundle, tmp_path: Path) -> None:
    from workbench.backends.litert.interpreter import Interpreter
    from workbench.registry.android.package import rule_of

    contract = RULES[name]
    opened = Interpreter(bundle.artifact.read(), "it", threads=1)
    rule = json.loads(
        json.dumps(rule_of(bundle.manifest.model_copy(update={"preprocess": contract}), opened))
    )
    for size in SHAPES:
        for orientation in (1, 3, 6, 8):
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = photo(tmp_path / "a.jpg", size, exif=exif)
            ours = pixels_of(path.read_bytes(), contract)
            assert np.array_equal(reference.pixels_of(path, rule), ours), (size, orientation)


LISTED = "List of devices attached\nABC123\tdevice product:x\nDEF\tunauthorized\nGHI\toffline\n\n"
PRINTED = """STARTING!
Inference timings in us: Init: 3254, First inference: 11293, Warmup (avg): 8241.7, Inference (avg): 7920.43
count=17 first=9000 curr=8000 min=7900 max=9000 avg=8100 std=72
count=126 first=7920 curr=7811 min=7717 max=8211 avg=7920.43 std=72 p5=7700 median=7899 p95=8100
"""


def test_only_phones_that_allow_it_are_connected() -> None:
    assert connected(LISTED) == ["ABC123"]


def test_the_last_statistics_count() -> None:
    found = timing_of(PhoneTiming(serial="A"), PRINTED)
    assert (found.calls, found.min_us, found.mean_us, found.median_us) == (126, 7717.0, 7920.43, 7899.0)
    assert found.reason is None


def test_a_benchmark_without_times_is_a_reason() -> None:
    found = timing_of(PhoneTiming(serial="A"), "Failed to load model\n")
    assert found.reason == "benchmark_model gave no times: Failed to load model"


ADB = """#!/bin/sh
case "$*" in
  devices) printf 'List of devices attached\\nABC123\\tdevice\\nGONE\\tdevice\\n' ;;
  *GONE*) echo "adb: device 'GONE' not found" >&2; exit 1 ;;
  *getprop*model*) echo "Pixel 9" ;;
  *num_runs*) echo "count=50 first=1 curr=1 min=900 max=1100 avg=1000 std=1" ;;
esac
"""


@pytest.mark.parametrize("there", [True, False])
def test_phones_are_timed_and_one_that_is_gone_is_skipped(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    if there:
        (tools / "adb").write_text(ADB)
        (tools / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin" if there else str(tools))
    benchmark = tmp_path / "benchmark_model"
    benchmark.touch()
    found = time_on_phones(tmp_path / "model.tflite", benchmark)
    if not there:
        assert "`adb` is not installed" in (found.skipped or "")
        return
    timed, gone = found.phones
    assert (timed.model, timed.mean_us, timed.reason) == ("Pixel 9", 1000.0, None)
    assert gone.reason == "it was disconnected: adb: device 'GONE' not found"
    assert time_on_phones(tmp_path / "model.tflite", None).skipped


def test_what_was_timed_and_what_was_skipped_is_said(bundle: Bundle, tmp_path: Path) -> None:
    from workbench.registry.android.phones import PhonesFile

    done = package(bundle, tmp_path / "app", results_of(bundle))
    timed = PhoneTiming(serial="A", model="Pixel 9", calls=50, mean_us=1250.0, median_us=1200.0)
    gone = PhoneTiming(serial="B", reason="it was disconnected")
    lines = packaged(done, PhonesFile(phones=(timed, gone))).splitlines()
    assert lines[-2] == "Pixel 9: median 1.20 ms, mean 1.25 ms (50 calls, 1 thread, XNNPACK)"
    assert lines[-1] == "B: skipped: it was disconnected"
