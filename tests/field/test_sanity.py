"""The sanity look: what is wrong with a network or its photos is said, and what is right is left alone."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from serve.engine.model import load_model
from serve.engine.predict_job import Routing, ServedModel, classify
from serve.metrics import Meter, Metrics
from tests.builders import coloured_photos, onnx_model, run_info, trial
from workbench.backends.artifact import Artifact
from workbench.errors import Refused
from workbench.measure.latency import Plan
from workbench.model.graph.onnx_file import artifact_info
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Dataset, Images
from workbench.photos.overlap import OtherPart, Overlap, PhotoPair, Separation
from workbench.registry.promotion import publish
from workbench.report import render
from workbench.report.remarks import ORDERS, SAYS, sentence
from workbench.report.verdict import shortfalls
from workbench.results.records import RunInfo
from workbench.results.remarks import Remark
from workbench.results.verdict import compare
from workbench.run import pipeline
from workbench.run.sanity.answers import of_answers, output_kind
from workbench.run.sanity.class_order import known_orders
from workbench.run.sanity.inputs import (
    of_inputs,
    of_stated,
    of_tried,
    outputs_of,
    repeat,
    try_inputs,
    unstable,
)
from workbench.run.sanity.photos import of_overlaps, of_photos
from workbench.workspace.workspace import find

Floats = NDArray[np.float32]
NUMBERED = tuple(f"class_{number}" for number in range(1, 13))


def labels_of(classes: int, each: int) -> NDArray[np.int64]:
    return np.repeat(np.arange(classes), each)


def logits_for(
    labels: NDArray[np.int64], classes: int, accuracy: float = 0.95, order: Any = None, seed: int = 0
) -> Floats:
    """Logits of a network that is right so often; order: the output it gives for each class."""
    rng = np.random.default_rng(seed)
    answers = np.where(rng.random(len(labels)) < accuracy, labels, rng.integers(0, classes, len(labels)))
    answers = answers if order is None else np.asarray(order)[answers]
    logits = rng.normal(0, 1, (len(labels), classes))
    logits[np.arange(len(labels)), answers] += 6
    return logits.astype(np.float32)


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def found(logits: Floats, labels: NDArray[np.int64], names: Any = None) -> dict[str, Remark]:
    """The remarks by kind; every one of them can be said."""
    names = names or [f"c{number:03}" for number in range(logits.shape[1])]
    remarks = of_answers(logits, labels, names)
    assert all(":" in sentence(remark) for remark in remarks)
    return {remark.kind: remark for remark in remarks}


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.97])
@pytest.mark.parametrize(
    ("classes", "each"), [(2, 100), (2, 4), (2, 1), (4, 1), (4, 3), (12, 1), (12, 40), (38, 5)]
)
def test_of_an_ordinary_network_nothing_is_said(classes: int, each: int, accuracy: float) -> None:
    labels = labels_of(classes, each)
    if classes == 2 and each < 10:
        accuracy = 1.0  # by chance all of so few could be wrong
    assert found(logits_for(labels, classes, accuracy), labels) == {}


def test_of_too_few_photos_nothing_is_said_even_where_none_is_right() -> None:
    labels = labels_of(4, 1)
    assert found(logits_for(labels, 4, order=[1, 2, 3, 0]), labels) == {}


@pytest.mark.parametrize(("classes", "each"), [(2, 30), (4, 20), (12, 10)])
def test_a_baseline_at_chance_is_grave(classes: int, each: int) -> None:
    labels = labels_of(classes, each)
    assert found(logits_for(labels, classes, 0.0), labels)["near_chance"].gravity == "grave"


def test_no_better_than_the_most_frequent_class_is_said_of_it() -> None:
    labels = np.repeat([0, 1, 2], [80, 10, 10])
    logits = logits_for(labels, 3, 1.0)
    logits[:70, 0] += 20
    logits[70:, 1] += 20
    remark = found(logits, labels)["most_frequent"]
    assert (remark.names, remark.figures["frequent"]) == (("c000",), 0.8)


@pytest.mark.parametrize("classes", [3, 4, 12])
@pytest.mark.parametrize("form", ["reversed", "next", "previous"])
def test_names_in_a_usual_wrong_order_are_recognised(classes: int, form: str) -> None:
    labels = labels_of(classes, 15)
    orders = {"reversed": np.arange(classes)[::-1], "next": np.roll(np.arange(classes), -1)}
    order = orders.get(form, np.roll(np.arange(classes), 1))
    remark = found(logits_for(labels, classes, order=order), labels)["class_order"]
    assert (remark.gravity, remark.form) == ("grave", form)
    assert ORDERS[form] in sentence(remark)


def test_names_by_number_and_outputs_by_letter_are_told_apart_from_the_reverse() -> None:
    labels = labels_of(12, 5)
    by_letter = [sorted(NUMBERED).index(name) for name in NUMBERED]
    remark = found(logits_for(labels, 12, order=by_letter), labels, NUMBERED)["class_order"]
    assert (remark.form, "class_2 -> class_5" in remark.names) == ("alphabetical", True)
    names = sorted(NUMBERED)
    by_number = [NUMBERED.index(name) for name in names]
    assert known_orders(names)["numeric"].tolist() == by_number
    remark = found(logits_for(labels, 12, order=by_number), labels, names)["class_order"]
    assert remark.form == "numeric"


@pytest.mark.parametrize("swapped", [(3, 7), (0, 1), (10, 11)])
def test_two_classes_that_changed_places_are_named_and_no_other(swapped: tuple[int, int]) -> None:
    order = np.arange(12)
    order[list(swapped)] = swapped[::-1]
    labels = labels_of(12, 20)
    remark = found(logits_for(labels, 12, order=order), labels)["class_order"]
    a, b = (f"c{number:03}" for number in swapped)
    assert sorted(remark.names) == [f"{a} -> {b}", f"{b} -> {a}"]
    assert remark.figures["relabelled"] > 0.9 > remark.figures["accuracy"]


def test_two_classes_are_enough_for_a_wrong_order() -> None:
    labels = labels_of(2, 20)
    assert found(logits_for(labels, 2, order=[1, 0]), labels)["class_order"].gravity == "grave"


def test_a_class_that_is_taken_for_another_is_no_wrong_order() -> None:
    labels = labels_of(4, 30)
    logits = logits_for(labels, 4)
    logits[labels == 2, 3] += 20
    assert set(found(logits, labels)) <= {"never_predicted"}


def test_softmax_is_recognised_on_every_probe_and_logits_are_not_taken_for_it() -> None:
    labels = labels_of(4, 20)
    logits = logits_for(labels, 4)
    shares = softmax(logits)
    for outputs, kind, form in (
        (shares, "probabilities", "probabilities"),
        (100 * shares, "probabilities", "percentages"),
        (np.rint(shares * 256) / 256, "probabilities", "probabilities"),
        (np.log(shares), "logits", "log_probabilities"),
        (1 / (1 + np.exp(3 - logits)), "logits", "sigmoid"),
    ):
        remark = found(outputs.astype(np.float32), labels)["outputs"]
        assert (output_kind(outputs), remark.form) == (kind, form)
        assert remark.gravity == ("grave" if form == "sigmoid" else "note")
    spoilt = shares.copy()
    spoilt[7] *= 2
    for outputs in (logits, np.abs(logits), -np.abs(logits), spoilt, np.zeros_like(logits)):
        assert "outputs" not in found(outputs, labels)
        assert output_kind(outputs) == "logits"


def test_always_the_same_class_is_grave_and_a_class_never_given_is_noted() -> None:
    labels = labels_of(4, 10)
    assert found(np.eye(4, dtype=np.float32)[np.full(40, 2)], labels)["one_class"].names == ("c002",)
    logits = logits_for(labels, 4)
    logits[:, 1] -= 100
    assert found(logits, labels)["never_predicted"].names == ("c001",)
    assert "never_predicted" not in found(logits[::5], labels[::5])


def test_confidence_that_says_nothing_is_noted_and_an_easy_set_is_not() -> None:
    labels = labels_of(4, 20)
    assert found(100 * logits_for(labels, 4, 0.7), labels)["confidence"].form == "sure"
    assert "confidence" not in found(100 * logits_for(labels, 4, 1.0), labels)
    assert found(logits_for(labels, 4) / 50, labels)["confidence"].form == "uniform"


def test_outputs_that_are_not_finite_are_all_that_is_said() -> None:
    labels = labels_of(4, 5)
    logits = logits_for(labels, 4)
    logits[3, 1], logits[4, 0] = np.nan, np.inf
    assert found(logits, labels)["not_finite"].figures == {"images": 2, "total": 20}


PIXELS = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("mean", "std", "form"),
    [
        (0.45, 0.225, None),
        (0.5, 0.5, None),
        (0.0, 1.0, None),
        (0.45, 1 / 255, "wide"),
        (0.0, 255.0, "narrow"),
        (123.7, 58.4, "narrow"),
        (123.7, 0.225, "far"),
    ],
)
def test_inputs_of_no_usual_normalisation_are_grave_only_where_the_accuracy_is_low(
    mean: float, std: float, form: str | None
) -> None:
    contract = Preprocess(resize=16, crop=16, mean=(mean,) * 3, std=(std,) * 3)
    good, bad = of_inputs(PIXELS, contract, low=False), of_inputs(PIXELS, contract, low=True)
    assert [(remark.form, remark.gravity) for remark in good] == ([(form, "note")] if form else [])
    assert [remark.form for remark in bad if remark.gravity == "grave"] == ([form] if form else [])
    assert bool(of_stated((mean,) * 3, (std,) * 3)) == (form in ("narrow", "far"))
    assert all("preprocess" in sentence(r) or "`mean`" in sentence(r) for r in [*good, *bad])


def test_a_normalisation_that_is_surely_better_is_named() -> None:
    (remark,) = of_tried({"imagenet": 60, "half": 20}, 16, 64)
    assert (remark.names, remark.gravity) == (("imagenet",), "grave")
    assert of_tried({"imagenet": 20}, 16, 64) == []
    assert of_tried({}, 16, 64) == []


def test_answers_that_change_are_told_apart_by_what_changes_them() -> None:
    assert [(r.form, r.gravity) for r in unstable(0.3, 0.3)] == [("again", "grave")]
    assert [(r.form, r.gravity) for r in unstable(0.0, 0.3)] == [("batch", "grave")]
    assert [(r.form, r.gravity) for r in unstable(0.0, 0.02)] == [("batch", "note")]
    assert unstable(1e-6, 1e-4) == ()


def dataset(labels: list[int], contents: list[str], folder: str = "val") -> Dataset:
    paths = tuple(Path(f"{folder}/c{label}/{number}.jpg") for number, label in enumerate(labels))
    return Dataset(paths, tuple(labels), tuple(contents), "digest")


APART = Separation()


def shared(part: OtherPart, *, allowed: bool = False) -> Separation:
    pair = PhotoPair(
        photo="/val/c0/1.jpg", photo_sha256="b", other="/calib/c1/7.jpg", other_sha256="b", bits=None
    )
    return Separation(parts=(Overlap(part=part, photos=2, same=1, alike=3, pairs=(pair,)),), allowed=allowed)


def test_photos_of_the_training_are_grave_unless_allowed() -> None:
    (remark,) = of_overlaps(shared("train"), 40)
    assert (remark.kind, remark.form, remark.gravity) == ("shared_photos", "train", "grave")
    assert sentence(remark) == (
        "4 of 40 validation photos are in data.train too, 1 by content and 3 by look (c0/1.jpg is c1/7.jpg "
        "and 3 more): take them out of one; `data.allow_overlap: true` certifies all the same"
    )
    (allowed,) = of_overlaps(shared("train", allowed=True), 40)
    assert allowed.gravity == "note"
    assert sentence(allowed).endswith("certified all the same, as `data.allow_overlap` says")
    assert of_overlaps(APART, 40) == []


def test_classes_without_photos_and_photos_in_two_places_are_named() -> None:
    names = ("c0", "c1", "c2")
    validation = dataset([0, 0, 1, 1], ["a", "b", "c", "a"])
    calibration = dataset([0, 0], ["x", "b"], "calib")
    remarks = of_photos(validation, calibration, shared("calibration"), names, 0.9, validation.contents)
    assert [(r.kind, r.form, r.gravity) for r in remarks] == [
        ("shared_photos", "calibration", "note"),
        ("no_photos", "calibration", "note"),
        ("contradictory", None, "note"),
    ]
    assert [r.names for r in remarks] == [
        ("c0/1.jpg is c1/7.jpg",),
        ("c1", "c2"),
        ("val/c0/0.jpg", "val/c1/3.jpg"),
    ]
    assert sentence(remarks[1]).startswith("2 classes of 3 without a photo in data.calibration (c1, c2)")


def test_many_copies_are_noted_where_everything_is_right() -> None:
    validation = dataset([0] * 10 + [1] * 10, [*("abcdeabcde"), *("fghijfghij")])
    (remark,) = of_photos(validation, None, APART, ("c0", "c1"), 1.0, validation.contents)
    assert (remark.kind, remark.figures["images"]) == ("copies", 10)
    assert of_photos(validation, None, APART, ("c0", "c1"), 0.9, validation.contents) == []


def test_photos_in_two_classes_are_grave_where_they_are_many() -> None:
    validation = dataset([0] * 10 + [1] * 10, [*("abcdefghij"), *("abcdefghij")])
    (remark,) = of_photos(validation, None, APART, ("c0", "c1"), 0.5, validation.contents)
    assert (remark.kind, remark.gravity) == ("contradictory", "grave")


GRAVE = Remark(
    kind="near_chance", gravity="grave", figures={"right": 3, "images": 40, "chance": 0.25, "frequent": 0.25}
)


def test_grave_remarks_stand_above_the_winner_and_runs_without_any_still_load() -> None:
    info = run_info(remarks=(GRAVE, Remark(kind="outputs", gravity="note", form="probabilities")))
    text = render("table", [compare(info, [trial("baseline")])])
    assert text.index("no more than guessing") < text.index("Winner") < text.index("ends in softmax")
    (remark, _) = json.loads(render("json", [compare(info, [trial("baseline")])]))["remarks"]
    assert (remark["kind"], remark["gravity"], remark["figures"]["right"]) == ("near_chance", "grave", 3)
    before = info.model_dump(mode="json", exclude={"remarks", "outputs"})
    assert (RunInfo.model_validate(before).remarks, RunInfo.model_validate(before).outputs) == ((), "logits")


def test_every_form_can_be_said() -> None:
    assert all("{" not in text.format_map(Anything()) for text in SAYS.values())


class Anything(dict[str, Any]):
    def __missing__(self, key: str) -> Any:
        return "names" if key == "names" else 0.5


def colour_network(folder: Path, photos: Images, mean: float, std: float, *more: Any, last: str) -> Artifact:
    """It gives the class whose colour is nearest. more: nodes before the output `last`."""
    labels = np.asarray(photos.labels)
    colours = np.stack([photos.pixels()[labels == k].mean(axis=(0, 1, 2)) for k in range(4)]) / 255
    colours = (colours - mean) / std
    node, side = onnx.helper.make_node, photos.contract.crop
    weights = {"w": 2 * colours, "b": -(colours**2).sum(axis=1)}
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w", "b"], ["g"], transB=1),
        *more,
    ]
    model = onnx_model(nodes, weights, ("x", ["n", 3, side, side]), (last, ["n", 4]))
    onnx.save(model, folder / "model.onnx")
    return Artifact(folder, artifact_info(folder / "model.onnx"))


def test_the_normalisation_of_the_training_is_found_by_trying(tmp_path: Path) -> None:
    contract = Preprocess(resize=8, crop=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    photos = coloured_photos(tmp_path, 64, 4, contract, 10)
    rows = np.arange(64)
    baseline = colour_network(tmp_path, photos, 0.0, 1 / 255, last="g")
    right = try_inputs(baseline, photos, rows)
    stated = int((outputs_of(baseline, photos, rows).argmax(axis=1) == photos.labels).sum())
    (remark,) = of_tried(right, stated, 64)
    assert "values of 0 to 255" in remark.names[0]
    assert "give `preprocess` as the network was trained" in sentence(remark)


def test_noise_and_dependence_on_the_batch_are_found_by_asking_again(tmp_path: Path) -> None:
    contract = Preprocess(resize=8, crop=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    photos, node = coloured_photos(tmp_path, 16, 4, contract, 10), onnx.helper.make_node
    noisy = [node("RandomNormalLike", ["g"], ["r"]), node("Add", ["g", "r"], ["y"])]
    centred = [node("ReduceMean", ["g"], ["m"], axes=[0]), node("Sub", ["g", "m"], ["y"])]
    for more, forms in ((noisy, ["again"]), (centred, ["batch"]), ([node("Relu", ["g"], ["y"])], [])):
        baseline = colour_network(tmp_path, photos, 0.0, 1.0, *more, last="y")
        changes = repeat(baseline, photos, np.arange(0, 16, 2))
        assert [remark.form for remark in unstable(*changes)] == forms


# One real run: names in another order than the outputs of a network that ends in softmax.

COLOURS = np.array([(60, 150, 50), (170, 100, 40), (90, 80, 160), (200, 190, 60)])
NAMES = ("healthy", "rust", "blight", "mold")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root, rng = tmp_path_factory.mktemp("wrong_order"), np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (root / "val" / name).mkdir(parents=True)
        for number in range(10):
            pixels = COLOURS[label] + rng.normal(0, 15, (16, 16, 3))
            photo = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            photo.save(root / "val" / name / f"{number}.png")
    node, colours = onnx.helper.make_node, COLOURS / 255
    # The nearest colour, in the order of the sorted names.
    colours = colours[np.argsort(NAMES)]
    weights = {"w": 200 * colours, "b": -100 * (colours**2).sum(axis=1)}
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w", "b"], ["g"], transB=1),
        node("Softmax", ["g"], ["y"]),
    ]
    onnx.save(onnx_model(nodes, weights, ("x", ["n", 3, 16, 16]), ("y", ["n", 4])), root / "student.onnx")
    (root / "labels.json").write_text(json.dumps(NAMES))
    (root / "krishi.yaml").write_text(
        "model: {checkpoint: student.onnx, class_names: labels.json}\ndata: {validation: val}\nname: leaf\n"
        "preprocess: {resize: 16, crop: 16, mean: [0, 0, 0], std: [1, 1, 1]}\n"
    )
    return find(root / "krishi.yaml", root)


def promoted(workspace: Any, force: str | None) -> Any:
    return publish(
        workspace,
        run_id=None,
        variant="baseline",
        bump=None,
        version=None,
        alias="production",
        force=force,
        describe=shortfalls,
    )


@pytest.mark.integration
def test_a_network_with_its_names_in_the_wrong_order_is_not_promoted_without_a_reason(
    workspace: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KRISHI_CACHE", str(tmp_path / "cache"))
    shown: list[Remark] = []
    plan = Plan(rounds=1, least_rounds=1, turns=2, least_turns=2, budget_s=1)
    options = pipeline.Options(plan=plan, show_remarks=shown.extend)
    comparison = pipeline.run_workspace(workspace, [], options, lambda _: None)
    assert [(r.kind, r.form) for r in shown] == [
        ("class_order", "alphabetical"),
        ("near_chance", "below"),
        ("outputs", "probabilities"),
    ]
    assert comparison.info.remarks == tuple(shown)
    with pytest.raises(Refused, match="trained with the names sorted"):
        promoted(workspace, None)

    bundle = promoted(workspace, "the field trial needs it").bundle
    manifest = bundle.manifest
    assert manifest.provenance.forced.startswith("the field trial needs it; class names in another order")
    assert (manifest.outputs, manifest.remarks) == ("probabilities", comparison.info.remarks)
    card = (bundle.folder / "MODEL_CARD.md").read_text()
    assert "gives 4 probabilities an image" in card
    assert "trained with the names sorted" in card

    with closing(load_model(bundle)) as model:
        served = ServedModel(model, Meter(Metrics(), bundle, "primary"))
        photo = (workspace.root / "val" / "rust" / "0.png").read_bytes()
        answer = classify(Routing(served), lambda: photo)
        raw = model.infer(model.batch(photo))[0]
        assert answer.confidence == pytest.approx(raw.max(), rel=1e-5)
        assert answer.confidence > 0.9
        assert answer.probabilities.sum() == pytest.approx(1)
