"""A measured trial becomes a version whose number tells the truth, or nothing is published."""

import hashlib
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import Once, artifact_info, counts, onnx_model, run_info, trial
from workbench.backends import NullRuntime, OrtRuntime, Runtime
from workbench.backends.artifact import Artifact, ArtifactCache, ArtifactInfo
from workbench.backends.table import BACKENDS
from workbench.errors import Refused, WorkbenchError
from workbench.measure.records import SameAnswers
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import normalize
from workbench.registry.bundle import check_golden
from workbench.registry.bundle_writer import Promotion, PromotionRequest, promote
from workbench.registry.shadow_record import Demand, ShadowResult, write
from workbench.registry.store import Registry
from workbench.report.registry import alias_faults, promotion
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.system.machine import collect

pytestmark = pytest.mark.integration

CONTRACT = Preprocess(resize=10, crop=8, mean=(0.5, 0.4, 0.3), std=(0.5, 0.5, 0.5))
SMALLER = CONTRACT.model_copy(update={"resize": 9})
CLASSES = ("rust", "scab", "well")
INDICES = np.array([1, 3, 4], dtype=np.int64)
VARIANT = "int8-static[method=entropy]"


def photos() -> np.ndarray:
    """Six (8, 8, 3) uint8 images of one colour each, whose classes are easy to tell."""
    colours = [[250, 20, 10], [10, 20, 250], [240, 60, 0], [0, 90, 230], [255, 0, 0], [30, 30, 255]]
    return np.tile(np.array(colours, dtype=np.uint8)[:, None, None], (1, 8, 8, 1))


@dataclass(frozen=True)
class Model:
    """What a run built and measured; every test changes the fields it is about."""

    data: bytes = b"weights"
    format: str = "null"
    precision: str = "unknown"
    checkpoint: str = "checkpoint-a"
    class_names: tuple[str, ...] = CLASSES
    contract: Preprocess = CONTRACT
    threads: int = 1
    synthetic: bool = False
    logits: np.ndarray | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def info(self) -> ArtifactInfo:
        return artifact_info(
            self.data,
            format=self.format,
            file="model.onnx" if self.format == "onnx" else "model.bin",
            precision=self.precision,
            # One photo a call where the runtime is none: how it does in batches would be measured.
            input_shape=(0 if self.format == "onnx" else 1, 3, self.contract.crop, self.contract.crop),
            classes=len(self.class_names),
        )

    @property
    def runtime(self) -> Runtime:
        return (OrtRuntime if self.format == "onnx" else NullRuntime)(threads=self.threads)


class Bench:
    """A workspace's results, cache and registry on disk."""

    def __init__(self, folder: Path) -> None:
        self.results = folder / "results"
        self.cache = ArtifactCache(folder / "cache")
        self.registry = Registry(folder / "registry")

    def run(self, model: Model) -> RunFolder:
        """What a run leaves behind, its logits taken from the real backend."""
        key = hashlib.sha256(repr(model.info).encode()).hexdigest()

        def build(target: Path) -> Artifact:
            (target / model.info.file).write_bytes(model.data)
            return Artifact(target, model.info)

        artifact = self.cache.store(key, build)
        logits = model.logits
        if logits is None:
            with BACKENDS[model.runtime.backend].session(artifact, model.runtime) as session:
                logits = session.infer(normalize(photos(), model.contract))
        run = RunFolder.create(self.results)
        np.savez(run.path / "golden.npz", pixels=photos()[INDICES], indices=INDICES)
        np.savez(run.predictions(VARIANT), logits=logits)
        run.save_info(info_of(run.run_id, model))
        run.append(trial_of(model, key))
        return run

    def promote(self, model: Model, **choice: Any) -> Promotion:
        return self.promote_run(self.run(model), **choice)

    def promote_run(self, run: RunFolder, **choice: Any) -> Promotion:
        (trial,) = run.trials()
        return promote(PromotionRequest(run, trial, "leaf", **choice), self.registry, self.cache)

    @property
    def production(self) -> str:
        return self.registry.resolve("leaf", "production").version


def info_of(run_id: str, model: Model) -> RunInfo:
    return run_info(
        run_id=run_id,
        name="leaf",
        machine=collect(),
        libraries={"onnxruntime": "1.23.0"},
        checkpoint_digest=model.checkpoint,
        validation_images=6,
        class_names=model.class_names,
        preprocess=model.contract,
        baseline="fp32",
        runtimes={VARIANT: model.runtime},
        synthetic=model.synthetic,
        noise_floor=0.012,
    )


def trial_of(model: Model, key: str) -> TrialResult:
    made = trial(
        VARIANT,
        recipe="int8-static",
        digest="variant-digest",
        backend=model.runtime.backend,
        rounds=[math.exp(ratio) for ratio in (0.7, 0.69, 0.71, 0.68, 0.7, 0.72)],
        peak_memory_bytes=80_000_000,
        accuracy=counts(losses=4, gains=2, images=200, correct=192),
        artifact_digest=model.info.sha256,
        artifact_key=key,
    )
    return made.model_copy(update=model.changes)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


FIRST = Model()


@pytest.fixture(scope="module")
def first(once: Once) -> Path:
    return once("first-promotion", lambda folder: Bench(folder).promote(FIRST))


@pytest.fixture
def released(first: Path, tmp_path: Path) -> Bench:
    """FIRST is promoted already."""
    return Bench(Path(shutil.copytree(first, tmp_path / "released")))


def test_the_first_promotion_publishes_1_0_0_with_everything_it_takes_to_serve(bench: Bench) -> None:
    done = bench.promote(FIRST)
    assert (done.version, done.previous, done.unchanged) == ("1.0.0", None, False)
    assert done.why == "the first version"
    assert bench.registry.verify() == []

    bundle = bench.registry.resolve(None, "production")
    bundle.verify()
    manifest = bundle.manifest
    assert (manifest.class_names, manifest.preprocess, manifest.runtime) == (CLASSES, CONTRACT, FIRST.runtime)
    assert (manifest.provenance.variant, manifest.provenance.checkpoint_digest) == (VARIANT, "checkpoint-a")
    with BACKENDS["null"].session(bundle.artifact, manifest.runtime) as session:
        assert check_golden(session.infer, manifest, *bundle.golden()) < 1e-6


def test_the_same_answers_as_the_baseline_stand_in_the_manifest_and_on_the_card(bench: Bench) -> None:
    same = SameAnswers(images=200, max_rel=1e-6, bound=1e-4)
    bundle = bench.promote(replace(FIRST, changes={"same_answers": same})).bundle
    assert bundle.manifest.measured.same_answers == same
    card = (bundle.folder / "MODEL_CARD.md").read_text()
    assert "| top-1 lost against the baseline | none: same answers | – |" in card


def test_the_model_card_can_be_read_and_says_what_was_measured_and_what_was_not(bench: Bench) -> None:
    done = bench.promote(replace(FIRST, synthetic=True), forced="the old one is wrong")
    card = (done.bundle.folder / "MODEL_CARD.md").read_text()
    for expected in (
        "# leaf 1.0.0\n",
        "8 x 8 centre cut out",
        "| top-1, 200 photos of the validation data | 95.0% | 91.0% to 97.3% |",
        "| top-1 lost against the baseline | +1.00% | ",
        "| speed-up against the baseline | 2.01 x | 1.98 to 2.04 |",
        "| peak memory | 80 MB | – |",
        collect().cpu,
        "Two copies of the same model differed by 1.2% there.",
        "drawn by a program",
        "The reason given: the old one is wrong",
        "1. `scab`",
    ):
        assert expected in card
    real = bench.promote(replace(FIRST, data=b"b")).bundle.folder
    assert "drawn" not in (real / "MODEL_CARD.md").read_text()


def test_the_same_model_again_publishes_nothing(released: Bench) -> None:
    again = released.promote(FIRST)
    assert (again.version, again.previous, again.unchanged) == ("1.0.0", "1.0.0", True)
    assert again.why == "this very model is already published as 1.0.0"
    assert released.registry.versions("leaf") == ["1.0.0"]
    assert released.registry.aliases("leaf")["production"].generation == 1


def test_an_older_model_promoted_again_moves_the_alias_and_publishes_nothing(released: Bench) -> None:
    released.promote(replace(FIRST, data=b"other", checkpoint="checkpoint-b"))
    back = released.promote(FIRST)
    assert (back.version, back.previous, back.unchanged) == ("1.0.0", "1.1.0", False)
    assert released.production == "1.0.0"
    assert released.registry.versions("leaf") == ["1.0.0", "1.1.0"]


def test_the_same_model_is_not_given_a_second_number_but_a_candidate_becomes_a_release(bench: Bench) -> None:
    bench.promote(FIRST, version="1.0.0-rc.1")
    assert bench.promote(FIRST, version="1.0.0-rc.1").unchanged
    assert bench.promote(FIRST, version="1.0.0").version == "1.0.0"
    with pytest.raises(Refused, match=r"this very model is already published as 1\.0\.0"):
        bench.promote(FIRST, version="2.0.0")
    assert bench.promote(FIRST, version="2.0.0", forced="marketing").version == "2.0.0"
    assert bench.registry.versions("leaf") == ["1.0.0-rc.1", "1.0.0", "2.0.0"]


@pytest.mark.parametrize(
    ("model", "version", "why"),
    [
        (replace(FIRST, data=b"again"), "1.0.1", "its logits agree with 1.0.0's"),
        (replace(FIRST, threads=2), "1.0.1", "its logits agree with 1.0.0's"),
        (replace(FIRST, checkpoint="checkpoint-b", data=b"b"), "1.1.0", "another checkpoint"),
        (replace(FIRST, class_names=("scab", "rust", "well")), "2.0.0", "the class order changed"),
        (replace(FIRST, contract=SMALLER), "2.0.0", "resize 10 -> 9"),
    ],
)
def test_the_number_follows_what_clients_would_notice(
    released: Bench, model: Model, version: str, why: str
) -> None:
    done = released.promote(model)
    assert (done.version, done.previous) == (version, "1.0.0")
    assert why in done.why
    assert released.production == version
    assert released.registry.verify() == []


def test_a_number_that_promises_too_much_is_refused_unless_forced_with_a_reason(released: Bench) -> None:
    breaking = replace(FIRST, class_names=("scab", "rust", "well"))
    with pytest.raises(Refused, match="a major change, not a minor one: the class order changed since"):
        released.promote(breaking, bump="minor")
    assert released.registry.versions("leaf") == ["1.0.0"]
    done = released.promote(breaking, bump="minor", forced="nobody uses it yet")
    assert done.version == "1.1.0"
    assert done.bundle.manifest.provenance.forced == "nobody uses it yet"
    assert "nobody uses it yet" in released.registry.aliases("leaf")["production"].history[-1].reason


def test_an_explicit_version_that_exists_or_lies_too_low_is_refused(released: Bench) -> None:
    other = replace(FIRST, checkpoint="checkpoint-b", data=b"b")
    with pytest.raises(Refused, match=r"1\.0\.1 is too low, it takes 1\.1\.0 or higher"):
        released.promote(other, version="1.0.1")
    with pytest.raises(Refused, match=r"leaf 1\.0\.0 exists already"):
        released.promote(other, version="1.0.0", forced="really")
    with pytest.raises(WorkbenchError, match=r"`1\.2` is not a version number"):
        released.promote(other, version="1.2")
    assert released.promote(other, version="1.4.0").version == "1.4.0"


def test_after_a_rollback_the_next_number_is_true_for_the_clients_of_both_versions(released: Bench) -> None:
    released.promote(replace(FIRST, class_names=("scab", "rust", "well")))
    released.registry.rollback("leaf", "production")
    done = released.promote(replace(FIRST, data=b"again"))
    # A patch of what is served, and yet 2.0.1 would break whoever relies on 2.0.0.
    assert (done.version, done.previous) == ("3.0.0", "1.0.0")


@pytest.mark.parametrize("alias", ["../x", "Production", ""])
def test_an_alias_that_could_be_a_path_is_refused_before_anything_is_published(
    bench: Bench, alias: str
) -> None:
    with pytest.raises(WorkbenchError, match="is not a name for an alias"):
        bench.promote(FIRST, alias=alias)
    assert bench.registry.names() == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (FIRST, "does not give the logits that were measured"),
        (Model(format="onnx", data=b"not a model"), "was not published: onnxruntime cannot open"),
    ],
)
def test_a_model_that_cannot_be_opened_or_gives_other_logits_is_not_published(
    bench: Bench, model: Model, message: str
) -> None:
    with pytest.raises(Refused, match=message):
        bench.promote(replace(model, logits=np.ones((6, 3), dtype=np.float32)))
    assert bench.registry.names() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "failed", "reason": "it crashed"}, "ended failed: it crashed"),
        ({"artifact_key": "0" * 64}, "is gone"),
        ({"artifact_digest": "0" * 64}, "is not the one that was measured"),
        ({"variant": "other"}, "has no runtime of `other`"),
    ],
)
def test_a_trial_without_its_model_cannot_be_promoted(
    bench: Bench, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WorkbenchError, match=message):
        bench.promote(replace(FIRST, changes=changes))
    assert bench.registry.names() == []


def test_a_model_changed_in_the_cache_is_not_published(bench: Bench) -> None:
    run = bench.run(FIRST)
    (model,) = bench.cache.root.rglob("model.bin")
    model.write_bytes(b"wEights")
    with pytest.raises(WorkbenchError, match="is gone"):
        bench.promote_run(run)
    assert bench.registry.names() == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": photos()[INDICES]}, "does not hold the arrays pixels, indices"),
        ({"pixels": photos()[INDICES], "indices": np.array([1, 3, 6])}, "does not fit"),
        ({"pixels": photos()[INDICES], "indices": np.array([-1, 3, 4])}, "does not fit"),
        ({"pixels": photos()[INDICES][:, :4], "indices": INDICES}, "does not fit"),
        ({"pixels": photos()[:0], "indices": INDICES[:0]}, "does not fit"),
        ({"pixels": photos()[INDICES], "indices": np.array([None, 1, 2])}, "does not hold the arrays"),
    ],
)
def test_golden_images_that_do_not_fit_the_run_are_an_error(
    bench: Bench, arrays: dict[str, np.ndarray], message: str
) -> None:
    run = bench.run(FIRST)
    np.savez(run.path / "golden.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(WorkbenchError, match=message):
        bench.promote_run(run)


def test_golden_images_too_close_to_call_are_left_out(bench: Bench) -> None:
    """On another CPU they could change class within the tolerance and keep a good model from serving."""
    run = bench.run(replace(FIRST, precision="int8"))
    logits = np.load(run.predictions(VARIANT))["logits"]
    grey = np.full((1, 8, 8, 3), 128, dtype=np.uint8)
    grey[..., 1], grey[..., 2] = 102, 77  # The mean of each channel, about: all logits are nearly 0.
    with BACKENDS["null"].session(Artifact(Path(), FIRST.info), FIRST.runtime) as session:
        logits[3] = session.infer(normalize(grey, CONTRACT))
    np.savez(run.predictions(VARIANT), logits=logits)
    np.savez(run.path / "golden.npz", pixels=np.concatenate([photos()[[1]], grey]), indices=[1, 3])
    manifest = bench.promote_run(run).bundle.manifest
    assert manifest.golden.images == 1
    assert manifest.golden.atol == pytest.approx(2e-2 * np.abs(logits[1]).max())


def test_a_damaged_current_version_does_not_stop_the_promotion_that_replaces_it(bench: Bench) -> None:
    first = bench.promote(FIRST).bundle
    for path in first.folder.iterdir():
        path.chmod(0o644)
    (first.folder / "model.bin").write_bytes(b"wEights")
    assert bench.promote(FIRST).version == "1.0.1"  # The same model anew: its golden images still tell.
    (first.folder / "golden.npz").write_bytes(b"")
    bench.registry.point("leaf", "canary", "1.0.1", reason="keep", expected=0)
    second = bench.registry.bundle("leaf", "1.0.1").folder / "manifest.json"
    second.chmod(0o644)
    second.write_text("{}")
    done = bench.promote(FIRST)
    assert done.version == "2.0.0"
    assert "it cannot be compared with 1.0.1" in done.why


class Slower(Registry):
    """A registry in which something else happens just before a publication."""

    def __init__(self, root: Path, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self.meanwhile = meanwhile

    def publish(self, *arguments: Any) -> Any:
        self.meanwhile()
        return super().publish(*arguments)


def test_a_promotion_overtaken_by_a_rollback_publishes_but_does_not_move_the_alias(released: Bench) -> None:
    released.promote(replace(FIRST, data=b"two"))
    plain = released.registry
    released.registry = Slower(plain.root, lambda: plain.rollback("leaf", "production"))
    with pytest.raises(Refused, match=r"leaf 1\.0\.2 is published, but `production` moved to 1\.0\.0"):
        released.promote(replace(FIRST, data=b"three"))
    assert released.production == "1.0.0"
    assert plain.verify() == []


# A real model, opened by a real runtime.


def averaging(weights: np.ndarray, *, note: str = "", external: bool = False) -> bytes:
    """Channel means times a (3, classes) matrix, as ONNX."""
    onnx = pytest.importorskip("onnx", reason="making the tiny model needs onnx")
    pytest.importorskip("onnxruntime", reason="opening the tiny model needs onnxruntime")
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["m"]),
        onnx.helper.make_node("Flatten", ["m"], ["f"]),
        onnx.helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    model = onnx_model(nodes, {"w": weights}, ("x", ["n", 3, 8, 8]), ("y", ["n", 3]), doc=note)
    if external:
        (tensor,) = model.graph.initializer
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "weights.bin"
    data: bytes = model.SerializeToString()
    return data


WEIGHTS = np.array([[2.0, 0.0, -2.0], [0.0, 1.0, 0.0], [-2.0, 0.0, 2.0]])


def test_a_real_model_is_numbered_by_its_outputs(bench: Bench) -> None:
    real = Model(format="onnx", precision="fp32", data=averaging(WEIGHTS))
    assert bench.promote(real).version == "1.0.0"
    encoded_again = replace(real, data=averaging(WEIGHTS, note="optimised"))
    assert bench.promote(encoded_again).version == "1.0.1"
    rounded = replace(real, data=averaging(WEIGHTS * 1.05), precision="int8")
    done = bench.promote(rounded)
    assert done.version == "1.1.0"
    assert "its predictions differ from 1.0.1's: the logits differ by up to" in done.why
    assert [bench.registry.rollback("leaf", "production").version for _ in range(2)] == ["1.0.1", "1.0.0"]
    assert bench.registry.verify() == []


def test_a_program_for_devices_is_published_under_another_alias_than_servers_follow(bench: Bench) -> None:
    program = Model(format="pte")
    with pytest.raises(Refused) as caught:
        bench.promote(program)
    assert "no server opens unasked" in caught.value.message
    assert bench.registry.names() == []
    assert bench.promote(program, alias="android").version == "1.0.0"


def test_a_model_whose_weights_lie_in_a_second_file_is_not_published(bench: Bench) -> None:
    data = averaging(WEIGHTS, external=True)
    run = bench.run(Model(format="onnx", data=data, logits=np.ones((6, 3), dtype=np.float32)))
    (model,) = bench.cache.root.rglob("model.onnx")
    (model.parent / "weights.bin").write_bytes(WEIGHTS.astype(np.float32).tobytes())
    with pytest.raises(Refused, match="was not published"):
        bench.promote_run(run)
    assert bench.registry.names() == []


def test_a_promotion_that_demands_a_shadow_result_says_at_each_step_what_is_missing(bench: Bench) -> None:
    demand = Demand(bench.results, 0.99)
    second = replace(FIRST, data=b"other weights", checkpoint="checkpoint-b")
    with pytest.raises(Refused, match="`production` of leaf does not exist yet") as caught:
        bench.promote(FIRST, shadow=demand)
    assert caught.value.hint == "promote the first version without --require-shadow"
    bench.promote(FIRST)

    with pytest.raises(Refused, match=r"can have run it in the shadow of 1\.0\.0") as caught:
        bench.promote(second, shadow=demand)
    assert "krishi-bench promote --alias candidate" in (caught.value.hint or "")
    candidate = bench.promote(second, alias="candidate").bundle

    with pytest.raises(Refused, match=r"no shadow result compares leaf 1\.1\.0 with 1\.0\.0") as caught:
        bench.promote(second, shadow=demand)
    assert caught.value.hint is not None
    assert "serve --shadow 1.1.0" in caught.value.hint
    found = ShadowResult(
        name="leaf",
        version="1.0.0",
        shadow_version="1.1.0",
        shadow_digest=candidate.digest,
        requests=1000,
        agree=990,
        at=datetime.now(UTC),
    )
    write(bench.results, found)
    with pytest.raises(Refused, match=r"agreed with 1\.0\.0 on 990 of 1,000 requests"):
        bench.promote(second, shadow=demand)
    assert bench.production == "1.0.0"

    write(bench.results, found.model_copy(update={"agree": 999}))
    done = bench.promote(second, shadow=demand)
    assert (done.version, done.previous, bench.production) == ("1.1.0", "1.0.0", "1.1.0")
    assert bench.promote(second, shadow=demand).unchanged


def test_an_alias_whose_version_is_not_there_is_told(bench: Bench) -> None:
    bench.promote(FIRST)
    assert alias_faults(bench.registry) == []
    aliases = bench.registry.root / "leaf" / "aliases.json"
    aliases.write_text(aliases.read_text().replace('"1.0.0"', '"1.0.7"'))
    (told,) = alias_faults(bench.registry)
    assert told.startswith("leaf: `production` points at 1.0.7, which is not there")


def test_class_maps_are_published_where_they_are_asked_for(bench: Bench) -> None:
    real = Model(format="onnx", precision="fp32", data=averaging(WEIGHTS))
    assert bench.promote(real).bundle.class_maps is None
    done = bench.promote(real, explain=True)
    assert (done.version, done.previous) == ("1.0.1", "1.0.0"), "the same answers, and more to see"
    how = done.bundle.manifest.explanation
    assert how is not None and how.maps is not None
    assert (how.method, how.maps.grid) == ("class-activation-map", (8, 8))
    assert (
        promotion(done).splitlines()[-1].startswith("answers are explained by class-activation-map: its head")
    )
    done.bundle.verify()
    maps = done.bundle.class_maps
    assert maps is not None
    with BACKENDS["onnxruntime"].session(maps, real.runtime) as session:
        assert session.infer(normalize(photos(), CONTRACT)).shape == (6, 3 + 3 * 64)
    assert bench.promote(real, explain=True).unchanged
    assert bench.promote(real).unchanged
    bench.registry.rollback("leaf", "production")
    assert (bench.promote(real, explain=True).version, bench.production) == ("1.0.1", "1.0.1")


def test_a_model_that_has_no_class_maps_is_published_with_the_reason(bench: Bench) -> None:
    how = bench.promote(FIRST, explain=True).bundle.manifest.explanation
    assert how is not None and (how.method, how.maps) == ("occlusion", None)
    assert (
        "they are made for onnxruntime and openvino on the cpu, and this model runs in null on cpu" in how.why
    )
