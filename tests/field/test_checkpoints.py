"""Checkpoints as people bring them: what loads, what is said about it, what is refused with which remedy."""

import argparse
import gzip
import io
import json
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints are read with torch")

from tests.builders import error_of  # noqa: E402
from tests.e2e.plain import network  # noqa: E402
from workbench.cli import main  # noqa: E402
from workbench.errors import WorkbenchError  # noqa: E402
from workbench.model.export.export import export_onnx  # noqa: E402
from workbench.model.export.settings import Export  # noqa: E402
from workbench.model.graph.onnx_file import describe, logits_of  # noqa: E402
from workbench.model.source.file_facts import examine  # noqa: E402
from workbench.model.source.model_source import ModelSource, inspect, load_model  # noqa: E402
from workbench.report import file_facts as words  # noqa: E402
from workbench.workspace.draft import write_draft  # noqa: E402

nn = torch.nn
NAMES = ["a_healthy", "b_rust", "c_blight", "d_mold"]
CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(6, classes)

    def forward(self, x):
        return self.fc(self.features(x))

class Shell(nn.Module):
    def __init__(self, classes, weights):
        super().__init__()
        self.model = Net(classes)
        self.loss_fn = nn.CrossEntropyLoss(weight=weights)

    def forward(self, x):
        return self.model(x)

def create_model(num_classes):
    return Net(num_classes)

def fixed():
    return Net(4)

def any_keyword(*, progress=True, **kwargs):
    return Net(kwargs.pop("num_classes", 1000), **kwargs)

def own_keywords(**kwargs):
    return Net(**kwargs)

def other_word(n_classes=10):
    return Net(n_classes)

def shell(num_classes):
    return Shell(num_classes, None)

def weighing_shell(num_classes):
    return Shell(num_classes, torch.ones(num_classes))

class OnCuda(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) + torch.zeros(3, device="cuda:0")

class InHalf(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(x.mean((2, 3)).to(torch.float16))

def parallel(num_classes):
    return nn.DataParallel(Net(num_classes))

def configured(model_config, num_classes, lr=0.1):
    return Net(num_classes)

def only_weights():
    return Net(4).state_dict()

def nothing():
    Net(4)

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))

def on_meta():
    with torch.device("meta"):
        return Net(4)

built = Net(4)
"""
Weights = dict[str, Any]
Save = Callable[..., ModelSource]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module of the networks above, imported so that whole ones can be pickled."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "krishi_field_net.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    import krishi_field_net  # type: ignore[import-not-found]

    yield krishi_field_net
    sys.path.remove(str(folder))
    del sys.modules["krishi_field_net"]


@pytest.fixture(scope="module")
def net(code: Any) -> Any:
    """A network whose values show."""
    torch.manual_seed(1)
    made = code.Net(4)
    for value in (*made.parameters(), *made.buffers()):
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5, 1.5)
    return made.eval()


@pytest.fixture(scope="module")
def sd(net: Any) -> Weights:
    return dict(net.state_dict())


@pytest.fixture(scope="module")
def noise(code: Any) -> Weights:
    return dict(code.Net(4).state_dict())


@pytest.fixture
def saved(tmp_path: Path, code: Any) -> Save:
    def save(content: object, factory: str = "create_model", **fields: Any) -> ModelSource:
        torch.save(content, tmp_path / "student.ckpt")
        return ModelSource(
            checkpoint=tmp_path / "student.ckpt", factory=f"{code.__file__}:{factory}", **fields
        )

    return save


def below(prefix: str, weights: Weights) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def same(model: Any, net: Any, within: float = 1e-5) -> bool:
    photos = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    assert not model.training
    return bool(torch.allclose(model(photos), net(photos), rtol=within))


# --- 1: KrishiSahayak


def krishi_sahayak(sd: Weights) -> dict[str, Any]:
    """The layout of its own checkpoints, around another network."""
    return {
        "epoch": 3,
        "global_step": 90,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {**below("model.", sd), "loss_fn.weight": torch.ones(4)},
        "class_names": NAMES,
        "hyper_parameters": {
            "learning_rate": 1e-3,
            "optimizer": "adamw",
            "scheduler_params": {},
            "model_config": {
                "backbone_name": "resnet18",
                "streams": {"rgb": {"channels": 3}},
                "fusion": None,
            },
            "preprocessing_stats": {"image_size": [128, 128], "mean": [0.5, 0.4, 0.3], "std": [0.2] * 3},
        },
        "loops": {},
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(90.0)}}, "param_groups": [{"lr": 1e-3}]}],
        "lr_schedulers": [],
    }


@pytest.mark.parametrize("factory", ["create_model", "fixed", "shell", "weighing_shell"])
def test_a_shell_with_a_loss_loads_into_the_bare_network_and_into_the_shell(
    saved: Save, sd: Weights, net: Any, factory: str
) -> None:
    source = saved(krishi_sahayak(sd), factory)
    info = inspect(source)
    assert same(load_model(source, None), net)
    assert (info.layout, info.class_names, info.num_classes) == ("lightning", tuple(NAMES), 4)
    assert info.preprocess.mean == (0.5, 0.4, 0.3)
    if factory != "weighing_shell":  # its own loss takes the weight
        assert "weights taken from `state_dict.model`; left aside `loss_fn.weight`" in info.sentence()


@pytest.mark.parametrize("factory", ["shell", "weighing_shell"])
@pytest.mark.parametrize("prefix", ["", "net.", "module."])
def test_a_shell_takes_weights_that_were_saved_without_it_or_under_another_name(
    saved: Save, sd: Weights, net: Any, factory: str, prefix: str
) -> None:
    assert same(load_model(saved(below(prefix, sd), factory), None), net)


@pytest.mark.parametrize("stated", [{}, {"class_names": NAMES}, {"hyper_parameters": {"num_classes": 1000}}])
def test_the_number_of_classes_is_read_from_the_weights(
    saved: Save, sd: Weights, net: Any, stated: dict[str, Any]
) -> None:
    source = saved({"state_dict": sd, **stated})
    assert inspect(source).num_classes == 4
    assert same(load_model(source, None), net)


def test_a_factory_that_takes_any_keyword_is_given_the_number_of_classes(
    saved: Save, sd: Weights, net: Any
) -> None:
    """As torchvision's are; one that refuses it is called without."""
    assert same(load_model(saved(sd, "any_keyword"), None), net)
    assert same(load_model(saved(sd, "own_keywords", factory_args={"classes": 4}), None), net)
    error = error_of(lambda: load_model(saved(sd, "other_word"), None))
    assert "the file is of 4 classes: give the factory that number" in str(error.hint)


def test_the_number_of_classes_does_not_depend_on_the_order_of_the_keys(
    saved: Save, sd: Weights, net: Any
) -> None:
    source = saved(dict(reversed(sd.items())))
    assert inspect(source).num_classes == 4
    assert same(load_model(source, 9), net)


@pytest.mark.parametrize(
    "around",
    [
        {"hyper_parameters": {"class_names": NAMES}},
        {"hyper_parameters": argparse.Namespace(data=argparse.Namespace(class_names=NAMES))},
        {"meta": {"CLASSES": tuple(NAMES)}},
        {"class_to_idx": {name: index for index, name in reversed(list(enumerate(NAMES)))}},
        {"config": {"id2label": dict(enumerate(NAMES))}},
        {"class_names": np.array(NAMES)},
    ],
)
def test_class_names_are_found_at_any_sensible_depth(
    saved: Save, sd: Weights, around: dict[str, Any]
) -> None:
    assert inspect(saved({"state_dict": sd, **around})).class_names == tuple(NAMES)


# --- 2: what loads


def whole(net: Any) -> Any:
    return net


def through_modules(sd: Weights) -> Weights:
    return {key.replace("features.", "features.module."): value for key, value in sd.items()}


def nested(sd: Weights) -> Weights:
    tree: Weights = {}
    for key, value in sd.items():
        at = tree
        for part in key.split(".")[:-1]:
            at = at.setdefault(part, {})
        at[key.split(".")[-1]] = value
    return tree


LAYOUTS: dict[str, Callable[[Weights], Any]] = {
    "Lightning with a criterion": lambda sd: {
        "state_dict": {**below("model.", sd), "criterion.weight": torch.ones(4)}
    },
    "a loss beside the bare names": lambda sd: {**sd, "ce.weight": torch.ones(4)},
    "an auxiliary head": lambda sd: {**sd, "aux_head.w": torch.ones(4, 6), "aux_head.b": torch.ones(4)},
    "DataParallel of a part": through_modules,
    "DDP, compile and an average": lambda sd: {
        "ema": {"n_averaged": torch.tensor(3), **below("module._orig_mod.", sd)}
    },
    "AveragedModel": lambda sd: {"n_averaged": torch.tensor(3), **below("module.", sd)},
    "net and accuracy": lambda sd: {"net": sd, "acc": 93.1},
    "DeepSpeed": lambda sd: {"module": sd, "optimizer": None, "global_steps": 3},
    "fastai": lambda sd: {"model": sd, "opt": {"hypers": [{}], "state": [{"grad_avg": torch.ones(4, 6)}]}},
    "mmpretrain": lambda sd: {"meta": {"epoch": 3}, "state_dict": below("backbone.", sd)},
    "no num_batches_tracked": lambda sd: {k: v for k, v in sd.items() if "num_batches" not in k},
    "a profiler's counters": lambda sd: {
        **sd, "total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1),
    },
    "a tree of names": nested,
    "numpy arrays": lambda sd: {key: value.numpy() for key, value in sd.items()},
    "double": lambda sd: {key: value.double() for key, value in sd.items()},
    "sparse": lambda sd: {**sd, "fc.weight": sd["fc.weight"].to_sparse()},
    "a backbone and a head": lambda sd: {
        ("head." if key.startswith("fc.") else "backbone.") + key: value for key, value in sd.items()
    },
    "an unnamed list": lambda sd: [3, sd],
    "keys that are numbers": lambda sd: {0: sd, 1: "last"},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_found_wherever_they_lie(saved: Save, sd: Weights, net: Any, layout: str) -> None:
    source = saved(LAYOUTS[layout](sd))
    assert same(load_model(source, None), net)
    assert inspect(source).num_classes == 4


@pytest.mark.parametrize("layout", ["Lightning with a criterion", "DDP, compile and an average", "DeepSpeed"])
def test_weights_fit_a_network_that_is_wrapped_itself(
    saved: Save, sd: Weights, net: Any, layout: str
) -> None:
    assert same(load_model(saved(LAYOUTS[layout](sd), "parallel"), None), net)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(saved: Save, sd: Weights, net: Any, kind: Any) -> None:
    half = {key: value.to(kind) if value.is_floating_point() else value for key, value in sd.items()}
    assert same(load_model(saved(half), None), net, within=0.03)


@pytest.mark.parametrize("old_format", [False, True])
def test_the_weights_of_a_whole_pickled_network_are_read_without_its_class(
    tmp_path: Path, saved: Save, net: Any, old_format: bool
) -> None:
    source = saved({"model": net, "epoch": 3})
    torch.save({"model": net}, tmp_path / "student.ckpt", _use_new_zipfile_serialization=not old_format)
    assert same(load_model(source, None), net)
    assert "read without running `krishi_field_net.Net`" in inspect(source).sentence()


def test_a_state_dict_in_safetensors_and_in_a_plain_pickle_is_read(
    tmp_path: Path, saved: Save, sd: Weights, net: Any
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(sd, tmp_path / "w.safetensors", metadata={"format": "pt"})
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in sd.items()}}))
    for name in ("w.safetensors", "w.pkl"):
        source = saved(sd).model_copy(update={"checkpoint": tmp_path / name})
        assert same(load_model(source, None), net)


def test_a_file_is_known_by_its_content_whatever_its_name(
    tmp_path: Path, saved: Save, sd: Weights, net: Any
) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(sd, tmp_path / "w.pth")
    torch.save(sd, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        source = saved(sd).model_copy(update={"checkpoint": tmp_path / name})
        assert same(load_model(source, None), net)


# --- 2: which weights are taken

TWO = {
    "model": ("model", "model_ema", "an EMA"),
    "state_dict": ("state_dict", "state_dict_ema", "an EMA"),
    "net": ("net", "teacher", "a teacher"),
    "callback": ("state_dict", "callbacks.EMA.ema_state_dict", "an EMA"),
}


@pytest.mark.parametrize(("first", "second", "role"), TWO.values())
def test_of_two_sets_that_fit_it_says_which_it_took_and_how_to_choose(
    saved: Save, sd: Weights, noise: Weights, net: Any, first: str, second: str, role: str
) -> None:
    content: dict[str, Any] = {first: noise, "epoch": 9}
    at = content
    for part in second.split(".")[:-1]:
        at = at.setdefault(part, {})
    at[second.split(".")[-1]] = sd
    said = inspect(source := saved(content)).sentence()
    assert f"weights taken from `{first}`; 2 sets of weights fit, `{second}` ({role}) too" in said
    assert f"`model.weights: {second}` in krishi.yaml takes another, as `export --weights` does" in said
    chosen = source.model_copy(update={"weights": second})
    assert same(load_model(chosen, None), net)
    assert not same(load_model(source, None), net)
    assert f"weights taken from `{second}` ({role})" in inspect(chosen).sentence()


def test_one_mapping_under_two_names_is_two_sets(saved: Save, sd: Weights, net: Any) -> None:
    source = saved({"model": sd, "model_ema": sd, "history": [sd] * 20})
    groups = [(group.place, group.tensors) for group in examine(source.checkpoint or Path()).groups]
    few = 6 * len(sd)  # a mapping is named 8 times at most
    assert groups == [("model", len(sd)), ("model_ema", len(sd)), ("history.*", few)]
    chosen = source.model_copy(update={"weights": "model_ema"})
    assert same(load_model(chosen, None), net)
    assert "weights taken from `model_ema` (an EMA)" in inspect(chosen).sentence()


def test_an_export_takes_the_weights_it_is_told_to(
    saved: Save, sd: Weights, noise: Weights, net: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = saved({"model": noise, "model_ema": sd}), tmp_path / "m.onnx"
    words = ["export", "--checkpoint", f"{source.checkpoint}", "--factory", f"{source.factory}", "--quiet"]
    words += ["--output", str(output), "--input-shape", "1", "3", "16", "16", "--opset-version", "17"]
    assert main([*words, "--weights", "model_ema"]) == 0
    assert "weights taken from `model_ema` (an EMA)" in capsys.readouterr().out
    logits = logits_of(output, describe(output), PHOTOS)
    np.testing.assert_allclose(logits, net(torch.from_numpy(PHOTOS)).detach().numpy(), rtol=1e-4)
    again = [
        "export",
        "--checkpoint",
        str(output),
        "--output",
        str(tmp_path / "again.onnx"),
        "--weights",
        "model",
    ]
    assert main(again) == 2
    assert f"--weights model: {output} is a whole network, and has one set" in capsys.readouterr().err


@pytest.mark.parametrize(
    "size",
    [
        [96, 128], (96, 128), [3, 96, 128], [96, 128, 3], [96.0, 128.0], ["96", "128"],
        {"height": 96, "width": 128}, np.array([96, 128]),
    ],
    ids=str,
)  # fmt: skip
def test_the_size_and_the_mean_are_read_however_they_are_written(
    saved: Save, sd: Weights, size: object
) -> None:
    stats = {"image_size": size, "mean": torch.full((3, 1, 1), 0.5), "std": np.full((1, 3, 1, 1), 0.25)}
    stated = inspect(saved({"state_dict": sd, "preprocessing_stats": stats})).preprocess
    assert (stated.resize, stated.crop) == ((96, 128), (96, 128))
    assert (stated.mean, stated.std) == ((0.5,) * 3, (0.25,) * 3)


def test_a_statement_that_cannot_be_followed_leaves_the_word_to_krishi_yaml(
    saved: Save, sd: Weights, tmp_path: Path
) -> None:
    stats = {"mean": [0.5], "std": [0.25]}
    info = inspect(saved({"state_dict": sd, "class_names": NAMES, "preprocessing_stats": stats}))
    assert (info.preprocess.mean, info.class_names) == (None, tuple(NAMES))
    assert info.notes == (
        f"{tmp_path}/student.ckpt: preprocessing_stats: mean and std must be three numbers, scale a number",
    )


def test_init_reads_the_names_and_the_preprocessing_of_a_checkpoint(saved: Save, sd: Weights) -> None:
    source = saved(krishi_sahayak(sd))
    _, findings = write_draft((source.checkpoint or Path()).parent)
    assert findings[0].startswith(
        "checkpoint: student.ckpt, a Lightning checkpoint: 4 classes, named; resize"
    )
    assert "class names: those of the checkpoint" in findings


def test_an_archive_a_page_and_a_model_under_another_name_are_called_so(
    tmp_path: Path, saved: Save, sd: Weights
) -> None:
    path = saved(sd).checkpoint
    assert path is not None
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "best/student.pt")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.add(path, "student.pt")
    (tmp_path / "c.pt").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "d.pt").write_text("<!DOCTYPE html><html>404</html>")
    (tmp_path / "e.bin").write_bytes(b"\x08\x08\x12\x07pytorch")
    errors = [error_of(lambda name=name: examine(tmp_path / name)) for name in ("a.zip", "b.tar", "c.pt")]
    assert [error.hint for error in errors[1:]] == ["unpack it, and give the file in it"] * 2
    assert errors[0].hint == "unpack it, and give `best/student.pt`"
    assert (
        "is not a PyTorch checkpoint but a web page" in error_of(lambda: examine(tmp_path / "d.pt")).message
    )
    assert "a name that ends in .onnx" in str(error_of(lambda: examine(tmp_path / "e.bin")).hint)


@pytest.mark.parametrize(
    ("factory", "said", "remedy"),
    [
        ("lazy", "layers have no shape yet: `1.weight`", "run it once in the factory"),
        ("on_meta", "on the device `meta`, without values", "build it on the CPU"),
        ("built", "is a network, not a function", "`def create_model(): return built`"),
        ("configured", "needs `model_config`", "`model.factory_args: {model_config: ...}`"),
        ("only_weights", "returned `OrderedDict`", "`return model`"),
        ("nothing", "returned `NoneType`", "`return model`"),
    ],
)
def test_a_factory_that_cannot_be_used_says_what_to_give(
    saved: Save, sd: Weights, factory: str, said: str, remedy: str
) -> None:
    error = error_of(lambda: load_model(saved(sd, factory), None))
    assert said in error.message and remedy in (error.hint or "")


def test_a_factory_s_further_arguments_stand_in_krishi_yaml(saved: Save, sd: Weights, net: Any) -> None:
    source = saved(sd, "configured", factory_args={"model_config": {"depth": 18}})
    assert same(load_model(source, None), net)


def test_a_student_and_its_teacher_in_one_shell_are_told_apart(
    saved: Save, sd: Weights, noise: Weights, net: Any
) -> None:
    source = saved({"state_dict": {**below("teacher.", noise), **below("student.", sd)}})
    assert same(load_model(source, None), net)
    assert "`state_dict.teacher` (a teacher) too" in inspect(source).sentence()


def test_averages_in_a_list_are_chosen_by_their_number(
    saved: Save, sd: Weights, noise: Weights, net: Any
) -> None:
    assert same(load_model(saved({"runs": [noise, sd]}, weights="runs.1"), None), net)


def test_a_place_without_weights_is_refused_with_those_that_have_some(
    saved: Save, sd: Weights, noise: Weights
) -> None:
    source = saved({"model": sd, "model_ema": noise}, weights="ema.module")
    error = error_of(lambda: inspect(source))
    assert "the checkpoint has none at `ema.module`" in error.message
    assert error.hint == "it has some at `model`, `model_ema`"


# --- 2: what is refused


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"features.8.weight": torch.ones(4, 4)}, "1 unexpected: `features.8.weight`", "factory"),
        ({"fc2.weight": torch.ones(4, 4)}, "1 unexpected: `fc2.weight`", "factory"),
        ({"neck.weight": torch.ones(6, 6)}, "1 unexpected: `neck.weight`", "factory"),
        ({"fc.bias": None}, "1 missing: `fc.bias`", "factory"),
        ({"fc.weight": torch.ones(6, 4)}, "`fc.weight (6, 4) for (4, 6), transposed`", "factory"),
        ({"fc.weight": torch.ones(4, 6, device="meta")}, "without values", "factory"),
        ({"fc.weight": torch.ones(4, 6, dtype=torch.int8)}, "(4, 6), as int8`", "floating point"),
    ],
)
def test_weights_of_another_network_are_refused_with_what_differs(
    saved: Save, sd: Weights, change: Weights, message: str, hint: str
) -> None:
    changed = {key: value for key, value in {**sd, **change}.items() if value is not None}
    error = error_of(lambda: load_model(saved({"model": changed}), None))
    assert message in error.message
    assert hint in (error.hint or "")


def test_the_fewest_keys_that_do_not_fit_come_first(saved: Save, sd: Weights) -> None:
    renamed = {key.replace("features.", "body."): value for key, value in sd.items()}
    lines = error_of(
        lambda: load_model(saved(below("model.", {**renamed, "x": sd["fc.bias"]})), None)
    ).message
    counts = [int(line.split()[0]) for line in lines.splitlines()[1:]]
    assert counts == sorted(counts)
    assert "criterion" not in lines


# --- 2: parts that are put together


def pruned(net: Any) -> None:
    from torch.nn.utils import prune

    prune.l1_unstructured(net.fc, "weight", 0.5)
    prune.random_unstructured(net.features[0], "bias", 0.5)


def weight_normed(net: Any) -> None:
    nn.utils.parametrizations.weight_norm(net.fc)
    nn.utils.parametrizations.weight_norm(net.features[0])


def old_weight_normed(net: Any) -> None:
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(net.features[3])


def spectral_normed(net: Any) -> None:
    nn.utils.parametrizations.spectral_norm(net.fc)


@pytest.mark.parametrize("change", [pruned, weight_normed, old_weight_normed, spectral_normed])
def test_weights_that_are_kept_in_parts_are_put_together(
    saved: Save, code: Any, sd: Weights, change: Callable[[Any], None]
) -> None:
    model = code.Net(4)
    model.load_state_dict(sd)
    change(model)
    model.eval()
    assert same(load_model(saved({"state_dict": below("model.", dict(model.state_dict()))}), None), model)


def test_parts_that_cannot_be_put_together_say_how_to_save_again(saved: Save, code: Any) -> None:
    model = code.Net(4)
    nn.utils.parametrizations.orthogonal(model.fc)
    error = error_of(lambda: load_model(saved(model.state_dict()), None))
    assert "remove_parametrizations(module, 'weight')` and save again" in (error.hint or "")


# --- 2: nothing is imported and nothing is called


class Own:
    def __init__(self) -> None:
        self.depth = 3


class Evil:
    """What it is made of when it is unpickled writes a file."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("old_format", [False, True])
def test_whatever_stands_beside_the_weights_is_named_and_never_run(
    tmp_path: Path, saved: Save, sd: Weights, net: Any, old_format: bool
) -> None:
    witness = tmp_path / "witness"
    source = saved(sd)
    content = {
        "state_dict": sd,
        "hyper_parameters": argparse.Namespace(data_dir=Path("x"), class_names=NAMES),
        "best": np.float64(0.5),
        "own": Own(),
        "evil": [Evil(exec, f"open({str(witness)!r}, 'w')"), Evil(Path.touch, witness), Evil(eval, "1/0")],
        "function": error_of,
    }
    torch.save(content, tmp_path / "student.ckpt", _use_new_zipfile_serialization=not old_format)
    info = inspect(source)
    assert same(load_model(source, None), net)
    assert not witness.exists()
    assert info.class_names == tuple(NAMES)
    for name in ("argparse.Namespace", "pathlib.PosixPath", "tests.field.test_checkpoints.Own"):
        assert name in examine(tmp_path / "student.ckpt").stand_ins
    assert "read without running `argparse.Namespace`, `pathlib.PosixPath`" in info.sentence()


@pytest.mark.parametrize("protocol", range(6))
def test_no_protocol_of_pickle_runs_anything(tmp_path: Path, protocol: int) -> None:
    from workbench.model.source.inert_pickle import read

    witness, path = tmp_path / "witness", tmp_path / "w.pkl"
    evil = Evil(exec, f"open({str(witness)!r}, 'w')")
    path.write_bytes(pickle.dumps({"evil": evil, "own": Own(), "w": np.ones(2)}, protocol=protocol))
    content, names = read(path)
    assert isinstance(content, dict)
    assert content["own"] == content["own"] and content["own"]["depth"] == 3
    assert content["w"].tolist() == [1, 1]
    assert any(name.endswith(".exec") for name in names)
    assert not witness.exists()


def test_cycles_depth_and_shared_parts_end(saved: Save, sd: Weights, net: Any) -> None:
    content: dict[str, Any] = {"state_dict": sd}
    content["self"] = content
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep, deep]
    content["deep"] = deep
    assert same(load_model(saved(content), None), net)


def test_the_state_of_what_is_known_cannot_be_changed_by_a_file() -> None:
    """BUILD on a class, a function or a dict of ours sets nothing."""
    from workbench.model.source.inert_pickle import InertUnpickler

    for name in (b"torch._utils\n_rebuild_tensor_v2", b"collections\nOrderedDict", b"torch\nfloat32"):
        attack = b"\x80\x02c" + name + b"\nN}U\x04evilK\x01s\x86b."
        assert not hasattr(InertUnpickler(io.BytesIO(attack)).load(), "evil")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "evil")


class DTensor(Own):
    """As torch.distributed calls a tensor of which each process has a part."""


def test_a_sharded_checkpoint_says_how_to_gather_it(saved: Save, sd: Weights) -> None:
    source = saved({"model": {**sd, "fc.weight": DTensor()}})
    error = error_of(lambda: inspect(source))
    assert "1 missing: `fc.weight`" in error.message
    assert "full_state_dict=True" in (error.hint or "")


# --- 2: files that are something else

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


@pytest.mark.parametrize("name", ["student.ckpt", "m.onnx", "w.safetensors", "net.pt2", "net.pt"])
def test_a_git_lfs_pointer_is_called_one(tmp_path: Path, code: Any, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(POINTER)
    message = f"model.checkpoint: {path} is a Git LFS pointer: `git lfs pull`"
    source = ModelSource(checkpoint=path, factory=f"{code.__file__}:fixed")
    assert error_of(lambda: inspect(source)).message == message
    assert error_of(lambda: examine(path)).message == message


def test_a_git_lfs_pointer_among_the_labels_or_in_a_folder_is_called_one(
    tmp_path: Path, saved: Save, sd: Weights
) -> None:
    (tmp_path / "labels.txt").write_bytes(POINTER)
    labels = tmp_path / "labels.txt"
    told = error_of(lambda: inspect(saved(sd, class_names=labels))).message
    assert told == f"model.class_names: {labels} is a Git LFS pointer: `git lfs pull`"
    config = {"architectures": ["ViTForImageClassification"], "id2label": dict(enumerate(NAMES))}
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config))
    (tmp_path / "vit" / "model.safetensors").write_bytes(POINTER)
    folder = ModelSource(checkpoint=tmp_path / "vit")
    told = error_of(lambda: inspect(folder)).message
    assert told.startswith(f"model.checkpoint: {tmp_path}/vit/model.safetensors is a Git LFS pointer")


def test_a_file_without_weights_names_what_it_holds_and_what_was_not_run(saved: Save) -> None:
    error = error_of(lambda: inspect(saved({"epoch": 3, "own": Own()})))
    assert "a dict with the keys `epoch`, `own`, and no state dict" in error.message
    assert "it names `tests.field.test_checkpoints.Own`, which is not run" in error.message


# --- 2: networks that answer otherwise than a classifier


SHAPE = (1, 3, 16, 16)
TRACED = "ignore::torch.jit.TracerWarning"
PHOTOS = np.random.default_rng(3).standard_normal((4, *SHAPE[1:]), dtype=np.float32)


def refused(model: Any, tmp_path: Path) -> WorkbenchError:
    export = Export(exporter="torchscript", opset=17)
    return error_of(lambda: export_onnx(model.eval(), export, tmp_path / "m.onnx", SHAPE, PHOTOS))


def headed(*layers: Any, classes: int = 4) -> Any:
    torch.manual_seed(2)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))


def test_one_output_gets_the_remedy_in_a_run_and_in_an_export(saved: Save, code: Any, tmp_path: Path) -> None:
    source = saved(code.Net(1).state_dict())
    for error in (error_of(lambda: inspect(source)), refused(load_model(source, None), tmp_path)):
        assert "has 1 class" in error.message
        assert (error.hint or "").startswith("1 output: give the two logits 0 and z")
    squeezed = nn.Sequential(headed(classes=1), nn.Flatten(0))
    assert "two logits 0 and z" in (refused(squeezed, tmp_path).hint or "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("OnCuda", "the device `cuda:0` is written into its code"),
        ("InHalf", "a type of numbers other than float32 is written into its code"),
    ],
)
def test_torchscript_for_another_device_or_type_is_refused_with_that(
    tmp_path: Path, code: Any, model: str, reason: str
) -> None:
    torch.jit.script(getattr(code, model)()).save(str(tmp_path / "m.pt"))
    error = refused(load_model(ModelSource(checkpoint=tmp_path / "m.pt"), None), tmp_path)
    assert reason in error.message
    assert "save it again" in (error.hint or "")
    assert "interpreter" not in error.message


class AlwaysDrops(nn.Module):  # type: ignore[name-defined,misc]
    def forward(self, x: Any) -> Any:
        return nn.functional.dropout(x, 0.5)


class Noisy(nn.Module):  # type: ignore[name-defined,misc]
    def forward(self, x: Any) -> Any:
        return x + 0.01 * torch.randn_like(x)


@pytest.mark.parametrize("layer", [AlwaysDrops(), Noisy()])
def test_chance_in_the_forward_is_called_so(tmp_path: Path, layer: Any) -> None:
    assert "gives other answers for the same photo" in refused(headed(layer), tmp_path).message


@pytest.mark.parametrize("classes", [None, 4])
def test_a_batch_norm_without_statistics_is_called_so(tmp_path: Path, classes: int | None) -> None:
    layer = nn.BatchNorm2d(3, track_running_stats=False)
    last = nn.BatchNorm1d(4, track_running_stats=False)
    model = headed(layer) if classes is None else nn.Sequential(headed(), last)
    error = refused(model, tmp_path)
    assert error.message.startswith("a photo's answer depends on the others in its batch")
    assert "track_running_stats" in (error.hint or "")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", TRACED)
@pytest.mark.parametrize("depth", [1, 4])
def test_instance_norm_from_torchscript_is_accepted(tmp_path: Path, depth: int) -> None:
    layers = [layer for _ in range(depth) for layer in (nn.Conv2d(3, 3, 3), nn.InstanceNorm2d(3), nn.ReLU())]
    torch.jit.trace(headed(*layers).eval(), torch.zeros(2, *SHAPE[1:])).save(str(tmp_path / "m.pt"))
    model = load_model(ModelSource(checkpoint=tmp_path / "m.pt"), None)
    export = Export(exporter="torchscript", opset=17)
    assert export_onnx(model, export, tmp_path / "m.onnx", SHAPE, PHOTOS).classes == 4


# --- inspect


def test_inspect_shows_what_a_file_holds_and_the_lines_that_are_missing(saved: Save, sd: Weights) -> None:
    source = saved({**krishi_sahayak(sd), "data_dir": Path("x")})
    assert source.checkpoint is not None
    shown = words.text(examine(source.checkpoint))
    for line in (
        "student.ckpt: Lightning checkpoint",
        "classes: 4, named a_healthy, b_rust, c_blight, d_mold",
        "settings: learning_rate, optimizer, scheduler_params, model_config, preprocessing_stats",
        "named in the file, and neither imported nor run: `pathlib.PosixPath`",
        "    factory: student.py:create_model        # builds the network of these weights; or timm:name",
        "    validation: data/val                    # class folders of photos",
    ):
        assert line in shown.splitlines()
    assert "state_dict: 17 tensors" in shown
    assert "mean:" not in shown.partition("krishi.yaml needs")[2]


@pytest.mark.parametrize(
    ("beside", "note"),
    [
        (
            {"class_names": ["a", "b"]},
            "it states 2 classes, but `model.fc.weight` has 4 outputs: a run refuses that",
        ),
        (
            {"class_to_idx": {name: number for number, name in enumerate(NAMES, start=1)}},
            "`class_to_idx` is no table of names and numbers from 0, and is not read",
        ),
        (
            {"head": {"_packed_params": torch.ones(4, 6)}},
            "its weights are quantised already: save those in floating point, recipes quantise them",
        ),
    ],
)
def test_inspect_says_what_it_cannot_use_of_a_file(
    tmp_path: Path, sd: Weights, beside: dict[str, Any], note: str
) -> None:
    torch.save({"model": sd, **beside}, tmp_path / "m.pt")
    assert note in words.text(examine(tmp_path / "m.pt"))


@pytest.mark.parametrize(
    ("key", "remedy"), [("fc.lora_A", "merge its adapters"), ("_flat_param", "flattened by FSDP")]
)
def test_weights_that_another_library_keeps_in_its_own_form_come_with_the_remedy(
    saved: Save, sd: Weights, key: str, remedy: str
) -> None:
    error = error_of(lambda: inspect(saved({**sd, key: torch.ones(3, 3)})))
    assert f"1 unexpected: `{key}`" in error.message and remedy in str(error.hint)


def test_inspect_shows_the_sets_to_choose_from(
    saved: Save, sd: Weights, noise: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    average = {"n_averaged": torch.tensor(3), **below("module.", sd)}
    content = {"model": noise, "model_ema": average, "net": below("teacher.", noise), "arch": "resnet10t"}
    source = saved(content)
    assert main(["inspect", f"{source.checkpoint}", "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    groups = {group["place"]: (group["tensors"], group["role"]) for group in answer["groups"]}
    count = len(sd)
    assert groups == {
        "model": (count, None), "model_ema": (count + 1, "an EMA"), "net.teacher": (count, "a teacher")
    }  # fmt: skip
    needed = "\n".join(answer["krishi_yaml"])
    assert "# weights: model_ema" in needed
    assert "factory: timm:resnet10t" in needed
    assert "class_names: labels.json" in needed and "4 names" in needed
    assert "mean: [" in needed


@pytest.mark.parametrize("order", [list, sorted], ids=["as trained", "sorted"])
def test_inspect_counts_the_outputs_of_the_head_in_whatever_order_a_file_lists_it(
    saved: Save, sd: Weights, order: Callable[..., list[str]]
) -> None:
    listed = {name: sd[name] for name in order(sd)}
    for content in (listed, {"state_dict": below("net.", listed)}, {"w": listed, "num_classes": 5}):
        source = saved(content)
        assert source.checkpoint is not None
        assert examine(source.checkpoint).info.num_classes == 4
    backbone = {name: value for name, value in listed.items() if not name.startswith("fc.")}
    source = saved(backbone)
    assert source.checkpoint is not None
    found = examine(source.checkpoint)
    assert found.info.num_classes is None
    assert "none of its layers is recognised as a classification head" in words.text(found)


def test_inspect_trusts_the_order_of_a_sorted_file_for_numbered_layers_alone(saved: Save) -> None:
    matrix, filters = torch.ones(4, 8), torch.ones(8, 3, 3, 3)
    for content, count in (
        ({"0.weight": filters, "2.bias": torch.ones(4), "2.weight": matrix}, 4),
        ({"body.weight": filters, "out.bias": torch.ones(4), "out.weight": matrix}, None),
        ({"body.weight": filters, "out.weight": matrix, "out.bias": torch.ones(4)}, 4),
    ):
        source = saved(content)
        assert source.checkpoint is not None
        assert examine(source.checkpoint).info.num_classes == count


@pytest.mark.parametrize("last", ["norm.weight", "pooler.dense.weight", "blocks.3.se.fc.weight"])
def test_inspect_takes_no_layer_of_a_backbone_for_its_head(saved: Save, last: str) -> None:
    shape = (8,) if last == "norm.weight" else (8, 8)
    source = saved(
        {"blocks.0.fc2.weight": torch.ones(8, 32), last: torch.ones(shape), "norm.bias": torch.ones(8)}
    )
    assert source.checkpoint is not None
    assert examine(source.checkpoint).info.num_classes is None


def test_inspect_tells_class_names_that_do_not_fit_the_weights(saved: Save, sd: Weights) -> None:
    source = saved({"state_dict": sd, "class_names": [*NAMES, "e_more"]})
    assert source.checkpoint is not None
    shown = words.text(examine(source.checkpoint))
    told = "it states 5 classes, but `state_dict.fc.weight` has 4 outputs: a run refuses that"
    assert told in shown.splitlines()
    assert "class_names: labels.json                # 4 names" in shown
    assert "has 5 names" in error_of(lambda: inspect(source)).message


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", TRACED)
def test_inspect_takes_every_kind_of_file(tmp_path: Path) -> None:
    model = headed().eval()
    torch.jit.trace(model, torch.zeros(2, *SHAPE[1:])).save(str(tmp_path / "m.pt"))
    export_onnx(model, Export(exporter="torchscript", opset=17), tmp_path / "m.onnx", SHAPE, PHOTOS)
    program = torch.export.export(model, (torch.zeros(2, *SHAPE[1:]),))
    torch.export.save(program, tmp_path / "m.pt2")
    found = {name: examine(tmp_path / name) for name in ("m.pt", "m.onnx", "m.pt2")}
    assert {facts.info.kind for facts in found.values()} == {"torchscript", "onnx", "torch-export"}
    assert [found[name].groups[0].tensors for name in ("m.pt", "m.onnx")] == [2, 2]
    assert found["m.onnx"].info.num_classes == 4
    assert f"preprocess: {{resize: {SHAPE[2]}, mean: [" in words.text(found["m.onnx"])
    assert "trust_code: true" in words.text(found["m.pt2"])
    assert "factory" not in words.text(found["m.pt"])


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (
            [("Softmax", "logits", "y")],
            "the network ends in softmax: its probabilities are served as they are",
        ),
        ([("LogSoftmax", "logits", "p"), ("Identity", "p", "y")], "the network ends in log-softmax"),
        ([("Sigmoid", "logits", "y")], "the network ends in a sigmoid"),
        ([("Relu", "logits", "y")], None),
    ],
    ids=lambda last: last[0][0] if isinstance(last, list) else "",
)
def test_inspect_says_where_an_onnx_file_gives_no_logits(
    tmp_path: Path, last: list[tuple[str, str, str]], said: str | None
) -> None:
    onnx = pytest.importorskip("onnx")
    model = network()
    model.graph.node.extend(onnx.helper.make_node(op, [given], [made]) for op, given, made in last)
    model.graph.output[0].name = "y"
    onnx.save(model, tmp_path / "m.onnx")
    found = examine(tmp_path / "m.onnx")
    assert said in words.text(found) if said else "the network ends" not in words.text(found)
    assert (found.outputs is None) == (said is None)
