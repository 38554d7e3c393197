"""What the advisor sees in a network, read from files that both exporters wrote."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks are exported from torch")
onnx = pytest.importorskip("onnx", reason="networks are read from ONNX files")
pytest.importorskip("onnxruntime", reason="whether a size fits is tried in onnxruntime")

from tests.builders import Once  # noqa: E402
from tests.e2e.tiny import shared_student  # noqa: E402
from workbench.model.export.settings import Export  # noqa: E402
from workbench.model.export.torch_exporters import write_onnx  # noqa: E402
from workbench.model.graph.facts import NetworkFacts, facts_of  # noqa: E402
from workbench.model.graph.onnx_file import load  # noqa: E402
from workbench.report.advice import network  # noqa: E402
from workbench.run.advice.advise import advise, advised  # noqa: E402
from workbench.system import machine  # noqa: E402
from workbench.workspace import recipe  # noqa: E402
from workbench.workspace.sample.student import create_model  # noqa: E402

pytestmark = pytest.mark.integration


def facts(model: "torch.nn.Module", folder: Path, side: int = 64) -> NetworkFacts:
    export = Export(exporter="torchscript", opset=17)
    photos = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    write_onnx(model.eval(), export, folder / "model.onnx", photos, hint="")
    return facts_of(load(folder / "model.onnx"))


class Attention(torch.nn.Module):
    """Patches, a stored position embedding, one layer of attention: a transformer in small."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 16, 16)
        self.position = torch.nn.Parameter(torch.zeros(1, 16, 16))
        self.queries, self.head = torch.nn.Linear(16, 48), torch.nn.Linear(16, 5)
        self.norm = torch.nn.LayerNorm(16)

    def forward(self, photos: "torch.Tensor") -> "torch.Tensor":
        tokens = self.patches(photos).flatten(2).transpose(1, 2) + self.position
        queries, keys, values = self.queries(self.norm(tokens)).chunk(3, dim=-1)
        weights = (queries @ keys.transpose(1, 2)).softmax(dim=-1)
        logits: torch.Tensor = self.head((tokens + weights @ values).mean(dim=1))
        return logits


def test_the_parts_of_the_sample_are_counted(tmp_path: Path) -> None:
    found = facts(create_model(12), tmp_path)
    assert (found.convolutions, found.depthwise, found.squeeze_excite, found.hard_swish) == (38, 8, 6, 12)
    assert found.swish == found.attention == found.dead_channels == 0
    assert 0 < found.depthwise_share < 0.3 and not found.transformer
    assert found.first != found.last
    assert found.input_shape == (3, 64, 64)


def test_the_same_parts_are_counted_in_what_the_newer_exporter_wrote(once: Once) -> None:
    (file,) = shared_student(once).built.rglob("model.onnx")
    found = facts_of(load(file))
    assert (found.convolutions, found.depthwise, found.squeeze_excite, found.hard_swish) == (5, 1, 1, 2)
    assert found.swish == found.attention == found.dead_channels == 0
    assert found.input_shape == (3, 32, 32)


def test_the_work_of_a_photo_is_counted_by_kinds_and_grows_with_the_pixels(tmp_path: Path) -> None:
    work, larger = (facts(create_model(12), tmp_path, side).work for side in (64, 128))
    assert work is not None and larger is not None
    assert work.macs == facts(create_model(12), tmp_path).macs
    assert work.depthwise > 0 and work.gated > 0
    assert (larger.nodes, larger.weights) == (work.nodes, work.weights)
    assert larger.plain == pytest.approx(work.scaled(4).plain, rel=0.05)  # gates do not grow
    assert larger.moved == pytest.approx(work.scaled(4).moved, rel=0.02)


def test_what_is_computed_within_another_node_is_no_work_of_its_own(tmp_path: Path) -> None:
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, 1, 1), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3, 1, 1, groups=4),
        torch.nn.Tanh(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 5),
    )  # fmt: skip
    work = facts(layers, tmp_path, side=16).work
    assert work is not None
    assert (work.plain, work.products) == (256 * 32 * (27 + 72), 160)
    assert work.nodes == 5  # the ReLU is computed within the convolution; to flatten is nothing
    assert work.between == 256 * 32 + 32  # tanh and pool


def test_attention_is_seen(tmp_path: Path) -> None:
    assert facts(Attention(), tmp_path).attention == 1


def test_dead_channels_and_swish_are_counted(tmp_path: Path) -> None:
    first = torch.nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        first.weight[2] = 1e-9
        first.weight[5] = 0
    layers = torch.nn.Sequential(
        first, torch.nn.SiLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)
    )
    found = facts(layers, tmp_path)
    assert (found.dead_channels, found.swish, found.hard_swish) == (2, 1, 0)
    assert found.parameters == 8 * 27 + 8 + 8 * 5 + 5


def test_the_sentence_names_what_decides(tmp_path: Path) -> None:
    said = network(facts(create_model(12), tmp_path).model_copy(update={"any_size": True}))
    assert said.startswith("38 convolutions (8 depthwise, ")
    assert "6 squeeze-and-excitation blocks, 12 hard-swish, " in said
    assert said.endswith("photos of 64x64 pixels, other sizes work too")


def test_on_this_machine_the_shipped_recipes_are_all_judged(tmp_path: Path) -> None:
    variants = recipe.load([recipe.shipped()])
    free = facts(create_model(12), tmp_path).model_copy(update={"any_size": True})
    advice = advise(free, machine.collect(), {}, variants)
    assert [item.variant for item in advice.items] == [variant.name for variant in variants]
    assert {variant.recipe for variant in advised(advice, variants)} >= {"resolution"}
    assert all(item.reasons for item in advice.items)
