"""Roles: the same parts are found in the graphs of both exporters, and no others."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the networks are exported from torch")
onnx = pytest.importorskip("onnx", reason="roles are read from ONNX graphs")
pytest.importorskip("onnxruntime", reason="the graphs are prepared as for quantising")

from tests.builders import exported  # noqa: E402
from workbench.model.graph.node_names import prepare  # noqa: E402
from workbench.model.graph.roles import Role, roles_of  # noqa: E402

nn = torch.nn


class Gated(nn.Module):  # type: ignore[name-defined,misc]
    """A trunk, a depthwise convolution, a squeeze-and-excitation block and a head with a pool of its own."""

    def __init__(self, gate: Any, inner: Any, act: Any) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 8, 3, 2, 1), act
        self.depthwise, self.norm = nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.gate, self.inner, self.pool = gate, inner, nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = self.act(self.norm(self.depthwise(self.act(self.stem(x)))))
        x = x * self.gate(self.excite(self.inner(self.squeeze(self.pool(x)))))
        return self.head(self.pool(x).flatten(1))


class Spelled(nn.Module):  # type: ignore[name-defined,misc]
    """Hard-swish as people wrote it before there was an operator."""

    def __init__(self, *, after: bool) -> None:
        super().__init__()
        self.after = after

    def forward(self, x: Any) -> Any:
        if self.after:
            return x * torch.clamp(x + 3, 0, 6) / 6
        return x * (torch.clamp(x + 3, 0, 6) / 6)


def prepared(network: Any, path: Path, exporter: str = "torchscript") -> Any:
    """The graph as `static_int8` gets it."""
    exported(network, path, 16, exporter=exporter, opset=18 if exporter == "dynamo" else 13)
    return prepare(path, path.with_name("prepared.onnx"))


def with_role(model: Any, role: Role) -> list[str]:
    """Op types of the nodes with a role, in graph order."""
    roles = roles_of(model)
    return [node.op_type for node in model.graph.node if role in roles.get(node.name, ())]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_the_parts_of_a_mobile_network_are_found_in_both_exports(tmp_path: Path, exporter: str) -> None:
    network = Gated(nn.Hardsigmoid(), nn.ReLU(), nn.Hardswish())
    model = prepared(network, tmp_path / "m.onnx", exporter)
    pool = "ReduceMean" if exporter == "dynamo" else "GlobalAveragePool"
    assert with_role(model, "first") == ["Conv"]
    assert with_role(model, "last") == ["Gemm"]
    assert len(with_role(model, "depthwise")) == 1
    assert with_role(model, "squeeze_excite") == [pool, "Conv", "Relu", "Conv", "HardSigmoid", "Mul"]
    assert with_role(model, "hardswish") == ["HardSigmoid", "Mul"] * 2
    whole = roles_of(onnx.load(tmp_path / "m.onnx"))
    assert sum("hardswish" in found for found in whole.values()) == (2 if exporter == "dynamo" else 4)


def test_swish_inside_the_branch_and_outside_is_found(tmp_path: Path) -> None:
    model = prepared(Gated(nn.Sigmoid(), nn.SiLU(), nn.SiLU()), tmp_path / "m.onnx")
    assert with_role(model, "hardswish") == ["Sigmoid", "Mul"] * 3
    branch = ["GlobalAveragePool", "Conv", "Sigmoid", "Mul", "Conv", "Sigmoid", "Mul"]
    assert with_role(model, "squeeze_excite") == branch


@pytest.mark.parametrize("after", [True, False])
def test_hard_swish_spelled_out_is_found_whole(tmp_path: Path, after: bool) -> None:
    network = Gated(nn.Sigmoid(), nn.ReLU(), Spelled(after=after))
    model = prepared(network, tmp_path / "m.onnx")
    spelled = ["Add", "Clip", "Mul", "Div"] if after else ["Add", "Clip", "Div", "Mul"]
    assert with_role(model, "hardswish") == spelled * 2
    assert "Add" not in with_role(model, "squeeze_excite")


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_plain_network_has_neither_gates_nor_depthwise(tmp_path: Path, exporter: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model = prepared(network, tmp_path / "m.onnx", exporter)
    for role in ("depthwise", "squeeze_excite", "hardswish"):
        assert with_role(model, role) == []
    roles = roles_of(model)
    assert sorted(map(sorted, roles.values())) == [["first"], ["last"]]


def test_a_network_of_one_layer_is_first_and_last(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))
    model = prepared(network, tmp_path / "m.onnx")
    assert list(roles_of(model).values()) == [frozenset({"first", "last"})]
