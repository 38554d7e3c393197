"""Networks that one exporter, or none, can take; merging for inference; what advice says of them."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="exporting needs torch")
onnx = pytest.importorskip("onnx", reason="exporting needs onnx")
pytest.importorskip("onnxruntime", reason="exports are compared in onnxruntime")
from torch import nn  # noqa: E402

from tests.builders import error_of  # noqa: E402
from workbench.backends import OrtRuntime  # noqa: E402
from workbench.errors import WorkbenchError  # noqa: E402
from workbench.model.export.comparison import torch_logits  # noqa: E402
from workbench.model.export.export import export_onnx  # noqa: E402
from workbench.model.export.reparameterize import merge_branches, write_merged  # noqa: E402
from workbench.model.export.settings import Export  # noqa: E402
from workbench.model.graph.facts import facts_of  # noqa: E402
from workbench.model.graph.onnx_file import describe, load, logits_of  # noqa: E402
from workbench.model.source.model_source import ModelSource  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.dataset import Images  # noqa: E402
from workbench.run import build  # noqa: E402
from workbench.run.advice.advise import advise, advised  # noqa: E402
from workbench.run.build_variant import build_baseline, build_variant  # noqa: E402
from workbench.system import machine  # noqa: E402
from workbench.workspace import recipe  # noqa: E402
from workbench.workspace.recipe import Variant  # noqa: E402

SIDE, CLASSES = 24, 4
SHAPE = (1, 3, SIDE, SIDE)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def samples() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((5, 3, SIDE, SIDE), np.float32)


class Head(nn.Module):
    """Something small that gives logits; `before` is what a test is about."""

    def __init__(self, before: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = before or nn.Identity()
        self.convolution, self.linear = nn.Conv2d(3, 4, 3, 2), nn.Linear(4, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.linear(self.convolution(self.before(x)).mean((2, 3)))


class NoDynamo(Head):
    """A value decides, on no photo otherwise: only a trace follows it."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) if float(x.sum()) > -1e30 else x


class OtherInDynamo(Head):
    def forward(self, x: Any) -> Any:
        return super().forward(x) + (1 if torch.compiler.is_exporting() else 0)


class NoTrace(Head):
    def forward(self, x: Any) -> Any:
        if torch.jit.is_tracing():
            raise ZeroDivisionError("tracing divides by zero")
        return super().forward(x)


class NoExport(NoDynamo):
    def forward(self, x: Any) -> Any:
        if torch.jit.is_tracing():
            raise LookupError("no trace of it")
        return super().forward(x)


class DiesInDynamo(Head):
    def forward(self, x: Any) -> Any:
        if torch.compiler.is_exporting():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


# One exporter where the other fails


@pytest.mark.parametrize(
    ("network", "because"),
    [
        (NoDynamo, "dynamo, opset 18: "),
        (OtherInDynamo, "does not compute what torch does: a logit differs by 1 "),
    ],
)
def test_auto_takes_the_other_exporter_and_says_why_in_one_line(
    network: type[nn.Module], because: str, samples: Any, tmp_path: Path
) -> None:
    report = export_onnx(network().eval(), Export(), tmp_path / "m.onnx", SHAPE, samples)
    assert (report.exporter, report.opset) == ("torchscript", 18)
    assert report.passed_over is not None and because in report.passed_over and "\n" not in report.passed_over
    assert report.max_rel < 1e-5


@pytest.mark.parametrize(
    ("opset", "exporter"), [(13, "torchscript"), (17, "torchscript"), (18, "dynamo"), (25, "dynamo")]
)
def test_auto_writes_every_opset_by_the_exporter_that_writes_it(
    opset: int, exporter: str, samples: Any, tmp_path: Path
) -> None:
    report = export_onnx(Head().eval(), Export(opset=opset), tmp_path / "m.onnx", SHAPE, samples)
    assert (report.exporter, report.opset, report.passed_over) == (exporter, opset, None)


def test_a_torchscript_module_is_left_to_the_exporter_that_reads_it(samples: Any, tmp_path: Path) -> None:
    scripted = torch.jit.trace(Head().eval(), torch.from_numpy(samples))
    report = export_onnx(scripted, Export(), tmp_path / "m.onnx", SHAPE, samples)
    assert (report.exporter, report.passed_over) == ("torchscript", None)
    error = error_of(lambda: export_onnx(scripted, Export(opset=24), tmp_path / "n.onnx", SHAPE, samples))
    assert error.hint == "set `export.exporter: torchscript` and an `export.opset` of 7 to 23"


@pytest.mark.parametrize(
    ("network", "fixed", "hint"),
    [
        (
            NoTrace,
            {"exporter": "torchscript"},
            "set `export.exporter: dynamo`, which writes opsets 18 to 25, or `auto`",
        ),
        (
            NoTrace,
            {"exporter": "torchscript", "opset": 13},
            "set `export.exporter: dynamo` and an `export.opset` of 18",
        ),
        (
            NoDynamo,
            {"exporter": "dynamo"},
            "set `export.exporter: torchscript`, which writes opsets 7 to 23, or `auto`",
        ),
        (OtherInDynamo, {"exporter": "dynamo"}, "set `export.exporter: torchscript`, which"),
    ],
)
def test_a_fixed_exporter_never_falls_back_and_names_the_other(
    network: type[nn.Module], fixed: dict[str, Any], hint: str, samples: Any, tmp_path: Path
) -> None:
    target = tmp_path / "m.onnx"
    error = error_of(lambda: export_onnx(network().eval(), Export(**fixed), target, SHAPE, samples))
    assert (error.hint or "").startswith(hint)
    assert "choose another" not in (error.hint or "")
    assert not target.exists()


class NewOperator(Head):
    def forward(self, x: Any) -> Any:
        return super().forward(
            nn.functional.grid_sample(x, x.permute(0, 2, 3, 1)[..., :2], align_corners=False)
        )


def test_where_the_opset_is_the_reason_the_hint_says_so(samples: Any, tmp_path: Path) -> None:
    export = Export(exporter="torchscript", opset=13)
    error = error_of(lambda: export_onnx(NewOperator().eval(), export, tmp_path / "m.onnx", SHAPE, samples))
    assert error.hint == "set `export.opset: 16`, or later"


def test_where_no_exporter_works_each_says_why_in_a_line(samples: Any, tmp_path: Path) -> None:
    error = error_of(lambda: export_onnx(NoExport().eval(), Export(), tmp_path / "m.onnx", SHAPE, samples))
    title, first, second = error.message.splitlines()
    assert title == "no exporter can take the network"
    assert first.startswith("  dynamo, opset 18: ")
    assert second == "  torchscript, opset 18: LookupError: no trace of it"


def test_a_matrix_of_exporters_keeps_its_names(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nmatrix: {export.exporter: [torchscript, dynamo, auto]}\n")
    variants = recipe.read(path)
    assert [variant.name for variant in variants] == [
        f"a[exporter={name}]" for name in ("torchscript", "dynamo", "auto")
    ]
    assert [variant.export.exporter for variant in variants] == ["torchscript", "dynamo", "auto"]


def job(factory: str, folder: Path) -> build.Job:
    """Of a network that a function of this file builds."""
    contract = Preprocess(resize=SIDE, crop=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
    np.save(folder / "pixels.npy", np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), np.uint8))
    photos = Images(folder / "pixels.npy", (0, 1, 2, 3, 0, 1), contract, "digest")
    source = ModelSource(factory=f"{__file__}:{factory}")
    return build.Job(
        source, factory, CLASSES, contract, photos, None, folder / "cache", own_size=(SIDE, SIDE)
    )


def variant(**export: Any) -> Variant:
    return Variant("a", "a", "", Export(**export), (), OrtRuntime())


def test_an_exporter_that_ends_its_process_is_passed_over_too(tmp_path: Path) -> None:
    given = job("DiesInDynamo", tmp_path)
    built = build_variant(given, variant(), tmp_path / "log.txt", 300.0)
    assert built.export.exporter == "torchscript"
    assert "dynamo, opset 18: the build was killed by SIGKILL" in (built.export.passed_over or "")


def test_a_baseline_that_cannot_be_built_says_why_for_each_exporter(tmp_path: Path) -> None:
    prepared: Any = SimpleNamespace(job=job("NoExport", tmp_path))
    error = error_of(lambda: build_baseline(prepared, 300.0, lambda _: None))
    title, first, second = error.message.splitlines()
    assert title.endswith("so there is nothing to compare with: no exporter can take the network")
    assert first.startswith("  dynamo, opset 18: ")
    assert second == "  torchscript, opset 18: LookupError: no trace of it"
    assert "baseline.txt" not in (error.hint or "")


# Networks that are merged for inference


class Branches(nn.Module):
    """Three branches as RepVGG has them, and their sum as one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.merged: nn.Module | None = None

    def forward(self, x: Any) -> Any:
        if self.merged is not None:
            return torch.relu(self.merged(x))
        return torch.relu(self.wide(x) + self.narrow(x) + x)

    def one(self) -> nn.Conv2d:
        result = nn.Conv2d(3, 3, 3, padding=1)
        identity = torch.eye(3)[:, :, None, None]
        added = nn.functional.pad(self.narrow.weight + identity, [1] * 4)
        result.weight.data, result.bias.data = self.wide.weight + added, self.wide.bias + self.narrow.bias
        return result

    def become_one(self) -> None:
        self.merged = self.one()
        del self.wide, self.narrow


class Reparameterize(Branches):
    reparameterize = Branches.become_one


class SwitchToDeploy(Branches):
    deploy = False  # a mark, as RepVGG has it

    def switch_to_deploy(self) -> None:
        if self.merged is None:
            self.become_one()


class Fuse(Branches):
    def fuse(self) -> nn.Module:
        return nn.Sequential(self.one(), nn.ReLU())


class Deploy(Branches):
    def deploy(self, *, keep: bool = False) -> "Deploy":
        if not keep:
            self.become_one()
        return self


def of_its_own(block: nn.Module) -> nn.Module:
    return Head(nn.Sequential(block, nn.Identity()))


class Whole(Head):
    """The network's own method merges its blocks."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(Branches(), Branches()))

    def convert_to_deploy(self) -> None:
        for block in self.before:
            block.become_one()


class Another(Whole):
    """The method returns a new network."""

    convert_to_deploy = None

    def fuse(self) -> nn.Module:
        return Head(nn.Sequential(*(nn.Sequential(block.one(), nn.ReLU()) for block in self.before)))


MERGED = [Reparameterize, SwitchToDeploy, Fuse, Deploy]


def convolutions(network: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in network.modules())


@pytest.mark.parametrize(
    "network",
    [*(lambda kind=kind: of_its_own(kind()) for kind in MERGED), Whole, Another],
    ids=[kind.__name__ for kind in (*MERGED, Whole, Another)],
)
def test_branches_are_merged_and_the_logits_stay(network: Callable[[], nn.Module], samples: Any) -> None:
    original = network().eval()
    before = torch_logits(original, samples)
    merged, merging = merge_branches(original, samples, torch_logits)
    assert merging is not None and merging.methods and merging.problem is None
    assert convolutions(merged) < convolutions(original)
    assert not merged.training
    np.testing.assert_allclose(torch_logits(merged, samples), before, atol=1e-5)
    np.testing.assert_array_equal(torch_logits(original, samples), before)


class Shared(Head):
    """One block in two places."""

    def __init__(self) -> None:
        block = Fuse()
        super().__init__(nn.Sequential(block, nn.Identity(), block))


def test_a_block_in_two_places_is_merged_in_both(samples: Any) -> None:
    merged, merging = merge_branches(Shared().eval(), samples, torch_logits)
    assert merging is not None and merging.methods == ("Fuse.fuse",)
    assert convolutions(merged) == 2  # the shared one, and the head's
    assert not any(isinstance(module, Branches) for module in merged.modules())


class Harmful(Branches):
    """Methods of those names that do something else."""


class Raises(Harmful):
    def fuse(self) -> None:
        del self.wide
        raise RuntimeError("only after `prepare()`")


class Changes(Harmful):
    def fuse(self) -> None:
        self.become_one()
        self.merged.weight.data *= 1.01  # type: ignore[union-attr]


class Replaces(Harmful):
    def fuse(self) -> nn.Module:
        return nn.Identity()


class Takes(Harmful):
    def fuse(self, other: Any) -> Any:
        return torch.cat([self.one()(other), other])


class Tensor(Harmful):
    def fuse(self) -> Any:
        return self.wide.weight.sum()


class Attribute(Harmful):
    def __init__(self) -> None:
        super().__init__()
        self.fuse = nn.Conv2d(3, 3, 1)  # a layer that is called so


class Unlike(Harmful):
    """The same answers on photos alone: it drops what inverted ones need."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) + (torch.relu(-x.mean() - 0.05) if self.merged is None else 0)

    reparameterize = Branches.become_one


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (Raises, "`Raises.fuse`: RuntimeError: only after `prepare()`"),
        (Changes, "`Changes.fuse` changes the logits by "),
        (Replaces, "`Replaces.fuse` changes the logits by "),
        (Unlike, "`Unlike.reparameterize` changes the logits by "),
        (Takes, None),
        (Tensor, None),
        (Attribute, None),
    ],
)
def test_a_method_that_does_something_else_does_no_harm(
    block: type[nn.Module], problem: str | None, samples: Any
) -> None:
    bright = samples - samples.mean((1, 2, 3), keepdims=True) + np.float32(0.5)
    original = of_its_own(block()).eval()
    before = torch_logits(original, bright)
    network, merging = merge_branches(original, bright, torch_logits)
    assert network is original
    np.testing.assert_array_equal(torch_logits(original, bright), before)
    assert (None if merging is None else merging.methods) in (None, ())
    said = None if merging is None else merging.problem
    assert said is None if problem is None else problem in (said or "")


def test_one_harmful_method_does_not_keep_the_others_from_merging(samples: Any) -> None:
    network = Head(nn.Sequential(Raises(), Reparameterize())).eval()
    merged, merging = merge_branches(network, samples, torch_logits)
    assert merging is not None and merging.methods == ("Reparameterize.reparameterize",)
    np.testing.assert_allclose(torch_logits(merged, samples), torch_logits(network, samples), atol=1e-5)


def test_a_merged_network_that_does_not_export_is_exported_as_it_was(samples: Any) -> None:
    def write(network: nn.Module) -> int:
        if convolutions(network) == 2:
            raise WorkbenchError("too smooth")
        return convolutions(network)

    count, merging = write_merged(of_its_own(Fuse()).eval(), samples, torch_logits, write, merge=True)
    assert count == 3
    assert merging is not None and merging.problem == "once they are, too smooth"


def merged_network() -> nn.Module:
    """A factory."""
    return of_its_own(SwitchToDeploy())


def test_a_build_merges_unless_told_not_to_and_records_it(tmp_path: Path) -> None:
    given = job("merged_network", tmp_path)
    found = {}
    for reparameterize in (True, False):
        export = {"exporter": "torchscript", "opset": 17, "reparameterize": reparameterize}
        _, artifact = build.build(given, variant(**export))
        found[reparameterize] = artifact
        graph = load(artifact.path).graph
        assert sum(node.op_type == "Conv" for node in graph.node) == (2 if reparameterize else 3)
    record = found[True].info.export
    assert record is not None and found[False].info.export.merging is None
    assert record.sentences() == (
        "branches were merged for inference, 8 modules became 7, by SwitchToDeploy.switch_to_deploy",
    )


# Advice


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 2, 3, 2, 1), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(98, CLASSES)
    )


def flattened() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.Flatten(), nn.Linear(2 * 144, CLASSES))


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, CLASSES)
        self.position = nn.Parameter(torch.zeros(1, 9, 8))

    def forward(self, x: Any) -> Any:
        return self.head((self.patches(x).flatten(2).transpose(1, 2) + self.position).mean(1))


class Rows(nn.Module):
    """Another size gives more rows, not an error."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 36, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.linear(x[:, :, ::4, ::4].reshape(-1, 3 * 36))


class Remembers(Head):
    """As Swin of transformers: a photo of another size changes what is computed from then on."""

    scale = 1.0

    def forward(self, x: Any) -> Any:
        if x.shape[2] != SIDE:
            self.scale = 2.0
        return self.scale * super().forward(x)


def test_asking_for_another_size_changes_nothing_in_what_is_exported(tmp_path: Path) -> None:
    given = job("Remembers", tmp_path)
    _, artifact = build.build(given, variant(exporter="torchscript"))
    assert artifact.info.export is not None and artifact.info.export.any_size
    batch = next(given.photos.batches(6))
    expected = Head()(torch.from_numpy(batch)).detach().numpy()
    assert np.allclose(logits_of(artifact.path, describe(artifact.path), batch), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("factory", "free"),
    [("pooled", True), ("Head", True), ("flattened", False), ("Embedded", False), ("Rows", False)],
)
def test_whether_another_size_fits_is_asked_of_the_network(factory: str, free: bool, tmp_path: Path) -> None:
    _, artifact = build.build(
        job(factory, tmp_path), variant(exporter="auto" if factory == "pooled" else "torchscript")
    )
    facts = build.network(artifact)
    assert facts.any_size == free
    assert facts.work is not None and facts.macs is not None
    large = facts.model_copy(update={"work": facts.work.scaled(10**8 / facts.macs)})
    resized = recipe.load([Path("resolution")])
    chosen = advised(advise(large, machine.collect(), {}, resized), resized)
    assert bool(chosen) == free


INT8 = "steps: [{use: static_int8}]\n"


def judged(facts: Any, texts: Sequence[str], folder: Path) -> list[Any]:
    variants = []
    for number, text in enumerate(texts):
        path = folder / f"{number}.yaml"
        path.write_text(f"name: v{number}\n{text}")
        variants += recipe.read(path)
    here = machine.collect().model_copy(
        update={"architecture": "x86_64", "features": ("avx2", "avx512_vnni", "avx512_bf16"), "cores": 4}
    )
    return list(advise(facts, here, {}, variants).items)


def test_a_network_too_small_to_gain_is_promised_nothing(samples: Any, tmp_path: Path) -> None:
    export_onnx(Head().eval(), Export(exporter="torchscript", opset=17), tmp_path / "m.onnx", SHAPE, samples)
    facts = facts_of(load(tmp_path / "m.onnx"))
    assert facts.macs is not None and facts.macs < 20_000
    texts = [
        INT8,
        "runtime: {backend: openvino, precision: bf16}\n",
        "preprocess: {scale: 0.5}\n",
        "runtime: {threads: 2}\n",
    ]
    for item in judged(facts.model_copy(update={"any_size": True}), texts, tmp_path):
        assert not item.worth
        assert any("too small to gain" in reason.text for reason in item.reasons)
    assert facts.work is not None
    larger = facts.model_copy(update={"work": facts.work.scaled(10**8 / facts.macs), "any_size": True})
    assert all(item.worth for item in judged(larger, texts[2:], tmp_path))


class FakeQuantized(Head):
    def forward(self, x: Any) -> Any:
        x = torch.fake_quantize_per_tensor_affine(x, 0.05, 128, 0, 255)
        weight = torch.fake_quantize_per_tensor_affine(self.convolution.weight, 0.01, 0, -128, 127)
        return self.linear(nn.functional.conv2d(x, weight, stride=2).mean((2, 3)))


def test_a_network_that_is_quantised_already_is_promised_nothing(samples: Any, tmp_path: Path) -> None:
    export = Export(exporter="torchscript", opset=17)
    export_onnx(FakeQuantized().eval(), export, tmp_path / "m.onnx", SHAPE, samples)
    facts = facts_of(load(tmp_path / "m.onnx"))
    texts = [
        INT8,
        "steps: [{use: dynamic_int8}]\n",
        "steps: [{use: nncf_int8}]\nruntime: {backend: openvino}\n",
    ]
    for item in judged(facts, texts, tmp_path):
        assert not item.worth and item.low is None
        assert "quantised already" in item.reasons[0].text


# Runtimes


@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.MaxPool2d])
def test_a_pool_wider_than_its_input_opens_in_openvino(
    pool: type[nn.Module], ceil_mode: bool, samples: Any, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino", reason="it is what opens the file")
    from workbench.backends.openvino import ir

    window = 40 if ceil_mode else 5
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), pool(window, ceil_mode=ceil_mode), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    path = tmp_path / "m.onnx"
    export_onnx(network, Export(exporter="torchscript", opset=17), path, SHAPE, samples)
    compiled = openvino.compile_model(
        ir.read(path.read_bytes(), path.name), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    np.testing.assert_allclose(compiled(samples)[0], torch_logits(network, samples), atol=1e-5)
