"""Models that bring their own description: transformers folders, torch.export programs, timm, factories."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="models are read with torch")

from tests.builders import error_of  # noqa: E402
from workbench.backends import TorchRuntime  # noqa: E402
from workbench.model.export.comparison import torch_logits  # noqa: E402
from workbench.model.export.export import export_onnx, export_torch  # noqa: E402
from workbench.model.export.settings import Export  # noqa: E402
from workbench.model.source import timm_network, transformers_folder  # noqa: E402
from workbench.model.source.info import SourceInfo  # noqa: E402
from workbench.model.source.model_source import ModelSource, inspect, load_model, source_digest  # noqa: E402
from workbench.photos.contract import StatedPreprocess  # noqa: E402

NAMES = ("healthy", "rust", "scab")
SIDE = 32
Make = Callable[..., ModelSource]
Save = Callable[[Any], Path]
Install = Callable[[str], None]
PROCESSOR = {
    "image_processor_type": "MobileNetV2ImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 36},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
}


# --- transformers folders: what is read


def described(root: Path, config: dict[str, Any] | None = None, stats: dict[str, Any] | None = None) -> Path:
    """A folder with config.json and, where given, preprocessor_config.json; its weights are never read."""
    folder = root / "classifier"
    folder.mkdir(exist_ok=True)
    labels = {str(index): name for index, name in enumerate(NAMES)}
    content = {"architectures": ["ViTForImageClassification"], "model_type": "vit", "id2label": labels}
    (folder / "config.json").write_text(json.dumps({**content, **(config or {})}))
    (folder / "model.safetensors").write_bytes(b"weights")
    if stats is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(stats))
    return folder


def stated(root: Path, **stats: Any) -> SourceInfo:
    return transformers_folder.describe(described(root, stats={**PROCESSOR, **stats}))


def test_a_transformers_folder_says_its_classes_and_its_preprocessing(tmp_path: Path) -> None:
    info = inspect(ModelSource(checkpoint=described(tmp_path, stats=PROCESSOR)))
    assert (info.kind, info.class_names, info.num_classes) == ("transformers", NAMES, 3)
    assert info.preprocess == StatedPreprocess(
        resize=36, crop=32, rounding="transformers", interpolation="bicubic", mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
    )  # fmt: skip
    assert info.sentence() == (
        "transformers folder (ViTForImageClassification): 3 classes, named; resize 36, crop 32, bicubic, "
        "mean 0.5 0.4 0.3, std 0.2 0.25 0.3, from preprocessor_config.json"
    )
    assert SourceInfo.model_validate_json(info.model_dump_json()) == info


def test_reading_a_folder_does_not_load_transformers(tmp_path: Path) -> None:
    import subprocess

    folder = described(tmp_path, stats=PROCESSOR)
    script = (
        "import sys; from pathlib import Path; from workbench.model.source import transformers_folder; "
        f"transformers_folder.describe(Path({str(folder)!r})); "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_without_a_processor_file_the_input_size_comes_from_the_config(tmp_path: Path) -> None:
    info = inspect(ModelSource(checkpoint=described(tmp_path, {"image_size": 48})))
    assert info.preprocess == StatedPreprocess(crop=48)
    assert info.sentence().endswith("3 classes, named; crop 48, from config.json")


def test_placeholder_labels_are_no_names(tmp_path: Path) -> None:
    labels = {str(index): f"LABEL_{index}" for index in range(1000)}
    info = inspect(ModelSource(checkpoint=described(tmp_path, {"id2label": labels})))
    assert (info.class_names, info.num_classes) == (None, 1000)
    assert "1,000 classes, without names; says nothing of its preprocessing" in info.sentence()


def test_a_config_without_labels_means_two_classes_as_transformers_reads_it(tmp_path: Path) -> None:
    info = inspect(ModelSource(checkpoint=described(tmp_path, {"id2label": None})))
    assert (info.class_names, info.num_classes) == (None, 2)


@pytest.mark.parametrize(
    ("stats", "mean", "std"),
    [
        ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51] * 3}, (0.5,) * 3, (0.2,) * 3),
        ({"do_rescale": False, "do_normalize": False}, (0, 0, 0), (1 / 255, 1 / 255, 1 / 255)),
        # u * 2 - 1, then (x - 0) / 1: EfficientNet's offset.
        (
            {"rescale_factor": 2 / 255, "rescale_offset": True, "image_mean": [0] * 3, "image_std": [1] * 3},
            (0.5, 0.5, 0.5),
            (0.5, 0.5, 0.5),
        ),
        ({"include_top": True, "image_std": [0.5] * 3}, (0.5, 0.4, 0.3), (0.25, 0.25, 0.25)),
        ({"do_normalize": None, "image_mean": None, "image_std": None}, None, None),
    ],
)
def test_the_scaling_of_pixels_becomes_mean_and_std_of_the_unit_range(
    tmp_path: Path, stats: dict[str, Any], mean: Any, std: Any
) -> None:
    preprocess = stated(tmp_path, **stats).preprocess
    assert preprocess.mean == (mean and pytest.approx(mean))
    assert preprocess.std == (std and pytest.approx(std))


@pytest.mark.parametrize(
    ("stats", "resize", "crop", "note"),
    [
        ({}, 36, 32, None),
        ({"crop_size": 32}, 36, 32, None),
        ({"crop_size": [32, 24]}, 36, (32, 24), None),
        ({"size": 36, "image_processor_type": "CLIPImageProcessor"}, 36, 32, None),
        ({"size": 36, "image_processor_type": "ViTImageProcessor"}, (36, 36), 32, None),
        ({"size": 36, "image_processor_type": "DeiTImageProcessor"}, (36, 36), 32, None),
        ({"size": {"height": 36, "width": 36}}, (36, 36), 32, None),
        ({"size": {"height": 36, "width": 48}, "do_center_crop": False}, (36, 48), (36, 48), None),
        ({"do_center_crop": False}, None, None, "keeps the whole photo"),
        ({"do_resize": False}, None, None, "keeps each photo's own size"),
        ({"do_pad": True}, None, None, "pads photos after their normalisation"),
        ({"size": {"longest_edge": 64}}, None, None, 'sets size to {"longest_edge": 64}'),
        ({"image_processor_type": "PerceiverImageProcessor"}, None, None, "cuts photos before it resizes"),
        # The processors that read `size` in their own way.
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875,
          "do_center_crop": None}, 256, 224, None),
        ({"feature_extractor_type": "ConvNextFeatureExtractor", "image_processor_type": None, "size": 384,
          "do_center_crop": None}, (384, 384), 384, None),
        ({"image_processor_type": "PoolFormerImageProcessor", "crop_pct": 0.9, "crop_size": 224,
          "size": {"shortest_edge": 224}}, 248, 224, None),
        ({"image_processor_type": "LevitImageProcessor", "size": {"shortest_edge": 224}, "crop_size": 224},
         256, 224, None),
    ],
)  # fmt: skip
def test_every_way_to_write_a_size_becomes_resize_and_crop(
    tmp_path: Path, stats: dict[str, Any], resize: object, crop: object, note: str | None
) -> None:
    info = stated(tmp_path, **stats)
    assert (info.preprocess.resize, info.preprocess.crop) == (resize, crop)
    assert (note is None) == (info.notes == ())
    assert note is None or note in info.notes[0]


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "nearest"), (1, "lanczos"), (2, "bilinear"), (3, "bicubic"), (4, "box"), (5, "hamming")],
)
def test_pillows_numbers_of_filters_are_understood(tmp_path: Path, number: int, name: str) -> None:
    assert stated(tmp_path, resample=number).preprocess.interpolation == name


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ({"size": {"height": 32, "width": 0}}, "size is [32, 0], which we cannot read"),
        ({"crop_size": [32, 48, 3]}, "crop_size is [32, 48, 3], which we cannot read"),
        ({"size": "large"}, 'size is "large", which we cannot read'),
        ({"resample": 6}, "Pillow's filter 6"),
        ({"image_mean": [0.5]}, "mean and std must be three numbers"),
        ({"image_std": [0, 0, 0]}, "must be above 0"),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0}, "crop_pct is 0"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_refused_with_its_file_and_field(
    tmp_path: Path, stats: dict[str, Any], message: str
) -> None:
    found = error_of(lambda: stated(tmp_path, **stats)).message
    assert message in found
    assert "preprocessor_config.json" in found


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["ViTModel"]}, "describes ['ViTModel'], not an image classifier"),
        ({"architectures": None}, "describes no network of transformers"),
        ({"num_channels": 1}, "num_channels is 1: photos are given to the network as RGB"),
        ({"vision_config": {"num_channels": 4}}, "num_channels is 4"),
        ({"image_size": [32, "64"]}, 'image_size is [32, "64"], which we cannot read'),
        ({"id2label": {"0": "rust"}}, "has 1 class: a classifier tells at least 2 apart"),
        ({"id2label": {"0": "rust", "2": "scab"}}, "id2label must map 0, 1, ..."),
        ({"id2label": {"0": "rust", "1": "rust"}}, "lists `rust` more than once"),
        ({"problem_type": "multi_label_classification"}, "only single-label classifiers"),
        ({"quantization_config": {"bits": 4}}, "quantised already"),
    ],
)
def test_a_folder_without_a_classifier_of_colour_photos_is_refused_with_the_reason(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    folder = described(tmp_path, config)
    assert message in error_of(lambda: inspect(ModelSource(checkpoint=folder))).message


def test_a_folder_that_is_none_of_transformers_says_what_is_missing(tmp_path: Path) -> None:
    assert "without config.json" in error_of(lambda: inspect(ModelSource(checkpoint=tmp_path))).message
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"fc.weight": "model-00001-of-00002.safetensors"}}')
    folder, file = (error_of(lambda p=path: inspect(ModelSource(checkpoint=p))) for path in (tmp_path, index))
    assert "without config.json" in folder.message
    assert "lists the files of a checkpoint in shards" in file.message
    for error in (folder, file):
        assert (error.hint or "").startswith("put the config.json of `save_pretrained` beside the shards")
    (tmp_path / "config.json").write_text("{}")
    hint = error_of(lambda: inspect(ModelSource(checkpoint=index))).hint
    assert hint == f"give the folder: `model.checkpoint: {tmp_path}`"
    folder = described(tmp_path)
    (folder / "model.safetensors").unlink()
    assert "has no weights" in error_of(lambda: inspect(ModelSource(checkpoint=folder))).message
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in error_of(lambda: inspect(ModelSource(checkpoint=folder))).message


def test_the_error_about_a_folder_of_timms_says_how_to_give_it(tmp_path: Path) -> None:
    folder = described(tmp_path, {"architectures": None, "architecture": "resnet10t"})
    assert "timm:resnet10t" in (error_of(lambda: inspect(ModelSource(checkpoint=folder))).hint or "")


def test_the_digest_of_a_folder_follows_the_files_that_make_the_network(tmp_path: Path) -> None:
    folder = described(tmp_path, stats=PROCESSOR)
    source = ModelSource(checkpoint=folder)
    seen = [source_digest(source)]
    (folder / "trainer_state.json").write_text("{}")
    assert source_digest(source) == seen[0]
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        seen.append(source_digest(source))
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"")
    seen.append(source_digest(source))
    assert len(set(seen)) == 5


FOLDERS = {
    "MobileNetV2": "mobilenet_v2", "ViT": "vit", "EfficientNet": "efficientnet", "ConvNext": "convnext",
    "Levit": "levit", "PoolFormer": "poolformer", "MobileViT": "mobilevit",
}  # fmt: skip
PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("MobileNetV2", {}),
    ("ViT", {"size": {"height": 32, "width": 32}, "do_rescale": False, "image_mean": [99] * 3,
             "image_std": [40] * 3}),
    ("EfficientNet", {"size": {"height": 36, "width": 36}, "do_center_crop": True, "include_top": True,
                      "crop_size": {"height": 32, "width": 32}}),
    ("EfficientNet", {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5,
                      "rescale_offset": True, "include_top": False}),
    ("ConvNext", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
    ("Levit", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    ("PoolFormer", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32},
                    "crop_pct": 0.8}),
    ("MobileViT", {"do_normalize": None, "do_flip_channel_order": False, "size": {"shortest_edge": 36},
                   "crop_size": {"height": 32, "width": 32}}),
    ("MobileViT", {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 24}}),
    ("ViT", {"size": {"height": 32, "width": 48}}),
    ("ConvNext", {"size": {"shortest_edge": 384}}),
    ("EfficientNet", {"size": 36, "resample": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "stats"), PROCESSORS)
def test_photos_are_prepared_as_the_librarys_own_processor_does(
    tmp_path: Path, kind: str, stats: dict[str, Any]
) -> None:
    import importlib

    import numpy as np
    from PIL import Image

    from workbench.photos.contract import Preprocess
    from workbench.photos.preprocess import crop_pixels, normalize

    pytest.importorskip("transformers")
    module = importlib.import_module(
        f"transformers.models.{FOLDERS[kind]}.image_processing_pil_{FOLDERS[kind]}"
    )
    pixels = np.random.default_rng(3).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
    content = {"image_processor_type": f"{kind}ImageProcessor", **stats}
    shared = ("resample", "image_mean", "image_std", "do_rescale", "do_normalize")
    own = {key: PROCESSOR[key] for key in shared}
    settings = {**PROCESSOR, **content} if kind == "MobileNetV2" else {**own, **content}
    info = transformers_folder.describe(described(tmp_path, stats=settings))
    contract = Preprocess(**info.preprocess.model_dump(exclude_none=True))
    ours = normalize(crop_pixels(photo, contract)[None], contract)
    processor = getattr(module, f"{kind}ImageProcessorPil")(
        **{key: value for key, value in settings.items() if key != "image_processor_type"}
    )
    theirs = np.asarray(processor(photo)["pixel_values"])
    assert ours.shape == theirs.shape
    assert float(np.abs(ours - theirs).max()) < 1e-4 * max(1.0, float(np.abs(theirs).max()))


# --- transformers folders: what is loaded


def network(kind: str) -> Any:
    """A tiny classifier of 3 classes with random weights."""
    transformers = pytest.importorskip("transformers", reason="the folders are written with transformers")
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    size: dict[str, dict[str, Any]] = {
        "MobileNetV2": {"depth_multiplier": 0.1, "min_depth": 4, "image_size": SIDE},
        "ResNet": {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"},
        "EfficientNet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "image_size": SIDE,
                         "hidden_dim": 128},
        "ViT": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
                "image_size": SIDE, "patch_size": 16},
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**size[kind], **labels)
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    for name, value in made.named_parameters():  # as they come, the answers of a deep network vanish
        if value.ndim > 1:
            torch.nn.init.kaiming_normal_(value)
        elif name.endswith("weight"):
            torch.nn.init.ones_(value)
    return made


def same(one: Any, other: Any) -> bool:
    """Logits as equal as float32 lets them be, and no zeros."""
    size = float(other.abs().max())
    return size > 1e-6 and float((one - other).abs().max()) < 1e-4 * size


@pytest.fixture
def photos() -> Any:
    torch.manual_seed(1)
    return torch.randn(2, 3, SIDE, SIDE)


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Save]:
    """Save a network as its users do, the library's progress bars aside."""
    logging = pytest.importorskip("transformers").utils.logging
    logging.disable_progress_bar()

    def save(network: Any) -> Path:
        network.save_pretrained(tmp_path / "saved")
        return tmp_path / "saved"

    yield save
    logging.enable_progress_bar()


@pytest.mark.parametrize("kind", ["MobileNetV2", "ResNet", "EfficientNet", "ViT"])
def test_a_transformers_folder_loads_as_a_network_that_gives_its_logits(
    saved: Save, photos: Any, kind: str
) -> None:
    original = network(kind)
    source = ModelSource(checkpoint=saved(original))
    info, model = inspect(source), load_model(source, None)
    assert (info.class_names, info.network) == (NAMES, f"{kind}ForImageClassification")
    with torch.inference_mode():
        expected = original(photos).logits
        assert same(model(photos), expected)
    assert not model.training
    assert not any(module.training for module in model.modules())


def test_a_half_precision_folder_is_loaded_in_float32(saved: Save, photos: Any) -> None:
    model = load_model(ModelSource(checkpoint=saved(network("MobileNetV2").half())), None)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(photos).dtype == torch.float32


@pytest.mark.parametrize(
    ("stats", "channels"),
    [
        ({"image_processor_type": "MobileViTImageProcessor"}, "BGR"),
        ({"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": False}, None),
        ({"do_flip_channel_order": True}, "BGR"),
        ({}, None),
    ],
)
def test_a_network_trained_on_bgr_photos_gets_them_so(
    tmp_path: Path, stats: dict[str, Any], channels: str | None
) -> None:
    assert stated(tmp_path, **stats).preprocess.channels == channels


def test_weights_that_are_missing_are_refused_and_not_made_up(saved: Save) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(network("MobileNetV2"))
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = error_of(lambda: load_model(ModelSource(checkpoint=folder), None)).message
    assert "lacks 1 of the network's weights: `classifier.weight`" in message


def cannot_read(folder: Path) -> bool:
    message = error_of(lambda: load_model(ModelSource(checkpoint=folder), None)).message
    return "transformers cannot read" in message


def test_weights_of_another_number_of_classes_and_damaged_ones_are_refused(saved: Save) -> None:
    folder = saved(network("MobileNetV2"))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(index): str(index) for index in range(7)}
    (folder / "config.json").write_text(json.dumps(config))
    assert cannot_read(folder)
    os.truncate(folder / "model.safetensors", 4000)
    assert cannot_read(folder)


def test_pickled_code_in_a_folder_is_refused_and_never_run(saved: Save, tmp_path: Path) -> None:
    folder, witness = saved(network("MobileNetV2")), tmp_path / "witness"

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return (Path.touch, (witness,))

    (folder / "model.safetensors").unlink()
    torch.save({"classifier.weight": Evil()}, folder / "pytorch_model.bin")
    assert "refused" in error_of(lambda: load_model(ModelSource(checkpoint=folder), None)).message
    assert not witness.exists()


def test_code_that_a_folder_brings_is_never_run(saved: Save, tmp_path: Path) -> None:
    folder, witness = saved(network("MobileNetV2")), tmp_path / "witness"
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Network"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": auto}))
    (folder / "own.py").write_text(f"open({str(witness)!r}, 'w')\n")
    assert cannot_read(folder)
    assert not witness.exists()


def test_where_transformers_is_not_installed_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    error = error_of(lambda: load_model(ModelSource(checkpoint=described(tmp_path)), None))
    assert error.message == "`transformers` is not installed"
    assert error.hint == "pip install 'krishi-bench[transformers]'"


# --- torch.export programs

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")


class Small(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, classes: int = 3, channels: int = 3) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, 4, 3, stride=2)
        self.norm = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Linear(4, classes)

    def forward(self, images: Any) -> Any:
        return self.head(torch.relu(self.norm(self.conv(images))).mean((2, 3)))


class TwoOutputs(Small):
    def forward(self, images: Any) -> Any:
        return super().forward(images), images.mean()


class TwoInputs(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.inner = Small()

    def forward(self, images: Any, scale: Any) -> Any:
        return self.inner(images * scale)


class Casting(Small):
    def forward(self, images: Any) -> Any:
        return super().forward(images.to(torch.float16))


@pytest.fixture
def exported(tmp_path: Path) -> Make:
    def export(model: Any, *inputs: Any, dynamic: bool = True, trust: bool = True) -> ModelSource:
        path = tmp_path / "model.pt2"
        shapes = tuple({0: torch.export.Dim("batch")} if value.ndim else None for value in inputs)
        torch.export.save(
            torch.export.export(model, inputs, dynamic_shapes=shapes if dynamic else None), path
        )
        return ModelSource(checkpoint=path, trust_code=trust)

    return export


def test_a_program_is_read_only_where_its_code_is_trusted(exported: Make) -> None:
    source = exported(Small().eval(), torch.zeros(2, 3, SIDE, SIDE), trust=False)
    for read in (inspect, lambda given: load_model(given, None)):
        error = error_of(lambda read=read: read(source))  # type: ignore[misc]
        assert "torch.export program, and reading one may run code" in error.message
        assert "model.trust_code: true" in (error.hint or "")


def test_a_trusted_program_says_its_size_and_its_classes(exported: Make) -> None:
    info = inspect(exported(Small().eval(), torch.zeros(2, 3, SIDE, SIDE)))
    assert (info.kind, info.num_classes, info.preprocess.crop) == ("torch-export", 3, SIDE)
    assert info.sentence() == "torch.export program: 3 classes, without names; crop 32"


def test_a_trusted_program_computes_what_its_network_did(exported: Make, photos: Any) -> None:
    original = Small().eval()
    model = load_model(exported(original, torch.zeros(2, 3, SIDE, SIDE)), None)
    for count in (1, 2):
        with torch.inference_mode():
            assert same(model(photos[:count]), original(photos[:count]))
    assert not model.train().training


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_program_becomes_onnx_by_either_exporter(
    exported: Make, photos: Any, tmp_path: Path, exporter: Any
) -> None:
    pytest.importorskip("onnxruntime")
    model = load_model(exported(Small().eval(), torch.zeros(2, 3, SIDE, SIDE)), None)
    export, shape = Export(exporter=exporter), (1, 3, SIDE, SIDE)
    assert export_onnx(model, export, tmp_path / "m.onnx", shape, photos.numpy()).classes == 3


def test_a_program_opens_in_the_torch_backend(exported: Make, photos: Any, tmp_path: Path) -> None:
    model = load_model(exported(Small().eval(), torch.zeros(2, 3, SIDE, SIDE)), None)
    shape = (1, 3, SIDE, SIDE)
    written = export_torch(model, tmp_path / "m.pt2", shape, photos.numpy(), TorchRuntime())
    assert written == "torch-export"


def test_a_half_precision_program_is_loaded_in_float32(exported: Make, photos: Any) -> None:
    model = load_model(exported(Small().eval().half(), torch.zeros(2, 3, SIDE, SIDE).half()), None)
    assert model(photos).dtype == torch.float32


def test_a_half_precision_program_with_casts_is_refused(exported: Make) -> None:
    source = exported(Casting().eval().half(), torch.zeros(2, 3, SIDE, SIDE, dtype=torch.bfloat16))
    message = error_of(lambda: load_model(source, None)).message
    assert "computes in torch.bfloat16 and cannot be turned to float32" in message


@pytest.mark.parametrize(
    ("model", "inputs", "dynamic", "message"),
    [
        (Small(), [(1, 3, 32, 32)], False, "exported for batches of 1 and takes no other"),
        (Small(), [(2, 3, 32, 48)], True, "takes photos of 32 x 48 (height x width)"),
        (Small(channels=1), [(2, 1, 32, 32)], True, "takes 1 channel: photos are RGB"),
        (Small(classes=1), [(2, 3, 32, 32)], True, "has 1 class: a classifier tells at least 2 apart"),
        (TwoInputs(), [(2, 3, 32, 32), ()], True, "has 2 inputs and 1 output"),
        (TwoOutputs(), [(2, 3, 32, 32)], True, "has 1 input and 2 outputs"),
        (torch.nn.Conv2d(3, 4, 3), [(2, 3, 32, 32)], True, "a classifier gives (N, classes)"),
        (torch.nn.Linear(4, 3), [(2, 4)], True, "photos go in as float (N, 3, height, width)"),
    ],
)
def test_a_program_that_is_no_classifier_of_photos_is_refused_with_the_reason(
    exported: Make, model: Any, inputs: list[Any], dynamic: bool, message: str
) -> None:
    source = exported(model.eval(), *(torch.ones(shape) for shape in inputs), dynamic=dynamic)
    assert message in error_of(lambda: inspect(source)).message


def test_a_program_exported_in_training_mode_is_refused(exported: Make) -> None:
    source = exported(Small().train(), torch.zeros(2, 3, SIDE, SIDE))
    assert "exported in training mode" in error_of(lambda: inspect(source)).message


# --- timm, by a stand-in: the package itself needs a torchvision that fits torch

FAKE_TIMM = """
from types import SimpleNamespace
from torch import nn

def is_model(name):
    return name.split(".")[0] == "tiny"

def list_models():
    return ["large", "tiny"]

def get_pretrained_cfg(name):
    if "." in name:
        raise RuntimeError("Invalid pretrained tag (no) for tiny.")
    return SimpleNamespace(input_size=(3, 224, 224), crop_pct=0.875, crop_mode="center",
                           interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

def create_model(name, pretrained, num_classes=1000, width=4, img_size=224, in_chans=3):
    assert pretrained is False
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))
"""


@pytest.fixture
def timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package named timm, of the given code, where Python looks first."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)

    def install(code: str) -> None:
        (tmp_path / "timm.py").write_text(code)

    yield install
    sys.modules.pop("timm", None)


@pytest.fixture
def weights(tmp_path: Path) -> Make:
    def save(around: dict[str, Any] | None = None, **fields: Any) -> ModelSource:
        torch.manual_seed(2)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)
        )
        torch.save({"state_dict": model.state_dict(), **(around or {})}, tmp_path / "model.pt")
        return ModelSource(checkpoint=tmp_path / "model.pt", **{"factory": "timm:tiny", **fields})

    return save


def test_a_timm_network_takes_the_checkpoints_weights_and_timms_preprocessing(
    timm: Install, weights: Make, photos: Any
) -> None:
    timm(FAKE_TIMM)
    source = weights()
    info, model = inspect(source), load_model(source, 3)
    assert info.preprocess == StatedPreprocess(
        resize=256, crop=224, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    assert info.sentence().startswith("state dict (tiny): 3 classes, without names; resize 256, crop 224")
    assert info.sentence().endswith("from timm's configuration of it")
    assert (model(photos).shape, model.training) == ((2, 3), False)


def test_what_the_checkpoint_says_wins_over_timm(timm: Install, weights: Make) -> None:
    timm(FAKE_TIMM)
    stats = {"mean": [0.1, 0.2, 0.3], "center_crop": 112}
    stated = inspect(weights({"preprocessing_stats": stats})).preprocess
    assert (stated.resize, stated.crop) == (128, 112)
    assert (stated.mean, stated.std) == ((0.1, 0.2, 0.3), (0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("own", "resize", "crop"),
    [
        ({}, 256, 224),
        ({"crop": 160}, 182, 160),
        ({"resize": 180}, 180, 180),
        ({"resize": 300}, 300, 224),
        ({"crop": (160, 112)}, (182, 128), (160, 112)),
        ({"resize": (96, 128)}, (96, 128), None),
    ],
)
def test_sizes_that_only_the_checkpoint_says_keep_timms_proportion(
    own: dict[str, Any], resize: object, crop: object
) -> None:
    default = StatedPreprocess(resize=256, crop=224)
    filled = timm_network.completed(StatedPreprocess(**own), default)
    assert (filled.resize, filled.crop) == (resize, crop)


def test_factory_arguments_reach_timm(timm: Install, weights: Make) -> None:
    timm(FAKE_TIMM)
    fits = weights(factory_args={"width": 4})
    assert load_model(fits, 3)[-1].out_features == 3  # type: ignore[index]
    message = error_of(lambda: load_model(weights(factory_args={"depth": 4}), 3)).message
    assert "timm cannot build `tiny`: TypeError" in message


def test_arguments_of_a_training_mean_what_they_did_there(timm: Install, weights: Make) -> None:
    """`img_size` is the input's, `pretrained` is overruled by the checkpoint, grey photos are not given."""
    timm(FAKE_TIMM)
    found = inspect(weights(factory_args={"pretrained": True, "img_size": 96})).preprocess
    assert (found.resize, found.crop) == (109, 96)
    stated = {"preprocessing_stats": {"center_crop": 112}}
    assert inspect(weights(stated, factory_args={"img_size": 96})).preprocess.crop == 112
    grey = error_of(lambda: inspect(weights(factory_args={"in_chans": 1})))
    assert "takes photos of 1 channel;" in grey.message and "`x.mean(1, keepdim=True)`" in str(grey.hint)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('no operator torchvision::nms')", "no operator torchvision::nms"),
        ("import no_such_torchvision", "No module named 'no_such_torchvision'"),
    ],
)
def test_the_error_about_a_broken_timm_names_the_cause(
    timm: Install, weights: Make, code: str, message: str
) -> None:
    timm(code)
    error = error_of(lambda: inspect(weights()))
    assert error.message.startswith("`timm` cannot be imported: ")
    assert message in error.message
    assert "torchvision" in (error.hint or "")


def test_a_missing_timm_is_named(weights: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "timm":
                raise ModuleNotFoundError("No module named 'timm'", name="timm")

    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    assert error_of(lambda: inspect(weights())).hint == "pip install 'timm'"


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("timm:absent", "timm has no network `absent`"),
        ("timm:tinny", "timm has no network `tinny`"),
        ("timm:tiny.no", "Invalid pretrained tag (no)"),
        ("timm:hf-hub:org/model", "is not the name of a network"),
        ("timm:", "is not the name of a network"),
    ],
)
def test_a_name_that_timm_does_not_have_is_refused(
    timm: Install, weights: Make, factory: str, message: str
) -> None:
    timm(FAKE_TIMM)
    error = error_of(lambda: inspect(weights(factory=factory)))
    assert message in error.message
    assert factory != "timm:tinny" or error.hint == "did you mean `tiny`?"


def test_a_timm_network_without_weights_is_refused() -> None:
    assert "random weights" in error_of(lambda: inspect(ModelSource(factory="timm:tiny"))).message


# --- factories beside krishi.yaml, and without a checkpoint

WHOLE = """
import torch
from pathlib import Path
from .blocks import head

def trained(classes=3):
    network = head(classes)
    network.load_state_dict(torch.load(Path(__file__).parent / "own.pt", weights_only=True))
    return network
"""
BLOCKS = """
from torch import nn

def head(classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelSource]:
    """A package beside krishi.yaml whose factory returns the trained network; we are elsewhere."""
    folder = tmp_path / "workspace" / "leafnet"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "net.py").write_text(WHOLE)
    (folder / "blocks.py").write_text(BLOCKS)
    torch.save({"2.weight": torch.eye(3), "2.bias": torch.zeros(3)}, folder / "own.pt")
    monkeypatch.chdir(tmp_path)
    yield ModelSource(factory="leafnet.net:trained", import_from=tmp_path / "workspace")
    for name in [name for name in sys.modules if name.partition(".")[0] == "leafnet"]:
        del sys.modules[name]


def test_a_factory_may_return_the_trained_network_from_a_package_beside_krishi_yaml(
    package: ModelSource,
) -> None:
    before = list(sys.path)
    model = load_model(package, None)
    photo = torch.zeros(1, 3, 4, 4)
    photo[:, 1] = 2
    assert model(photo).tolist() == [[0, 2, 0]]
    assert not model.training
    assert sys.path == before
    assert inspect(package) == SourceInfo(kind="factory")


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    source = ModelSource(factory="krishi_nowhere.net:trained", import_from=tmp_path)
    message = error_of(lambda: load_model(source, None)).message
    assert "`krishi_nowhere.net:trained` raised ModuleNotFoundError" in message


def test_the_digest_follows_the_code_and_the_weights_of_a_factory_without_a_checkpoint(
    package: ModelSource,
) -> None:
    assert package.import_from is not None
    folder = package.import_from / "leafnet"
    seen = [source_digest(package)]
    for name in ("own.pt", "blocks.py"):
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
        seen.append(source_digest(package))
    assert len(set(seen)) == 3


def test_a_module_beside_krishi_yaml_counts_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "krishi_leafnet.py").write_text("from helper import make as create_model")
    (tmp_path / "model.pt").write_bytes(b"weights")
    source = ModelSource(
        checkpoint=tmp_path / "model.pt", factory="krishi_leafnet:create_model", import_from=tmp_path
    )
    before = source_digest(source)
    (tmp_path / "helper.py").write_text("# new")
    assert source_digest(source) != before


def test_a_model_needs_a_checkpoint_or_a_factory() -> None:
    with pytest.raises(ValueError, match="give a `checkpoint`, or a `factory`"):
        ModelSource()


# --- what the network itself must be like: noticed when it first runs


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Small(channels=1), "to have 1 channels, but got 3 channels"),
        (TwoOutputs(), "the network returns a tuple; expected one tensor of logits"),
        (TwoInputs(), "missing 1 required positional argument: 'scale'"),
    ],
)
def test_a_network_of_another_kind_is_refused_when_it_first_runs(
    model: Any, message: str, photos: Any
) -> None:
    assert message in error_of(lambda: torch_logits(model.eval(), photos.numpy())).message


def test_a_state_dict_may_come_as_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    (tmp_path / "leafnet.py").write_text(BLOCKS)
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"2.weight": torch.eye(3), "2.bias": torch.zeros(3)}, path)
    source = ModelSource(checkpoint=path, factory=f"{tmp_path}/leafnet.py:head", factory_args={"classes": 3})
    assert torch.equal(load_model(source, None)[2].weight, torch.eye(3))  # type: ignore[index]
    path.write_bytes(path.read_bytes()[:60])
    assert "truncated or damaged" in error_of(lambda: inspect(source)).message
