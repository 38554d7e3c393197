"""What the engine's inspector tells becomes the audit; what it does not tell is unknown."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="the networks are ONNX files")

from tests.builders import small_classifier
from workbench.backends.artifact import Artifact
from workbench.backends.tensorrt.audit import audit_engine
from workbench.model.graph.onnx_file import artifact_info

SIDE, CLASSES, CHANNELS = 8, 5, 4
MACS = {"conv": 3 * CHANNELS * 9 * SIDE * SIDE, "fc": CHANNELS * CLASSES}
TOTAL = sum(MACS.values())


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return small_classifier(tmp_path, SIDE, CLASSES, CHANNELS)


def layer(name: str, kind: str, given: str, made: str, *nodes: str, **more: Any) -> dict[str, Any]:
    """given, made: `tensor:type`, several with commas."""

    def tensors(listed: str) -> list[dict[str, object]]:
        pairs = [each.split(":") for each in listed.split(",") if each]
        return [{"Name": name, "Dimensions": [1], "Format/Datatype": words} for name, words in pairs]

    metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    told = {"Name": name, "LayerType": kind, "Inputs": tensors(given), "Outputs": tensors(made)}
    return {**told, "Metadata": metadata, **more}


def told(*layers: dict[str, Any]) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["photo", "logits"]})


HALF = "Channel major FP16 format where channel % 8 == 0"
FP16 = (
    layer("Reformat 0", "Reformat", "photo:Row major linear FP32", f"p:{HALF}"),
    layer(
        "conv + relu", "CaskConvolution", f"p:{HALF}", f"b:{HALF}", "conv", "relu", Weights={"Type": "Half"}
    ),
    layer("pool", "Pooling", f"b:{HALF}", f"c:{HALF}", "pool"),
    layer("fc", "gemm", "c:Half,matrix:Half", "d:Half", "fc"),
    layer("Reformat 1", "Reformat", "d:Half", "logits:Float"),
)


def test_layers_in_half_precision_are_counted_by_their_multiplications(artifact: Artifact) -> None:
    audit = audit_engine(told(*FP16), artifact, profile=0)
    assert (audit.macs, audit.half_share, audit.fp32_share, audit.int8_share) == (TOTAL, 1.0, 0.0, 0.0)
    assert (audit.computes, audit.casts, audit.unfused_qdq) == ("fp16", 2, 0)
    assert audit.providers == {"TensorRT": 5}
    assert audit.verdict == "stored in fp32, computed in fp16 behind 2 casts"


def test_int8_is_where_data_and_weights_are_and_leftover_quantisers_count(artifact: Artifact) -> None:
    audit = audit_engine(
        told(
            layer("in", "Reformat", "photo:Float", "p:Int8", Origin="QDQ"),
            layer(
                "conv", "CaskConvolution", "p:Int8", "b:Int8", "conv", Weights={"Type": "Int8", "Count": 9}
            ),
            layer("dq", "Scale", "b:Int8", "c:Float", Origin="QDQ"),
            layer("fc", "MatrixMultiply", "c:Float", "d:Float", "fc", Weights={"Type": "Float"}),
            layer("out", "Scale", "d:Float", "logits:Float", Origin="QDQ"),
        ),
        artifact,
        profile=0,
    )
    assert audit.int8_share == pytest.approx(MACS["conv"] / TOTAL)
    assert audit.fp32_share == pytest.approx(MACS["fc"] / TOTAL)
    assert (audit.unfused_qdq, audit.casts) == (1, 0)


@pytest.mark.parametrize(
    "conv",
    [
        layer("myl", "kgen", "p:Half,q:Int8", "b:Half", "conv"),  # of which does it multiply?
        layer("conv", "CaskConvolution", "p:Half", "b:Half", "conv", Weights={"Type": "Int8"}),
        layer("conv", "CaskConvolution", "p:Some new type", "b:Half", "conv"),
        layer("renamed", "CaskConvolution", "p:Half", "b:Half", "something else"),
        layer("copy", "Reformat", "p:Half", "b:Half", "conv"),
    ],
)
def test_a_layer_that_does_not_tell_is_unknown(artifact: Artifact, conv: dict[str, Any]) -> None:
    audit = audit_engine(told(conv, FP16[3]), artifact, profile=0)
    assert audit.half_share == pytest.approx(MACS["fc"] / TOTAL)
    assert (audit.int8_share, audit.fp32_share, audit.computes) == (0.0, 0.0, "unknown")


@pytest.mark.parametrize("text", ['{"Layers": ["conv + relu", "fc"]}', "{not json}", "[]", "{}", '"x"'])
def test_an_inspector_that_names_layers_alone_or_breaks_its_json_leaves_all_unknown(
    artifact: Artifact, text: str
) -> None:
    audit = audit_engine(text, artifact, profile=0)
    assert (audit.macs, audit.computes, audit.providers, audit.casts) == (TOTAL, "unknown", {}, None)
    assert "does not tell" in audit.verdict


def test_only_the_layers_of_the_profile_that_runs_count(artifact: Artifact) -> None:
    more = [{**each, "Name": f"{each['Name']} [profile 1]"} for each in FP16]
    more[1] = layer(
        "conv [profile 1]", "CaskConvolution", "p:Float", "b:Float", "conv", Weights={"Type": "Float"}
    )
    first, second = (audit_engine(told(*FP16, *more), artifact, profile=profile) for profile in (0, 1))
    assert first.half_share == 1.0
    assert second.fp32_share == pytest.approx(MACS["conv"] / TOTAL)
    assert first.providers == second.providers == {"TensorRT": 5}


def test_nodes_without_a_name_are_found_by_their_output(artifact: Artifact, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(artifact.path)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "unnamed.onnx")
    artifact = Artifact(tmp_path, artifact_info(tmp_path / "unnamed.onnx"))
    conv = layer("conv", "CaskConvolution", "p:Half", "b:Half", "node_of_a", Weights={"Type": "Half"})
    fc = layer("fc", "gemm", "c:Half", "d:Half", "node_of_y")
    assert audit_engine(told(conv, fc), artifact, profile=0).half_share == 1.0
