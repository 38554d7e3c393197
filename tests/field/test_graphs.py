"""Graphs that people bring, and conversions that go wrong: each works, or says in a line why not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

torch = pytest.importorskip("torch", reason="some networks are exported from torch")
onnx = pytest.importorskip("onnx", reason="the graphs are ONNX")
ort = pytest.importorskip("onnxruntime", reason="they are run in onnxruntime")

from torch import nn  # noqa: E402

from tests.builders import coloured_photos, error_of, onnx_model, run_info, trial  # noqa: E402
from workbench.backends import OpenvinoRuntime, OrtRuntime, Runtime, backend_of  # noqa: E402
from workbench.backends.artifact import Artifact  # noqa: E402
from workbench.measure.agreement import disagreement  # noqa: E402
from workbench.measure.records import BASELINE  # noqa: E402
from workbench.model.export.export import adopt_onnx, export_onnx  # noqa: E402
from workbench.model.export.settings import Export  # noqa: E402
from workbench.model.graph.facts import facts_of  # noqa: E402
from workbench.model.graph.first_difference import first_difference  # noqa: E402
from workbench.model.graph.onnx_file import artifact_info, describe, load, logits_of, noise  # noqa: E402
from workbench.model.graph.training_mode import training_layers  # noqa: E402
from workbench.model.source.model_source import ModelSource, inspect, source_digest  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.dataset import Images  # noqa: E402
from workbench.photos.preprocess import normalize  # noqa: E402
from workbench.report.verdict import plain_export  # noqa: E402
from workbench.results.verdict import compare  # noqa: E402
from workbench.run import build  # noqa: E402
from workbench.run.advice.advise import advise  # noqa: E402
from workbench.run.conversion_check import exported_logits, hold_answers, hold_runtime  # noqa: E402
from workbench.steps import STEPS, Photos, apply  # noqa: E402
from workbench.steps.verify import check  # noqa: E402
from workbench.system import machine  # noqa: E402
from workbench.workspace.recipe import Variant  # noqa: E402

pytestmark = pytest.mark.integration

SIDE, CLASSES = 16, 4
CONTRACT = Preprocess(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
RNG = np.random.default_rng(0)
W48, W84, BIAS = RNG.normal(size=(4, 8)), RNG.normal(size=(8, 4)), RNG.normal(size=4)
BODY = {"w0": RNG.normal(size=(8, 3, 3, 3)), "b0": 0.1 * RNG.normal(size=8)}
node = onnx.helper.make_node
FLAT = node("Flatten", ["p"], ["f"], name="flat")
GEMM = node("Gemm", ["f", "w", "b"], ["y"], name="fc", transB=1)


def graph(
    head: Sequence[Any] = (FLAT, GEMM), weights: Mapping[str, ArrayLike] | None = None, **more: Any
) -> Any:
    """A convolution, ReLU and a pool `p`, then `head` to the logits `y`. more: of `onnx_model`."""
    nodes = [
        node("Conv", [more.pop("feed", "x"), "w0", "b0"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["r"], name="relu"),
        node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        *head,
    ]
    stored = {**BODY, **({"w": W48, "b": BIAS} if weights is None else weights)}
    images, logits = more.pop("images", ["n", 3, SIDE, SIDE]), more.pop("logits", ["n", CLASSES])
    return onnx_model([*more.pop("first", ()), *nodes], stored, ("x", images), ("y", logits), **more)


def saved(model: Any, path: Path) -> Path:
    onnx.save(model, path)
    return path


def weights_as_inputs(model: Any) -> None:
    """As files of the first years list them."""
    for weight in model.graph.initializer:
        listed = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        model.graph.input.append(listed)


def step(use: str, **fields: Any) -> Any:
    defaults = {"static_int8": {"calibration": {"images": 8}}, "nncf_int8": {"images": 8}}
    return STEPS[use].model_validate({"use": use, **defaults.get(use, {}), **fields})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return coloured_photos(tmp_path_factory.mktemp("photos"), 24, CLASSES, CONTRACT, 20)


@pytest.fixture(scope="module")
def samples(photos: Images) -> NDArray[np.float32]:
    return normalize(photos.pixels()[::3], CONTRACT)


# Conversions


NETWORK = """
import torch
from torch import nn


def create():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), {pool}, nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(4),
    ).eval()


def built():
    network = create()
    network(torch.zeros(1, 3, 16, 16))
    return network
"""
CEILING = "nn.AvgPool2d(3, 2, 1, ceil_mode=True)"


class Bench:
    """Builds variants of one network, and holds them to it."""

    def __init__(self, folder: Path, photos: Images, pool: str) -> None:
        (folder / "net.py").write_text(NETWORK.format(pool=pool))
        source = ModelSource(factory=f"{folder}/net.py:built")
        digest = source_digest(source)
        self.job = build.Job(source, digest, CLASSES, CONTRACT, photos, photos, folder / "cache", SIDE)
        self.folder = folder

    def held(self, runtime: Runtime, *steps: Any, own: bool = False) -> None:
        """Raises as a run does. own: with a preprocessing that the reference does not have."""
        variant = Variant("v", "v", "", Export(exporter="torchscript", opset=17), steps, runtime)
        _, artifact = build.build(self.job, variant)
        with backend_of(runtime).session(artifact, runtime) as session:
            logits = np.concatenate([session.infer(photo) for photo in self.job.photos.batches(1)])
        reference = exported_logits(self.job, variant, range(len(logits)))
        paths = [Path(f"val/{row}.jpg") for row in range(len(logits))]
        log, given = self.folder / "log.txt", None if own else reference
        hold_runtime(self.job, variant, paths, log)
        hold_answers(self.job, variant, artifact, logits, given, paths, log)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory, photos: Images) -> Bench:
    """OpenVINO divides the windows at the border by another number of pixels."""
    return Bench(tmp_path_factory.mktemp("wrong"), photos, CEILING)


@pytest.mark.parametrize(
    ("runtime", "steps"),
    [
        (OpenvinoRuntime(), ()),
        (OpenvinoRuntime(precision="bf16"), ()),
        (OpenvinoRuntime(), (step("static_int8"),)),
    ],
    ids=["f32", "bf16", "int8"],
)
def test_a_runtime_that_computes_something_else_fails_and_names_the_node(
    wrong: Bench, runtime: OpenvinoRuntime, steps: tuple[Any, ...]
) -> None:
    if (reason := backend_of(runtime).unavailable(runtime)) is not None:
        pytest.skip(reason)
    error = error_of(lambda: wrong.held(runtime, *steps))
    node = "`/2/AveragePool` (AveragePool)"
    assert error.message.startswith(
        f"openvino computes {node} otherwise than onnxruntime of the same file: a logit is off by "
    )
    assert "rounding explains" in error.message
    assert ", on val/" in error.message


def test_the_runtime_it_is_compared_with_passes_on_the_same_file(wrong: Bench) -> None:
    wrong.held(OrtRuntime())
    wrong.held(OrtRuntime(), step("static_int8"), own=True)


def test_a_right_conversion_passes_in_every_precision(tmp_path: Path, photos: Images) -> None:
    bench = Bench(tmp_path, photos, "nn.MaxPool2d(2)")
    for runtime in (OpenvinoRuntime(), OpenvinoRuntime(precision="bf16")):
        if backend_of(runtime).unavailable(runtime) is None:
            bench.held(runtime)
            bench.held(runtime, step("fp16"))
    bench.held(OpenvinoRuntime(), step("nncf_int8"), own=True)


def test_logits_of_another_network_are_told_from_coarse_ones() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(200, 6)).astype(np.float32)
    other = rng.normal(size=(200, 6)).astype(np.float32)
    assert disagreement(logits, logits * (1 + 1e-6)) is None
    assert disagreement(1e-3 * logits, 1e-3 * logits + 1e-6) is None  # the rounding of what was added up
    off = disagreement(logits, logits + np.eye(200, 6, dtype=np.float32) * 0.1)
    assert off is not None and off.row in range(6)
    assert disagreement(logits, logits + 0.3 * other, "int8") is None
    assert disagreement(logits, logits + 0.3 * other, "fp16") is not None
    for unrelated in (other, -logits, np.roll(logits, 1, axis=1)):
        assert disagreement(logits, unrelated, "int8") is not None
    # A smaller error than the spread, and still the class of another network: it is off where it counts.
    alike = np.tile(np.linspace(0, 100, 6, dtype=np.float32), (200, 1))
    alike[:, -2:] = 90 + logits[:, :2]
    mixed = alike.copy()
    mixed[:, -2:] = 90 + other[:, :2]
    found = disagreement(alike, mixed, "int8")
    assert found is not None and "of 200 photos" in found.text
    assert disagreement(logits, np.full_like(logits, np.nan), "int8") is not None
    assert disagreement(logits, logits[:, :3]) is not None


def test_a_step_that_breaks_a_node_is_refused_with_that_node(tmp_path: Path, samples: NDArray[Any]) -> None:
    source = saved(graph(), tmp_path / "m.onnx")
    for broken, op in (("pool", "GlobalMaxPool"), ("relu", "Abs"), ("fc", None)):
        model = load(source)
        target = next(each for each in model.graph.node if each.name == broken)
        if op:
            target.op_type = op
        else:
            target.attribute.append(onnx.helper.make_attribute("alpha", 1.01))
        result = saved(model, tmp_path / "broken.onnx")
        error = error_of(lambda: check(step("simplify"), source, tmp_path / "broken.onnx", samples))
        assert error.message.endswith(f"the first node that differs is `{broken}` ({target.op_type})")
        assert not result.exists()


def test_the_first_difference_is_found_behind_branches() -> None:
    """Two branches from `r`; what differs is in the one that comes first in the file."""
    nodes = [
        node("Sigmoid", ["p"], ["s1"], name="bad"),
        node("Neg", ["s1"], ["s2"], name="after"),
        *(node("Relu", [f"q{n}" if n else "p"], [f"q{n + 1}"], name=f"good{n}") for n in range(9)),
        node("Add", ["s2", "q9"], ["m"], name="add"),
        node("Flatten", ["m"], ["y"], name="flat"),
    ]
    model = graph(nodes, {}, logits=["n", 8])
    asked: list[str] = []

    def differs(name: str) -> bool:
        asked.append(name)
        return name in ("s1", "s2", "m", "y")

    assert first_difference(model, differs) == "`bad` (Sigmoid)"
    assert len(asked) < 10 < len(model.graph.node)
    assert first_difference(model, lambda _: False) is None
    assert first_difference(model, differs, seconds=0) is None


# Forms of the last layer


def reshaped(name: str, given: str, to: str) -> Any:
    return node("Reshape", [given, f"{name}_shape"], [to], name=name)


FORMS: dict[str, tuple[list[Any], dict[str, ArrayLike]]] = {
    "bias (1, N)": ([FLAT, GEMM], {"w": W48, "b": BIAS[None]}),
    "scalar bias": ([FLAT, GEMM], {"w": W48, "b": np.float64(0.3)}),
    "bias (1,)": ([FLAT, GEMM], {"w": W48, "b": np.array([0.3])}),
    "alpha and beta": (
        [FLAT, node("Gemm", ["f", "w", "b"], ["y"], name="fc", alpha=0.5, beta=2.0)],
        {"w": W84, "b": BIAS[None]},
    ),
    "MatMul and Add (1, N)": (
        [FLAT, node("MatMul", ["f", "w"], ["m"]), node("Add", ["m", "b"], ["y"])],
        {"w": W84, "b": BIAS[None]},
    ),
    "the bias first": (
        [FLAT, node("MatMul", ["f", "w"], ["m"]), node("Add", ["b", "m"], ["y"])],
        {"w": W84, "b": BIAS},
    ),
    "the weights first": (
        [
            FLAT,
            node("Gemm", ["w", "f", "b"], ["m"], name="fc", transB=1),
            node("Transpose", ["m"], ["y"], perm=[1, 0]),
        ],
        {"w": W48, "b": BIAS[:, None]},
    ),
    "Conv 1x1": (
        [node("Conv", ["p", "w"], ["c"]), node("Add", ["c", "b"], ["d"]), reshaped("out", "d", "y")],
        {"w": W48[:, :, None, None], "b": BIAS.reshape(1, 4, 1, 1), "out_shape": np.array([-1, 4])},
    ),
    "Add after Reshape": (
        [
            reshaped("in", "p", "f"),
            node("MatMul", ["f", "w"], ["m"]),
            reshaped("out", "m", "n"),
            node("Add", ["n", "b"], ["y"]),
        ],
        {"w": W84, "b": BIAS, "in_shape": np.array([-1, 8]), "out_shape": np.array([-1, 4])},
    ),
    "an empty bias": ([FLAT, node("Gemm", ["f", "w", ""], ["y"], name="fc", transB=1)], {"w": W48}),
    "a bias of value_floats": (
        [FLAT, node("Constant", [], ["b"], value_floats=[0.1, 0.2, 0.3, 0.4]), GEMM],
        {"w": W48},
    ),
    "a shared layer": (
        [
            FLAT,
            node("Gemm", ["f", "w", "b"], ["g"], name="fc", transB=1),
            node("Gemm", ["f", "w", "b"], ["h"], name="again", transB=1),
            node("Add", ["g", "h"], ["y"]),
        ],
        {"w": W48, "b": BIAS[None]},
    ),
}
EVERY_STEP = [
    step("static_int8"),
    step("static_int8", bias_correction=True, equalize=True),
    step("static_int8", placement="tensorrt"),
    step("dynamic_int8", op_types=["Conv", "MatMul"]),
    step("fp16"),
    step("simplify"),
    step("optimize"),
    step("fixed_batch"),
    step("fold_preprocess"),
]


@pytest.mark.parametrize("form", FORMS)
def test_every_step_takes_every_form_of_the_last_layer(
    tmp_path: Path, photos: Images, samples: NDArray[Any], form: str
) -> None:
    source = saved(graph(*FORMS[form]), tmp_path / "m.onnx")
    for each in EVERY_STEP:
        apply(each, source, tmp_path / "out.onnx", Photos(CONTRACT, photos, None, samples))


@pytest.mark.parametrize("where", ["Constant nodes", "inputs too"])
def test_weights_may_be_nodes_or_inputs(
    tmp_path: Path, photos: Images, samples: NDArray[Any], where: str
) -> None:
    model = graph(weights={"w": W48, "b": BIAS[None]})
    stored = list(model.graph.initializer)
    if where == "inputs too":
        weights_as_inputs(model)
    else:
        del model.graph.initializer[:]
        for weight in stored:
            model.graph.node.insert(0, node("Constant", [], [weight.name], value=weight))
    source = saved(model, tmp_path / "m.onnx")
    for each in (*EVERY_STEP, step("nncf_int8")):
        apply(each, source, tmp_path / "out.onnx", Photos(CONTRACT, photos, None, samples))


def test_a_form_that_nncf_does_not_know_is_a_line_and_no_traceback(
    tmp_path: Path, photos: Images, samples: NDArray[Any]
) -> None:
    pytest.importorskip("nncf")
    source = saved(graph(*FORMS["the weights first"]), tmp_path / "m.onnx")
    with_nncf = step("nncf_int8")
    error = error_of(
        lambda: apply(with_nncf, source, tmp_path / "out.onnx", Photos(CONTRACT, photos, None, samples))
    )
    assert "NNCF cannot quantise this network" in error.message
    assert error.hint == "`static_int8` is another way to INT8"


# Files


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED", "ALL"])
def test_a_file_that_onnxruntime_optimised_for_a_processor_is_refused(tmp_path: Path, level: str) -> None:
    source, options = saved(graph(), tmp_path / "m.onnx"), ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "o.onnx"), 4
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    read = ModelSource(checkpoint=tmp_path / "o.onnx")
    if not {"com.microsoft.nchwc"} & {each.domain for each in load(tmp_path / "o.onnx").graph.node}:
        assert inspect(read).num_classes == CLASSES
        return
    error = error_of(lambda: inspect(read))
    assert "of com.microsoft.nchwc runs on its kind of processor alone" in error.message
    assert "as it was exported" in (error.hint or "")
    assert (
        error_of(lambda: adopt_onnx(tmp_path / "o.onnx", None, tmp_path / "c.onnx")).message == error.message
    )


@pytest.mark.parametrize(
    ("op", "domain", "attributes"),
    [
        ("EPContext", "com.microsoft", {"ep_cache_context": b"engine"}),
        ("Conv", "com.ms.internal.nhwc", {}),
        ("NhwcFusedConv", "com.microsoft", {}),
        ("QLinearConv", "com.microsoft", {"channels_last": 1}),
    ],
)
def test_other_operators_of_one_machine_are_refused_too(
    tmp_path: Path, op: str, domain: str, attributes: dict[str, Any]
) -> None:
    model = graph()
    model.graph.node[1].CopyFrom(node(op, ["a"], ["r"], domain=domain, **attributes))
    model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    source = ModelSource(checkpoint=saved(model, tmp_path / "m.onnx"))
    assert f"`{op}` of {domain}" in error_of(lambda: inspect(source)).message


def outside(folder: Path, name: str, location: str) -> Path:
    """The graph with all its weights in another file."""
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    path = folder / name
    onnx.save(graph(), path, save_as_external_data=True, location=location, size_threshold=0)
    return path


@pytest.mark.parametrize("location", ["m.onnx.data", "weights.bin", "deep/er/w.data"])
def test_weights_in_other_files_are_taken_along_and_digested(tmp_path: Path, location: str) -> None:
    path = outside(tmp_path, "net.onnx", location)
    source = ModelSource(checkpoint=path)
    assert inspect(source).num_classes == CLASSES
    adopt_onnx(path, None, tmp_path / "one.onnx")
    before = source_digest(source)
    data = bytearray((tmp_path / location).read_bytes())
    data[0] ^= 1
    (tmp_path / location).write_bytes(data)
    assert source_digest(source) != before
    (tmp_path / location).unlink()
    assert describe(tmp_path / "one.onnx").classes == CLASSES
    error = error_of(lambda: source_digest(source))
    assert error.message == f"{path} keeps weights in `{location}`, which is not in {tmp_path}"
    assert error.hint == "copy it there from where the model was exported to"


def test_weights_of_another_export_are_refused(tmp_path: Path) -> None:
    path = outside(tmp_path, "net.onnx", "w.bin")
    (tmp_path / "w.bin").write_bytes(b"short")
    assert "w.bin has 5 bytes" in error_of(lambda: inspect(ModelSource(checkpoint=path))).message
    (tmp_path / "w.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    told = error_of(lambda: inspect(ModelSource(checkpoint=path))).message
    assert told.startswith(f"model.checkpoint: {tmp_path}/w.bin is a Git LFS pointer")


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "a/../../w.bin"])
def test_weights_outside_the_folder_are_not_followed(tmp_path: Path, location: str) -> None:
    path = outside(tmp_path, "net.onnx", "w.bin")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    error = error_of(lambda: inspect(ModelSource(checkpoint=saved(model, path))))
    assert "outside its own folder" in error.message


def test_a_file_newer_than_onnxruntime_gives_both_numbers_and_what_to_do(tmp_path: Path) -> None:
    newer = graph()
    newer.ir_version = 99
    error = error_of(lambda: describe(saved(newer, tmp_path / "m.onnx")))
    assert "cannot open m.onnx: its IR version is 99, and onnxruntime " in error.message
    assert error.hint == "upgrade onnxruntime, or export it again with `opset_version=17`"
    newer = graph()
    newer.opset_import[0].version = 99
    error = error_of(lambda: describe(saved(newer, tmp_path / "m.onnx")))
    assert "its opset is 99, and onnxruntime " in error.message
    assert "upgrade onnxruntime, or export it again with `opset_version=" in (error.hint or "")


@pytest.mark.parametrize("imported", [True, False])
@pytest.mark.parametrize(
    ("domain", "remedy"),
    [
        ("my.company", "export it again with ONNX's own operators: no library of others is loaded"),
        ("com.microsoft", "upgrade onnxruntime, or export it again without it"),
    ],
)
def test_an_operator_of_a_domain_that_the_runtime_lacks_is_named_with_what_to_do(
    tmp_path: Path, domain: str, remedy: str, imported: bool
) -> None:
    model = graph()
    model.graph.node[1].CopyFrom(node("FancyRelu", ["a"], ["r"], domain=domain))
    if imported:
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    error = error_of(lambda: inspect(ModelSource(checkpoint=saved(model, tmp_path / "m.onnx"))))
    said = f"onnxruntime cannot open m.onnx: it has no operator `FancyRelu` of the domain `{domain}`"
    assert (error.message, error.hint) == (said, remedy)


TRAINING = {
    "dropout": (
        [node("Dropout", ["p", "ratio", "train"], ["d"], name="drop"), node("Flatten", ["d"], ["f"]), GEMM],
        {"ratio": np.float32(0.5), "train": np.array(True)},
        17,
    ),
    "batch norm": (
        [
            node("BatchNormalization", ["p", *"sbmv"], ["d", "m2", "v2"], name="norm", training_mode=1),
            node("Flatten", ["d"], ["f"]),
            GEMM,
        ],
        {name: np.ones(8, np.float32) for name in "sbmv"},
        17,
    ),
    "batch norm of opset 13": (
        [
            node("BatchNormalization", ["p", *"sbmv"], ["d", "m2", "v2", "m3", "v3"], name="norm"),
            node("Flatten", ["d"], ["f"]),
            GEMM,
        ],
        {name: np.ones(8, np.float32) for name in "sbmv"},
        13,
    ),
}


@pytest.mark.parametrize(("head", "weights", "opset"), TRAINING.values(), ids=TRAINING)
def test_layers_in_training_mode_are_read_from_the_graph(
    head: list[Any], weights: dict[str, Any], opset: int
) -> None:
    model = graph(head, {"w": W48, "b": BIAS, **weights}, opset=opset)
    assert training_layers(model) == (head[0].name,)
    trained = model.graph.node[3]
    if trained.op_type == "Dropout":
        model.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(np.array(False), "train"))
    else:
        del trained.attribute[:], trained.output[1:]
    assert training_layers(model) == ()


def test_an_operator_that_a_runtime_lacks_is_named(tmp_path: Path) -> None:
    unknown = graph()
    unknown.graph.node[1].op_type = "Swish"
    error = error_of(lambda: describe(saved(unknown, tmp_path / "m.onnx")))
    assert error.message == "onnxruntime cannot open m.onnx: opset 17 of ONNX has no operator `Swish`"
    training = graph(
        [node("Dropout", ["p", "ratio", "train"], ["d"], name="drop"), node("Flatten", ["d"], ["f"]), GEMM],
        {"w": W48, "b": BIAS, "ratio": np.float64(0.5), "train": np.array(True)},
    )
    pytest.importorskip("openvino")
    path = saved(training, tmp_path / "model.onnx")
    artifact = Artifact(tmp_path, artifact_info(path))
    convert = backend_of(OpenvinoRuntime()).convert
    assert convert is not None
    error = error_of(lambda: convert(artifact, tmp_path))
    assert "Dropout" in error.message
    assert "Training mode is not supported" in error.message
    assert "\n" not in error.message


# Networks that are quantised already


class Fake(nn.Module):  # type: ignore[misc]
    """Quantised and back, as quantisation-aware training leaves it."""

    def forward(self, x: Any) -> Any:
        return torch.fake_quantize_per_tensor_affine(x, 0.05, 100, 0, 255)


@pytest.fixture(scope="module")
def trained_quantised(tmp_path_factory: pytest.TempPathFactory, samples: NDArray[Any]) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(
        Fake(), nn.Conv2d(3, 8, 3), nn.ReLU(), Fake(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    path = tmp_path_factory.mktemp("qat") / "m.onnx"
    export = Export(exporter="torchscript", opset=17)
    export_onnx(network.eval(), export, path, (1, 3, SIDE, SIDE), samples)
    return path


def test_a_network_trained_quantised_is_one_everywhere(
    tmp_path: Path, trained_quantised: Path, photos: Images, samples: NDArray[Any]
) -> None:
    facts = facts_of(load(trained_quantised))
    assert facts.precision == artifact_info(trained_quantised).precision == "int8"
    lossy = [step("static_int8"), step("dynamic_int8"), step("nncf_int8"), step("fp16")]
    for each in lossy:
        error = error_of(
            lambda each=each: apply(  # type: ignore[misc]
                each, trained_quantised, tmp_path / "o.onnx", Photos(CONTRACT, photos, None, samples)
            )
        )
        assert "its input is quantised already" in error.message
    variants = [Variant(s.use, s.use, "", Export(), (s,), OrtRuntime()) for s in lossy]
    for item in advise(facts, machine.collect(), {}, variants).items:
        assert not item.worth
        assert item.high is None  # nothing is promised
        assert "quantised already" in item.reasons[0].text
    assert plain_export(compare(run_info(), [trial(BASELINE)])) == "plain FP32 export"
    quantised = compare(run_info(), [trial(BASELINE, precision="int8")])
    assert plain_export(quantised) == "plain export, which is INT8 as the network comes"


# Odd graphs


@pytest.mark.parametrize(
    "more",
    [
        {"images": ["batch size", 3, "height", SIDE]},
        {"images": ["?", 3, SIDE, SIDE], "logits": ["unk__1", "unk__2"]},
        {"images": [1, 3, SIDE, SIDE], "logits": [1, CLASSES]},
        {"images": [2, 3, SIDE, SIDE], "logits": [2, CLASSES]},
        *({"opset": opset, "old": opset < 9} for opset in (7, 8, 9, 10, 11)),
    ],
    ids=str,
)
def test_odd_graphs_work(tmp_path: Path, samples: NDArray[Any], more: dict[str, Any]) -> None:
    old = more.get("old", False)
    model = graph(**{key: value for key, value in more.items() if key != "old"})
    if old:
        weights_as_inputs(model)
        model.ir_version = 3
    source = saved(model, tmp_path / "m.onnx")
    adopt_onnx(source, None, tmp_path / "copy.onnx")
    assert inspect(ModelSource(checkpoint=source)).num_classes == CLASSES
    facts_of(load(source))
    for each in (
        step("simplify"),
        step("fp16"),
        step("optimize"),
        step("fold_preprocess"),
        step("fixed_batch"),
    ):
        apply(each, source, tmp_path / "out.onnx", Photos(CONTRACT, None, None, samples))


CAST = node("Cast", ["x"], ["xf"], to=1)
NCHW = node("Transpose", ["xf"], ["xt"], perm=[0, 3, 1, 2])
REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"images": ["n", SIDE, SIDE, 3], "first": [CAST, NCHW], "feed": "xt"}, 1, "NHWC", "--inputs-as-nchw"),
    ({"first": [CAST], "feed": "xf"}, 2, "of uint8", "(N, height, width, 3) uint8"),
    ({"first": [CAST], "feed": "xf"}, 10, "tensor(float16)", "float32"),
    ({"first": [CAST], "feed": "xf"}, 11, "tensor(double)", "float32"),
    ({"images": ["n", 1, SIDE, SIDE]}, 1, "input of shape ['n', 1, 16, 16]", "(N, 3, height, width)"),
    ({"head": [node("Identity", ["p"], ["y"])], "weights": {}, "logits": ["n", 8, 1, 1]}, 1, "(1, 8, 1, 1)",
     "x.flatten(1)"),
    ({"head": [node("ReduceMax", ["p"], ["y"], keepdims=0)], "weights": {}, "logits": []}, 1, "shape ()",
     "as they are"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "kind", "message", "hint"), REFUSED, ids=[row[2] for row in REFUSED])
def test_graphs_that_cannot_be_taken_say_so_in_a_line(
    tmp_path: Path, more: dict[str, Any], kind: int, message: str, hint: str
) -> None:
    grey = more.get("images", [0, 3])[1] == 1
    model = graph(**{key: value for key, value in more.items() if not grey})
    model.graph.input[0].type.tensor_type.elem_type = kind
    if grey:
        kernel = onnx.numpy_helper.from_array(np.zeros((8, 1, 3, 3), np.float32), "w0")
        model.graph.initializer[0].CopyFrom(kernel)
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    error = error_of(lambda: inspect(ModelSource(checkpoint=saved(model, tmp_path / "m.onnx"))))
    assert message in error.message
    assert hint in (error.hint or "")
    assert "\n" not in error.message


def test_a_graph_that_decides_itself_is_asked_for_logits(tmp_path: Path) -> None:
    model = graph(head=[FLAT, node("ArgMax", ["f"], ["y"], axis=1, keepdims=0)], weights={}, logits=["n"])
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    error = error_of(lambda: inspect(ModelSource(checkpoint=saved(model, tmp_path / "m.onnx"))))
    assert "`y` is tensor(int64)" in error.message
    assert "no argmax" in (error.hint or "")


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    """As onnxruntime's own converter to FP16 leaves them; onnxruntime reads them, ONNX and others do not."""
    model = graph()
    whole = saved(model, tmp_path / "whole.onnx")
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    turned = saved(model, tmp_path / "turned.onnx")
    facts = adopt_onnx(turned, None, tmp_path / "taken.onnx")
    onnx.checker.check_model(str(tmp_path / "taken.onnx"))
    adopt_onnx(whole, None, tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == whole.read_bytes()
    batch = noise(facts)
    assert np.array_equal(logits_of(tmp_path / "taken.onnx", facts, batch), logits_of(whole, facts, batch))


def test_minus_one_for_a_free_size_is_one(tmp_path: Path) -> None:
    """As Paddle and TensorFlow write it; multiplications could not be counted."""
    path = saved(graph(images=[-1, 3, SIDE, SIDE], logits=[-1, CLASSES]), tmp_path / "m.onnx")
    assert adopt_onnx(path, None, tmp_path / "taken.onnx").dynamic_batch
    taken = load(tmp_path / "taken.onnx")
    assert [size.dim_value for size in taken.graph.input[0].type.tensor_type.shape.dim] == [0, 3, SIDE, SIDE]


def test_a_network_in_float64_is_asked_for_in_float32(tmp_path: Path) -> None:
    model = graph()
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32:
            weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float64), weight.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    error = error_of(lambda: inspect(ModelSource(checkpoint=saved(model, tmp_path / "m.onnx"))))
    assert "computes in float64" in error.message
    assert "`model.float()`" in (error.hint or "")


def test_several_outputs_come_with_the_line_that_cuts_them_down(tmp_path: Path) -> None:
    model = graph()
    model.graph.output.insert(0, onnx.helper.make_tensor_value_info("p", 1, ["n", 8, 1, 1]))
    path = saved(model, tmp_path / "m.onnx")
    error = error_of(lambda: inspect(ModelSource(checkpoint=path)))
    assert "has 1 input and 2 outputs (x; p, y)" in error.message
    line = (error.hint or "").partition("`")[2].rstrip("`")
    assert line == f"onnx.utils.extract_model('{path}', 'm-logits.onnx', ['x'], ['y'])"
    onnx.utils.extract_model(str(path), str(tmp_path / "m-logits.onnx"), ["x"], ["y"])
    assert inspect(ModelSource(checkpoint=tmp_path / "m-logits.onnx")).num_classes == CLASSES


def test_pixels_go_in_as_they_are(tmp_path: Path, photos: Images) -> None:
    model = graph(images=["n", SIDE, SIDE, 3], first=[CAST, NCHW], feed="xt")
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    path = saved(model, tmp_path / "model.onnx")
    info = artifact_info(path)
    assert info.pixels
    assert info.input_shape == (0, 3, SIDE, SIDE)
    raw = next(replace(photos, raw=True).batches(4))
    with backend_of(OrtRuntime()).session(Artifact(tmp_path, info), OrtRuntime()) as session:
        assert session.infer(raw).shape == (4, CLASSES)
