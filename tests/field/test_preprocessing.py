"""Preprocessing as people train with it, held to values recorded from their libraries."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from serve.http.tensors import input_spec
from tests.builders import artifact_info, draft, error_of
from workbench.errors import WorkbenchError
from workbench.model.source.info import SourceInfo
from workbench.model.source.stated_preprocess import stated_preprocess
from workbench.photos.contract import Preprocess, StatedPreprocess, merged
from workbench.photos.decode import decode_for
from workbench.photos.preprocess import crop_pixels, normalize, pixels_of, preprocess, require_library
from workbench.registry.model_card import model_card
from workbench.run.prepare import overridden, resolve_contract
from workbench.system.packages import missing_package
from workbench.workspace.recipe import RecipePreprocess
from workbench.workspace.workspace import load

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "transforms.json").read_text())
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
WITHOUT_OPENCV = missing_package("cv2", extra="opencv")


def photo(width: int, height: int) -> Image.Image:
    """The photo that tests/data/transforms.json was recorded with."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * 37 + y * 11) % 256, (x * x * 3 + y * y * 5) % 256, (x * y * 7 + x * 13) % 256]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    """A photo without detail, whose JPEG is as good as itself."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 / width, y * 255 / height, (x / width + y / height) * 127]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    image.save(stream, form, exif=exif, **options)
    return stream.getvalue()


def contract(**fields: Any) -> Preprocess:
    return Preprocess(**{**PLAIN, **fields})


@pytest.mark.parametrize(
    "case", RECORDED, ids=[f"{case['library'].split()[0]} {case['transform']}" for case in RECORDED]
)
def test_pixels_are_those_of_the_librarys_own_transform(case: dict[str, Any]) -> None:
    ours = contract(**case["preprocess"])
    if ours.library == "opencv" and WITHOUT_OPENCV:
        pytest.skip(WITHOUT_OPENCV)
    got = crop_pixels(photo(*case["photo"]), ours).astype(int)
    expected = np.reshape(case["pixels"], case["shape"])
    assert got.shape == expected.shape == (*ours.size, 3)
    # Other versions of Pillow and OpenCV may round otherwise.
    assert np.abs(got - expected).max() <= 1
    assert (got == expected).mean() > 0.98


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_opencv_and_no_antialiasing_look_at_the_same_pixels(name: str) -> None:
    (case,) = (
        case
        for case in RECORDED
        if case["preprocess"].get("library") == "opencv"
        and case["preprocess"].get("interpolation") == name
        and case["shape"] == [6, 8, 3]
    )
    ours = contract(resize=(6, 8), interpolation=name, antialias=False)
    got = crop_pixels(photo(*case["photo"]), ours).astype(int)
    assert np.abs(got - np.reshape(case["pixels"], case["shape"])).max() <= 1


MODES: dict[str, dict[str, Any]] = {
    "shorter": {"resize": 40, "crop": 32},
    "shorter, not square": {"resize": 40, "crop": [40, 24]},
    "cover": {"resize": [40, 60], "resize_mode": "shorter", "crop": [32, 48]},
    "squeeze": {"resize": [32, 48]},
    "squeeze and crop": {"resize": [40, 60], "crop": [32, 48], "interpolation": "bicubic"},
    "squeeze to a square": {"resize": 48, "resize_mode": "squeeze"},
    "longer": {"resize": 48, "resize_mode": "longer", "fill": 114},
    "fit": {"resize": [32, 48], "resize_mode": "longer", "fill": [10, 20, 30]},
    "longer in a larger frame": {"resize": 40, "resize_mode": "longer", "crop": [48, 64]},
    "padded crop": {"resize": 32, "crop": [48, 40], "fill": [1, 2, 3]},
    "not antialiased": {"resize": [32, 48], "antialias": False},
    "nearest": {"resize": 40, "crop": 32, "interpolation": "nearest"},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 300), (300, 1), (2, 3), (48, 32), (32, 48), (31, 77), (401, 99), (640, 427)]
)
def test_every_mode_gives_the_networks_input_for_every_shape(mode: str, size: tuple[int, int]) -> None:
    ours = contract(**MODES[mode])
    pixels = crop_pixels(photo(*size), ours)
    assert (pixels.shape, pixels.dtype) == ((*ours.size, 3), np.uint8)
    batch = preprocess(encoded(photo(*size), "PNG"), ours)
    assert batch.shape == (1, 3, *ours.size)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("orientation", "size"), [(1, (1203, 640)), (8, (517, 811))])
def test_a_photo_decoded_at_a_fraction_is_the_same_photo_in_every_mode(
    mode: str, orientation: int, size: tuple[int, int]
) -> None:
    fields = MODES[mode]
    data = encoded(smooth(*size), orientation=orientation)
    scaled, full = (pixels_of(data, contract(**fields, decode=how)) for how in ("scaled", "full"))
    assert np.abs(scaled.astype(int) - full).max() <= 4
    decoded = decode_for(data, contract(**fields))
    assert (decoded.image.size != decoded.size) == (mode not in ("nearest", "not antialiased"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["L", "P", "LA", "1", "I;16"])
def test_grey_palette_and_16_bit_photos_pass_through_every_mode(mode: str, kind: str) -> None:
    ours, grey = contract(**MODES[mode]), photo(61, 47).convert("L")
    image = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if kind == "I;16" else grey.convert(kind)
    )
    upright = grey.convert("1" if kind == "1" else "L").convert("RGB")
    assert np.array_equal(pixels_of(encoded(image, "PNG"), ours), crop_pixels(upright, ours))


def test_a_photo_that_fits_is_neither_resampled_nor_moved() -> None:
    image = photo(48, 32)
    for fields in ({"resize": [32, 48]}, {"resize": 48, "resize_mode": "longer", "crop": [32, 48]}):
        assert np.array_equal(crop_pixels(image, contract(**fields)), np.asarray(image))


def test_padding_has_its_colour_and_the_photo_is_in_the_middle() -> None:
    red = Image.new("RGB", (50, 20), (200, 0, 0))
    pixels = crop_pixels(red, contract(resize=10, resize_mode="longer", fill=(1, 2, 3)))
    assert pixels.shape == (10, 10, 3)
    rows = [tuple(row[0].tolist()) for row in pixels]
    assert rows == [(1, 2, 3)] * 3 + [(200, 0, 0)] * 4 + [(1, 2, 3)] * 3


def test_bgr_and_levels_up_to_255_are_what_a_network_of_caffe_takes() -> None:
    image = photo(8, 6)
    caffe = contract(
        resize=(6, 8), channels="BGR", rescale=1, mean=(104.0, 117.0, 124.0), std=(1.0, 1.0, 1.0)
    )
    pixels = crop_pixels(image, caffe)
    assert np.array_equal(pixels, np.asarray(image)[..., ::-1])
    expected = np.asarray(image, np.float64)[..., ::-1].transpose(2, 0, 1) - np.reshape(
        [104, 117, 124], (3, 1, 1)
    )
    assert np.abs(normalize(pixels[None], caffe)[0] - expected).max() < 1e-4
    # The batch of a network that normalises inside has the same order.
    assert np.array_equal(preprocess(encoded(image, "PNG"), caffe, raw=True)[0], pixels)


def test_a_fraction_in_the_file_is_that_number() -> None:
    written = StatedPreprocess.model_validate({"rescale": "1/255"})
    assert written.rescale == 1 / 255 == contract(resize=8, crop=8).rescale


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize": [128]}, r"give one side or \[height, width\]"),
        ({"resize": 12.5, "crop": 12}, "in whole pixels"),
        ({"resize": 16, "crop": [8, 17]}, r"crop \(\[8, 17\]\) must not be larger than resize \(16\)"),
        ({"resize": [16, 32], "crop": 17}, r"crop \(17\) must not be larger than resize \(\[16, 32\]\)"),
        ({"resize": 16}, "with the shorter side at 16 the other one is free: give `crop`"),
        ({"resize": 16, "crop": 16, "fill": 0}, "nothing is padded, so leave `fill` out"),
        ({"resize": [16, 16], "fill": [1, 2]}, r"give a level of grey or \[red, green, blue\]"),
        ({"resize": 16, "resize_mode": "longer", "fill": 256}, "from 0 to 255, not 256"),
        ({"resize": 16, "crop": 16, "interpolation": "area"}, "give `library: opencv`"),
        ({"resize": 16, "crop": 16, "interpolation": "box", "library": "opencv"}, "`box` is Pillow's"),
        ({"resize": 16, "crop": 16, "antialias": True, "library": "opencv"}, "OpenCV has no `antialias`"),
        ({"resize": 16, "crop": 16, "antialias": False, "interpolation": "lanczos"}, "not `lanczos`"),
        ({"resize": 16, "crop": 16, "channels": "RBG"}, "'RGB' or 'BGR'"),
        ({"resize": 16, "crop": 16, "rescale": "1/0"}, "a fraction such as 1/255, not `1/0`"),
    ],
)
def test_a_contract_that_contradicts_itself_names_the_field_and_the_remedy(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        contract(**fields)


def test_a_size_that_is_given_is_taken_with_its_own_defaults() -> None:
    source = StatedPreprocess(
        resize=64, resize_mode="longer", fill=(9, 9, 9), crop=64, interpolation="bicubic"
    )
    squeezed = contract(**merged({"resize": [48, 64]}, source))
    assert (squeezed.resize_mode, squeezed.size, squeezed.fill) == ("squeeze", (48, 64), None)
    assert squeezed.interpolation == "bicubic"
    shorter = contract(**merged({"resize": 80}, source))
    assert (shorter.resize_mode, shorter.size) == ("shorter", (64, 64))
    other = contract(**merged({"library": "opencv"}, StatedPreprocess(resize=8, crop=8, rounding="timm")))
    assert (other.antialias, other.rounding) == (False, "albumentations")


KRISHI = """
model: {checkpoint: model.onnx, class_names: labels.json}
data: {validation: val}
preprocess: """
SOURCE = {"resize": 256, "crop": 224, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}


def resolved(folder: Path, written: str, **source: Any) -> Preprocess:
    (folder / "val").mkdir()
    (folder / "model.onnx").touch()
    (folder / "labels.json").write_text('["a", "b"]')
    (folder / "krishi.yaml").write_text(KRISHI + written)
    stated = StatedPreprocess(**{**SOURCE, **source})
    info = SourceInfo(kind="onnx", preprocess=stated, notes=("the processor pads",))
    return resolve_contract(load(folder / "krishi.yaml"), info)


@pytest.mark.parametrize(
    ("written", "size", "mode"),
    [
        ("{}", (224, 224), "shorter"),
        ("{resize: 288}", (224, 224), "shorter"),
        ("{crop: [192, 256]}", (192, 256), "shorter"),
        ("{resize: [128, 128]}", (128, 128), "squeeze"),
        ("{resize: [96, 128], crop: null}", (96, 128), "squeeze"),
        ("{resize: [256, 256], crop: 224}", (224, 224), "squeeze"),
        ("{resize: 160, resize_mode: longer}", (160, 160), "longer"),
        ("{resize: [96, 128], resize_mode: longer, crop: [128, 160], fill: 114}", (128, 160), "longer"),
        ("{resize: [96, 128], resize_mode: shorter}", (96, 128), "shorter"),
    ],
)
def test_what_krishi_yaml_says_is_one_whole_with_what_the_source_says(
    tmp_path: Path, written: str, size: tuple[int, int], mode: str
) -> None:
    ours = resolved(tmp_path, written)
    assert (ours.size, ours.resize_mode, ours.interpolation) == (size, mode, "bicubic")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{resize: [128]}", "krishi.yaml:4: preprocess.resize: give one side or [height, width]"),
        (
            "{crop: null}",
            "preprocess: there is no crop, and with the shorter side at 256 the other one is free",
        ),
        ("{resize: 128}", "preprocess: crop (224) must not be larger than resize (128): enlarge `resize`"),
        ("{fill: 7}", "preprocess: nothing is padded, so leave `fill` out; `resize_mode: longer` pads"),
        ("{antialias: false, interpolation: box}", "`antialias: false` goes with `bilinear` and `bicubic`"),
    ],
)
def test_krishi_yaml_that_contradicts_the_source_names_the_field_and_the_remedy(
    tmp_path: Path, written: str, message: str
) -> None:
    assert message in error_of(lambda: resolved(tmp_path, written)).message


def test_what_cannot_be_followed_is_named_where_the_size_is_missing(tmp_path: Path) -> None:
    problem = error_of(lambda: resolved(tmp_path, "{}", resize=None, crop=None)).message
    assert problem.endswith("says crop (the processor pads)")


@pytest.mark.parametrize(
    ("base", "recipe", "resize", "crop"),
    [
        ({"resize": 256, "crop": 224}, {"scale": 0.5}, 128, 112),
        ({"resize": [96, 128]}, {"scale": 0.5}, (48, 64), (48, 64)),
        ({"resize": [96, 128]}, {"crop": (64, 88)}, (64, 88), (64, 88)),
        ({"resize": [96, 128]}, {"resize": (64, 80)}, (64, 80), (64, 80)),
        ({"resize": 256, "resize_mode": "longer", "fill": 9}, {"scale": 0.5}, 128, 128),
    ],
)
def test_a_recipe_scales_an_input_of_any_shape(
    base: dict[str, Any], recipe: dict[str, Any], resize: object, crop: object
) -> None:
    own = contract(**base)
    smaller = overridden(own, RecipePreprocess(**recipe))
    assert (smaller.resize, smaller.crop) == (resize, crop)
    assert (smaller.resize_mode, smaller.fill) == (own.resize_mode, own.fill)


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ({"image_size": [96, 128]}, {"resize": [96, 128], "crop": [96, 128]}),
        ({"image_size": 96}, {"resize": [96, 96], "crop": 96}),
        ({"image_size": [128, 128], "center_crop": 112}, {"resize": [128, 128], "crop": 112}),
        ({"resize_shorter_side": 144, "image_size": 128}, {"resize": 144, "crop": 128}),
        ({"color": "bgr"}, {"channels": "BGR"}),
    ],
)
def test_the_statistics_of_a_checkpoint_say_how_photos_are_fitted(
    stats: dict[str, Any], expected: dict[str, Any]
) -> None:
    stated = stated_preprocess(stats, {}, Path("student.ckpt"))
    assert {key: stated[key] for key in expected} == expected
    assert StatedPreprocess.model_validate(stated)


def test_krishisahayaks_photos_are_squeezed_as_its_own_transform_does() -> None:
    stats = {"image_size": [6, 8], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    ours = Preprocess(**merged({}, StatedPreprocess(**stated_preprocess(stats, {}, Path("student.ckpt")))))
    (case,) = (case for case in RECORDED if case["transform"] == "Resize((6, 8))")
    got = crop_pixels(photo(*case["photo"]), ours).astype(int)
    assert np.abs(got - np.reshape(case["pixels"], case["shape"])).max() <= 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"resize": 256, "crop": 224}, "The shorter side resized to 256 pixels (bilinear, antialiased), the "
         "224 x 224 centre cut out"),
        ({"resize": [96, 128]}, "Squeezed into 96 x 128 pixels (height x width; bilinear, antialiased)"),
        ({"resize": 64, "resize_mode": "longer", "library": "opencv", "interpolation": "area"},
         "The longer side resized to 64 pixels (area, OpenCV), in the middle of 64 x 64 pixels of the colour "
         "(0, 0, 0)"),
        ({"resize": [40, 60], "resize_mode": "shorter", "crop": [32, 48], "interpolation": "nearest"},
         "Resized to cover 40 x 60 pixels (height x width; nearest), the 32 x 48 centre cut out"),
    ],
)  # fmt: skip
def test_the_model_card_says_how_a_photo_is_fitted(fields: dict[str, Any], words: str) -> None:
    card = model_card(draft(preprocess=contract(**fields, channels="BGR", rescale=1)), noise_floor=None)
    assert f"- {words}." in card
    assert "in BGR" in card and "- Levels of 0 to 255, normalised" in card


@pytest.mark.parametrize(
    ("pixels", "spec"), [(False, ("FP32", (3, 96, 128))), (True, ("UINT8", (96, 128, 3)))]
)
def test_the_protocols_tensor_has_the_shape_of_the_input(pixels: bool, spec: object) -> None:
    shaped = draft(preprocess=contract(resize=[96, 128]), artifact=artifact_info(pixels=pixels))
    model: Any = SimpleNamespace(bundle=SimpleNamespace(manifest=shaped))
    assert input_spec(model) == spec


def test_a_contract_written_before_there_was_a_choice_means_what_it_did() -> None:
    written = {"resize": 256, "crop": 224, "interpolation": "bilinear", "decode": "full", **PLAIN}
    ours = Preprocess.model_validate(written)
    assert (ours.resize_mode, ours.fill, ours.antialias, ours.library) == ("shorter", None, True, "pillow")
    assert (ours.channels, ours.rescale) == ("RGB", 1 / 255)
    assert Preprocess.model_validate_json(ours.model_dump_json()) == ours


def test_without_opencv_the_message_says_what_to_install() -> None:
    ours = contract(resize=8, crop=8, library="opencv")
    if not WITHOUT_OPENCV:
        require_library(ours)
        return
    with pytest.raises(WorkbenchError, match="opencv") as caught:
        require_library(ours)
    assert "pip install 'krishi-bench[opencv]'" in (caught.value.hint or "")
