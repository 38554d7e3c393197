"""What the advisor sees in a network, read from files that both exporters wrote."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks are exported from torch")
onnx = pytest.importorskip("onnx", reason="networks are read from ONNX files")
pytest.importorskip("onnxruntime", reason="whether a size fits is tried in onnxruntime")

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


def facts(
    model: "torch.nn.Module", folder: Path, side: int = 64, exporter: str = "torchscript"
) -> NetworkFacts:
    export = Export(exporter=exporter, opset=18 if exporter == "dynamo" else 17)  # type: ignore[arg-type]
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


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_the_parts_of_the_sample_are_counted(tmp_path: Path, exporter: str) -> None:
    found = facts(create_model(12), tmp_path, exporter=exporter)
    assert (found.convolutions, found.depthwise, found.squeeze_excite, found.hard_swish) == (38, 8, 6, 12)
    assert found.swish == found.attention == found.dead_channels == 0
    assert 0 < found.depthwise_share < 0.3 and not found.transformer
    assert found.first != found.last
    assert found.input_shape == (3, 64, 64)


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
