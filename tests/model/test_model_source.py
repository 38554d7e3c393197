"""The sources of a model: checkpoints, their networks, and the messages about bad ones."""

import json
import pickle
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are read with torch")

from tests.builders import error_of  # noqa: E402
from workbench.model.source.info import SourceInfo  # noqa: E402
from workbench.model.source.model_source import ModelSource, inspect, load_model, source_digest  # noqa: E402
from workbench.photos.contract import StatedPreprocess  # noqa: E402

NETWORK = """
import torch
from torch import nn

def create_model(num_classes: int, width: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, num_classes),
    )

def broken(num_classes: int) -> nn.Module:
    raise ZeroDivisionError("no width")

def no_network() -> int:
    return 3

def script() -> nn.Module:
    raise SystemExit(2)
"""
NAMES = ["healthy", "rust", "scab"]
Save = Callable[..., ModelSource]
Weights = dict[str, Any]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NETWORK)
    return path


@pytest.fixture
def weights(network: Path) -> dict[str, Any]:
    """A state dict of the network above, with 3 classes and values that show."""
    torch.manual_seed(1)
    return dict(runpy.run_path(str(network))["create_model"](3).state_dict())


@pytest.fixture
def saved(tmp_path: Path, network: Path) -> Save:
    """Write an object as a checkpoint and make it a source."""

    def save(content: object, **fields: Any) -> ModelSource:
        path = tmp_path / "model.ckpt"
        torch.save(content, path)
        return ModelSource(checkpoint=path, **{"factory": f"{network}:create_model", **fields})

    return save


def lightning(weights: Weights, **extras: Any) -> dict[str, Any]:
    return {
        "pytorch-lightning_version": "2.5.0",
        "epoch": 3,
        "state_dict": {f"model.{key}": value for key, value in weights.items()},
        "hyper_parameters": {"num_classes": 3, "learning_rate": 0.1},
        **extras,
    }


def test_a_lightning_checkpoint_says_its_classes_and_its_preprocessing(saved: Save, weights: Weights) -> None:
    stats = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "color": "RGB", "scale": 1 / 255}
    stats |= {"resize_shorter_side": 256, "center_crop": 224, "interpolation": "bicubic"}
    info = inspect(saved(lightning(weights, class_names=NAMES, preprocessing_stats=stats)))
    facts = (info.kind, info.layout, info.class_names, info.num_classes)
    assert facts == ("state-dict", "lightning", tuple(NAMES), 3)
    assert SourceInfo.model_validate_json(info.model_dump_json()) == info
    assert info.preprocess == StatedPreprocess(
        resize=256, crop=224, rounding="albumentations", interpolation="bicubic", mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.2),
    )  # fmt: skip


def test_a_bare_state_dict_says_how_many_classes_it_has_and_nothing_else(
    saved: Save, weights: Weights
) -> None:
    info = inspect(saved(weights))
    assert info == SourceInfo(kind="state-dict", layout="plain", num_classes=3)


def test_a_pixel_scale_other_than_one_over_255_is_folded_into_mean_and_std(
    saved: Save, weights: Weights
) -> None:
    stats = {"mean": [127.5, 127.5, 127.5], "std": [51, 51, 51], "scale": 1.0}
    stated = inspect(saved(lightning(weights, preprocessing_stats=stats))).preprocess
    assert stated.mean == pytest.approx((0.5, 0.5, 0.5))
    assert stated.std == pytest.approx((0.2, 0.2, 0.2))


def test_the_input_size_is_the_crop_where_nothing_better_is_said(saved: Save, weights: Weights) -> None:
    config = {"input_height": 128, "input_width": 128, "num_classes": 3}
    assert inspect(saved(lightning(weights, model_config=config))).preprocess.crop == 128


@pytest.mark.parametrize(("size", "crop"), [(96, 96), ([96, 128], (96, 128)), (None, None), ("large", None)])
def test_what_lies_flat_in_the_hyper_parameters_is_read(
    saved: Save, weights: Weights, size: object, crop: object
) -> None:
    settings = {"num_classes": 3, "mean": [0.5, 0.4, 0.3], "std": [0.2] * 3, "image_size": size}
    stated = inspect(saved(lightning(weights, hyper_parameters=settings))).preprocess
    assert stated == StatedPreprocess(crop=crop, mean=(0.5, 0.4, 0.3), std=(0.2,) * 3)


def test_what_is_flat_and_no_mean_is_left_and_stats_have_the_first_word(
    saved: Save, weights: Weights
) -> None:
    settings = {"mean": 0.5, "std": [0.2] * 3, "image_size": 96}
    assert inspect(saved(lightning(weights, hyper_parameters=settings))).preprocess == StatedPreprocess(
        crop=96
    )
    settings = {"mean": [0.1] * 3, "std": [0.1] * 3, "image_size": 64}
    stats = {"image_size": [128, 128], "mean": [0.5] * 3, "std": [0.2] * 3}
    source = saved(lightning(weights, hyper_parameters=settings, preprocessing_stats=stats))
    assert inspect(source).preprocess == StatedPreprocess(
        resize=(128, 128), crop=(128, 128), mean=(0.5,) * 3, std=(0.2,) * 3
    )


def test_the_order_of_the_colours_is_read_and_others_than_red_green_blue_are_refused(
    saved: Save, weights: Weights
) -> None:
    source = saved(lightning(weights, preprocessing_stats={"color": "BGR"}))
    assert inspect(source).preprocess.channels == "BGR"
    source = saved(lightning(weights, preprocessing_stats={"color": "HSV"}))
    assert "color is HSV" in error_of(lambda: inspect(source)).message


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "net.", "_orig_mod.", "model.module."])
def test_weights_load_with_the_usual_prefixes(saved: Save, weights: Weights, prefix: str) -> None:
    prefixed = {prefix + key: value for key, value in weights.items()}
    model = load_model(saved({"state_dict": prefixed}), class_count=3)
    assert not model.training
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_half_precision_weights_fill_a_float32_network(saved: Save, weights: Weights) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    model = load_model(saved(half), class_count=3)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_factory_arguments_win_over_what_the_checkpoint_says(saved: Save, weights: Weights) -> None:
    source = saved(lightning(weights), factory_args={"num_classes": 5})
    assert "1 of another shape" not in (message := error_of(lambda: load_model(source, 3)).message)
    assert "2 of another shape: `4.weight (3, 4) for (5, 4)`, `4.bias (3,) for (5,)`" in message


def test_another_network_is_refused_with_the_names_that_do_not_fit(saved: Save, weights: Weights) -> None:
    weights["extra.weight"] = weights.pop("4.bias")
    message = error_of(lambda: load_model(saved(weights), class_count=3)).message
    assert "1 missing: `4.bias`" in message
    assert "1 unexpected: `extra.weight`" in message


def test_pickled_code_is_named_and_never_run(tmp_path: Path, network: Path) -> None:
    path, witness = tmp_path / "evil.ckpt", tmp_path / "witness"

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return (Path.touch, (witness,))

    torch.save({"state_dict": Evil()}, path)
    error = error_of(lambda: inspect(ModelSource(checkpoint=path, factory=f"{network}:create_model")))
    assert "no state dict" in error.message
    assert "`pathlib.Path`" in error.message
    assert "which is not run" in error.message
    assert "state_dict()" in (error.hint or "")
    assert not witness.exists()


def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def one_byte_changed(data: bytes) -> bytes:
    at = data.rindex(b"data/4") + 200
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [cut_short, one_byte_changed])
def test_a_damaged_checkpoint_is_refused_as_such(
    saved: Save, weights: Weights, damage: Callable[[bytes], bytes]
) -> None:
    weights["4.weight"] = torch.arange(4096.0)
    source = saved(weights)
    assert source.checkpoint is not None
    source.checkpoint.write_bytes(damage(source.checkpoint.read_bytes()))
    error = error_of(lambda: inspect(source))
    assert "truncated or damaged" in error.message
    assert str(source.checkpoint) in error.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"just some text", "is not a PyTorch checkpoint"),
        (b"PK\x05\x06" + bytes(18), "is a zip file, but no PyTorch checkpoint"),
        (pickle.dumps("text", protocol=2)[:-3], "truncated or damaged"),
        (pickle.dumps(1, protocol=2), "holds a int, and no state dict"),
    ],
)
def test_another_file_is_refused_as_no_checkpoint(
    tmp_path: Path, network: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    source = ModelSource(checkpoint=path, factory=f"{network}:create_model")
    assert message in error_of(lambda: inspect(source)).message


def test_a_checkpoint_without_weights_shows_what_it_has(saved: Save) -> None:
    message = error_of(lambda: inspect(saved({"epoch": 3, "loss": 0.5}))).message
    assert "a dict with the keys `epoch`, `loss`, and no state dict" in message


def test_a_file_of_an_optimizer_alone_holds_no_weights(saved: Save) -> None:
    layer = torch.nn.Linear(3, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    for root in (optimizer.state_dict(), {"optimizer_states": [optimizer.state_dict()], "epoch": 3}):
        error = error_of(lambda root=root: inspect(saved(root)))
        assert "holds the state of an optimizer, and no weights" in error.message
        assert "model.state_dict()" in (error.hint or "")


def test_weights_that_torch_has_quantised_are_asked_for_in_float(saved: Save, network: Path) -> None:
    source = saved({"state_dict": {"net.0.weight": torch.ones(3, 3), "net.0.zero_point": torch.tensor(0)}})
    assert "quantised already" in (error_of(lambda: load_model(source, class_count=3)).hint or "")


def test_a_missing_checkpoint_names_the_field(tmp_path: Path) -> None:
    error = error_of(lambda: inspect(ModelSource(checkpoint=tmp_path / "gone.ckpt")))
    assert error.message == f"model.checkpoint: {tmp_path / 'gone.ckpt'} does not exist"


def test_a_state_dict_without_a_factory_asks_for_one(saved: Save, weights: Weights) -> None:
    source = saved(weights, factory=None)
    assert "model.factory: file.py:callable" in (error_of(lambda: inspect(source)).hint or "")


@pytest.mark.parametrize(
    ("factory", "message"),
    [("gone.py:create_model", "gone.py does not exist"), ("net.py", "`net.py` names no function")],
)
def test_a_factory_that_is_not_there_is_noticed_before_anything_runs(
    saved: Save, weights: Weights, factory: str, message: str
) -> None:
    assert message in error_of(lambda: inspect(saved(weights, factory=factory))).message


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("broken", "raised ZeroDivisionError: no width"),
        ("absent", "has no callable `absent`"),
        ("no_network", "returned `int`, not a torch.nn.Module"),
        ("script", "ended the program (SystemExit: 2)"),
    ],
)
def test_an_error_of_the_factory_names_it(
    saved: Save, weights: Weights, network: Path, factory: str, message: str
) -> None:
    source = saved(weights, factory=f"{network}:{factory}")
    assert message in error_of(lambda: load_model(source, class_count=3)).message


def test_a_file_without_a_callable_is_said_to_have_none(
    saved: Save, weights: Weights, tmp_path: Path
) -> None:
    (tmp_path / "empty.py").write_text("WIDTH = 8\n")
    error = error_of(lambda: load_model(saved(weights, factory=f"{tmp_path}/empty.py:create_model"), 3))
    assert "has no callable `create_model`" in error.message
    assert error.hint == "it has none"


def test_a_factory_file_may_import_its_neighbours(saved: Save, weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "krishi_neighbour.py").write_text(NETWORK)
    (tmp_path / "models" / "entry.py").write_text("from krishi_neighbour import create_model\n")
    assert load_model(saved(weights, factory=f"{tmp_path}/models/entry.py:create_model"), 3) is not None


def test_a_factory_may_be_in_a_package(saved: Save) -> None:
    from workbench.workspace.sample.student import create_model

    spec = "workbench.workspace.sample.student:create_model"
    source = saved(
        create_model(4, width=0.25).state_dict(), factory=spec, factory_args={"num_classes": 4, "width": 0.25}
    )
    assert load_model(source, class_count=None)(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize("text", [json.dumps(["a", "b", "c"]), "a\nb\n\nc\n"])
def test_class_names_come_from_the_file_first(
    saved: Save, weights: Weights, tmp_path: Path, text: str
) -> None:
    (tmp_path / "names").write_text(text)
    source = saved(lightning(weights, class_names=NAMES), class_names=tmp_path / "names")
    assert inspect(source).class_names == ("a", "b", "c")


def test_a_wrong_number_of_class_names_is_refused(saved: Save, weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    source = saved(lightning(weights), class_names=tmp_path / "names.txt")
    message = error_of(lambda: inspect(source)).message
    assert message == f"model.class_names: {tmp_path}/names.txt has 2 names, but model.ckpt has 3 classes"


def test_a_class_without_a_name_is_refused(saved: Save, weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('["a", "b", " "]')
    source = saved(lightning(weights), class_names=tmp_path / "names.json")
    message = error_of(lambda: inspect(source)).message
    assert message == f"model.class_names: {tmp_path}/names.json has a name without a letter"


def test_a_class_named_twice_is_refused(saved: Save, weights: Weights) -> None:
    source = saved(lightning(weights, class_names=["a", "b", "a"]))
    assert "lists `a` more than once" in error_of(lambda: inspect(source)).message


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_file_needs_no_factory(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    torch.jit.trace(network, torch.zeros(1, 3, 2, 2)).save(str(path))
    source = ModelSource(checkpoint=path)
    assert inspect(source).kind == "torchscript"
    assert load_model(source, class_count=None)(torch.zeros(5, 3, 2, 2)).shape == (5, 3)


def test_the_digest_follows_everything_that_makes_the_model(
    saved: Save, weights: Weights, network: Path
) -> None:
    source = saved(weights)
    digests = {source_digest(source), source_digest(source)}
    assert len(digests) == 1
    network.write_text(NETWORK + "# changed\n")
    digests.add(source_digest(source))
    (network.parent / "beside.py").write_text("")
    digests.add(source_digest(source))
    digests.add(source_digest(source.model_copy(update={"factory_args": {"width": 8}})))
    digests.add(source_digest(saved({key: value + 1 for key, value in weights.items()})))
    assert len(digests) == 5


def test_the_digest_follows_the_code_of_a_package_factory(
    saved: Save, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "krishi_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    source = saved(weights, factory="krishi_package.net:create_model")
    before = source_digest(source)
    (package / "net.py").write_text(NETWORK + "# changed\n")
    assert source_digest(source) != before
