"""Steps that write the files of phones and boards: where they may stand, where they run, what they write."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests import edge
from tests.builders import error_of
from workbench.backends.executorch.settings import LOCK as EXECUTORCH_LOCK
from workbench.backends.litert.interpreter import Interpreter
from workbench.errors import WorkbenchError
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.steps import Photos, Step, apply_native, transform
from workbench.steps.executorch.exclusions import operator, roles_of_graph
from workbench.steps.executorch.settings import Executorch
from workbench.steps.litert.exclusions import excluded_patterns, roles_of_nodes
from workbench.steps.litert.settings import LOCK as LITERT_LOCK
from workbench.steps.litert.settings import Litert
from workbench.system.environments import locked, read_lock
from workbench.workspace import recipe

CONTRACT = Preprocess(resize=16, crop=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def refusal(folder: Path, text: str) -> WorkbenchError:
    path = folder / "r.yaml"
    path.write_text(f"name: r\n{text}")
    return error_of(lambda: recipe.read(path))


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("runtime: {backend: litert}", "runs what step `litert` writes", "add `{use: litert}` to `steps`"),
        ("steps: [{use: litert}]", "writes a file for `backend: litert`", "set `runtime.backend: litert`"),
        (
            "steps: [{use: simplify}, {use: litert}]\nruntime: {backend: litert}",
            "`simplify` changes an ONNX file, and backend `litert` takes none",
            "leave it out",
        ),
        (
            "steps: [{use: executorch}]\nruntime: {backend: litert}",
            "runs what step `litert` writes",
            "add `{use: litert}`",
        ),
        ("steps: [{use: litert}]\nruntime: {backend: litert, batch: 2}", "one photo a call", None),
        ("steps: [{use: litert}]\nruntime: {backend: litert, device: cuda}", "on the cpu only", None),
    ],
)
def test_a_step_for_another_backend_is_refused(
    tmp_path: Path, text: str, message: str, hint: str | None
) -> None:
    error = refusal(tmp_path, text)
    assert message in error.message
    assert hint is None or hint in (error.hint or "")


@pytest.mark.parametrize("name", ["litert", "executorch"])
def test_shipped_recipes_name_float_and_int8(name: str) -> None:
    variants = recipe.read(recipe.find(name))
    quantized = [step.quantize for v in variants for step in v.steps if isinstance(step, Litert | Executorch)]
    assert quantized[:2] == ["none", "static"]
    assert [step.keeps_logits for v in variants for step in v.steps][:2] == [True, False]


@pytest.mark.parametrize("lock", [LITERT_LOCK, EXECUTORCH_LOCK], ids=lambda lock: lock.parent.name)
def test_the_locked_environments_hold_torch_and_all_that_our_code_imports(lock: Path) -> None:
    pins = locked("edge", read_lock(lock)).pins
    names = {pin.partition("==")[0] for pin in pins}
    assert {"torch", "numpy", "pydantic", "pillow"} <= names
    assert names & {"litert-torch", "executorch"}


@pytest.mark.parametrize("step", [Litert(use="litert"), Executorch(use="executorch")], ids=lambda s: s.use)
def test_such_a_step_writes_no_onnx(step: Step, tmp_path: Path) -> None:
    write = lambda: transform(step, tmp_path / "in.onnx", tmp_path / "out.onnx", Photos(CONTRACT))  # noqa: E731
    assert f"one for backend `{step.use}`" in error_of(write).message


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torch.export program of one photo a call."""
    pytest.importorskip("torch", reason="the network is a torch program")
    from tests.data.edge.make import network
    from workbench.model.export.export import export_program

    path = tmp_path_factory.mktemp("program") / "model.pt2"
    info = export_program(network(), path, (1, 3, edge.SIDE, edge.SIDE), edge.PHOTOS)
    assert (info.format, info.input_shape, info.classes) == ("torch-export", (1, 3, 16, 16), 5)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    path = tmp_path_factory.mktemp("photos") / "pixels.npy"
    np.save(path, np.random.default_rng(2).integers(0, 256, (32, 16, 16, 3), np.uint8))
    return Photos(CONTRACT, Images(path, (0,) * 32, CONTRACT, "digest"))


@pytest.mark.parametrize("quantize", ["none", "static", "dynamic"])
def test_the_converter_writes_a_litert_file(
    quantize: str, program: Path, photos: Photos, tmp_path: Path
) -> None:
    pytest.importorskip("litert_torch", reason="it runs in an environment of its own")
    from workbench.backends import LitertRuntime
    from workbench.backends.artifact import Artifact
    from workbench.backends.litert import backend

    step = Litert.model_validate({"use": "litert", "quantize": quantize})
    info = apply_native(step, program, tmp_path, photos)
    assert (info.format, info.precision) == ("tflite", "fp32" if quantize == "none" else "int8")
    with backend.session(Artifact(tmp_path, info), LitertRuntime(threads=1)) as session:
        got = session.infer(edge.PHOTOS)
    assert (got.argmax(axis=1) == edge.logits().argmax(axis=1)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exclude_op_types": ["HARD_SWIHS"]}, "knows no operator `HARD_SWIHS`"),
        ({"exclude_nodes": ["nothing of this name"]}, "fits no node of the network"),
        ({"exclude_nodes": ["("]}, "is no regular expression"),
    ],
)
def test_an_exclusion_that_fits_nothing_is_refused(
    fields: dict[str, object], message: str, program: Path, photos: Photos, tmp_path: Path
) -> None:
    pytest.importorskip("litert_torch", reason="it runs in an environment of its own")
    step = Litert.model_validate({"use": "litert", "quantize": "static", **fields})
    assert message in error_of(lambda: apply_native(step, program, tmp_path, photos)).message


def node(kind: str, *inputs: int, gives: int) -> dict[str, object]:
    return {"op_name": kind, "inputs": inputs, "outputs": (gives,)}


def test_roles_are_found_among_literts_operators_where_gates_are_fused_too() -> None:
    """The photo is 0; stored tensors are 100 and more; -1 is a bias that is not there."""
    nodes = [
        node("CONV_2D", 0, 100, -1, gives=1),
        node("LOGISTIC", 1, gives=2),
        node("MUL", 1, 2, gives=3),
        node("DEPTHWISE_CONV_2D", 3, 101, 102, gives=4),
        node("MEAN", 4, 103, gives=5),
        node("CONV_2D", 5, 104, 105, gives=6),
        node("CONV_2D", 6, 106, 107, gives=7),  # ReLU6, that makes it a gate, is part of it
        node("MUL", 7, 108, gives=8),
        node("MUL", 4, 8, gives=9),
        node("ADD", 9, 4, gives=10),
        node("HARD_SWISH", 10, gives=11),
        node("FULLY_CONNECTED", 11, 109, -1, gives=12),
    ]
    found = [set(roles) for roles in roles_of_nodes(nodes, 0)]
    swish, gated = {"hardswish"}, {"squeeze_excite"}
    assert found == [
        {"first"}, swish, swish, {"depthwise"}, gated, gated, gated, gated, gated, set(), swish, {"last"},
    ]  # fmt: skip


def test_roles_of_a_file_are_left_in_float_by_the_names_of_their_results() -> None:
    pytest.importorskip("ai_edge_litert", reason="it opens the file")
    data = (edge.FOLDER / "float.tflite").read_bytes()
    native = Interpreter(data, "it", threads=1).native
    names = {each["index"]: each["name"] for each in native.get_tensor_details()}
    made = {each["op_name"]: names[each["outputs"][0]] for each in native._get_ops_details()}
    step = Litert(use="litert", quantize="static", exclude_roles=("depthwise", "squeeze_excite"))
    (pattern,) = excluded_patterns(step, data)
    assert re.search(pattern, made["DEPTHWISE_CONV_2D"] + ";")
    assert not any(re.search(pattern, name + ";") for kind, name in made.items() if "DEPTH" not in kind)
    nothing = Litert(use="litert", quantize="static", exclude_roles=("squeeze_excite",))
    assert excluded_patterns(nothing, data) == []


def test_what_is_excluded_by_its_role_is_float_in_the_converted_file(
    program: Path, photos: Photos, tmp_path: Path
) -> None:
    pytest.importorskip("litert_torch", reason="it runs in an environment of its own")
    roles = ("depthwise", "hardswish", "last")
    step = Litert.model_validate({"use": "litert", "quantize": "static", "exclude_roles": roles})
    info = apply_native(step, program, tmp_path, photos)
    native = Interpreter((tmp_path / info.file).read_bytes(), "it", threads=1).native
    types = {each["index"]: each["dtype"].__name__ for each in native.get_tensor_details()}
    found = {each["op_name"]: types[each["outputs"][0]] for each in native._get_ops_details()}
    kinds = ("DEPTHWISE_CONV_2D", "HARD_SWISH", "FULLY_CONNECTED")
    assert [found[kind] for kind in kinds] == ["float32"] * 3
    assert found["CONV_2D"] == "int8"


@pytest.mark.parametrize("quantize", ["none", "static"])
def test_the_exporter_writes_an_executorch_program(
    quantize: str, program: Path, photos: Photos, tmp_path: Path
) -> None:
    pytest.importorskip("executorch", reason="it runs in an environment of its own")
    from workbench.backends import ExecutorchRuntime
    from workbench.backends.artifact import Artifact
    from workbench.backends.executorch import backend

    step = Executorch.model_validate({"use": "executorch", "quantize": quantize})
    info = apply_native(step, program, tmp_path, photos)
    assert (info.format, info.classes, info.input_shape) == ("pte", 5, (1, 3, 16, 16))
    runtime = ExecutorchRuntime(threads=1, full_delegation="required")
    with backend.session(Artifact(tmp_path, info), runtime) as session:
        got = session.infer(edge.PHOTOS)
        assert session.threads == 1
    assert (got.argmax(axis=1) == edge.logits().argmax(axis=1)).all()
    audit = backend.audit(Artifact(tmp_path, info), runtime, edge.PHOTOS[:1])
    assert audit.computes == ("fp32" if quantize == "none" else "int8")
    assert audit.macs == 8 * 8 * 8 * (27 + 9) + 8 * 8 * 16 * 8 + 16 * 5
    assert audit.delegation is not None
    assert audit.delegation.whole


def test_the_roles_of_a_torch_program_are_those_of_its_operators(program: Path) -> None:
    import torch

    graph = torch.export.load(program).module().graph
    found = roles_of_graph(graph)
    kinds = [(operator(node), set(found[node.name])) for node in graph.nodes if node.name in found]
    assert kinds == [
        ("conv2d", {"first"}), ("hardswish", {"hardswish"}), ("conv2d", {"depthwise"}),
        ("hardswish", {"hardswish"}), ("linear", {"last"}),
    ]  # fmt: skip


def test_what_an_executorch_step_excludes_is_float_in_its_program(
    program: Path, photos: Photos, tmp_path: Path
) -> None:
    pytest.importorskip("executorch", reason="it runs in an environment of its own")
    excluded = {"exclude_roles": ("first", "depthwise"), "exclude_op_types": ("linear",)}
    step = Executorch.model_validate({"use": "executorch", "quantize": "static", **excluded})
    info = apply_native(step, program, tmp_path, photos)
    assert info.note is not None
    assert info.note.endswith("computed in fp32 for 69 % of the multiplications, int8 for 31 %")  # 1x1 alone
    unknown = Executorch(use="executorch", quantize="static", exclude_op_types=("conv2d",))
    with pytest.raises(WorkbenchError, match="knows no operator `conv2d`"):
        apply_native(unknown, program, tmp_path, photos)
