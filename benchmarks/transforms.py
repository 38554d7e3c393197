"""Compare our preprocessing with the transforms of the libraries that people train with.

    python benchmarks/transforms.py PHOTOS

PHOTOS is a folder of JPEGs, at any depth. For each transform of torchvision, timm, transformers and
albumentations a row is printed: the largest difference in levels of 255, and the share of values that are
equal. It needs those four and opencv-python-headless: an environment of its own (torch==2.14.1 and
torchvision==0.29.1 go together). The exit code is 1 where a difference is above 1 level, or where less than
99.9 % of the values are equal.

transformers has each processor twice: with Pillow, and with torchvision, which resizes by a kernel of torch's
for 8-bit tensors and is compared with `library: torch`. Its rows do not count: three are not followed
(docs/measured-transforms.md).
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import timm
import torch
import transformers
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision import transforms as tv
from torchvision.transforms import v2

from workbench.model.source import timm_network
from workbench.model.source.info import checked_info
from workbench.model.source.transformers_processor import read
from workbench.photos.contract import Preprocess, StatedPreprocess
from workbench.photos.preprocess import crop_pixels, normalize

Theirs = Callable[[Image.Image], Any]
Case = tuple[str, Theirs, Preprocess]

KERNEL = "torch's kernel"
TILES = (3, 4)  # photos down and across, put together to one that shapes are cut from
SHAPES = ((640, 427), (427, 641), (500, 333), (256, 256), (97, 400), (767, 768), (120, 91), (61, 60))  # w, h
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "decode": "full"}
MODES = {
    name: getattr(tv.InterpolationMode, name.upper())
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    photos = pieces(sorted(parser.parse_args().photos.rglob("*.[jJ][pP]*[gG]")))
    torch.set_num_threads(1)
    print("| transform | largest difference, levels | equal values |\n| --- | --- | --- |")
    failed = 0
    for name, theirs, contract in cases():
        largest, equal = compare(theirs, contract, photos)
        failed += (largest > 1.01 or equal < 0.999) and KERNEL not in name
        print(f"| {name} | {largest:.2f} | {100 * equal:.3f} % |", flush=True)
    sys.exit(failed > 0)


def pieces(paths: Sequence[Path]) -> list[Image.Image]:
    """Photos of many shapes, cut from photos laid side by side."""
    down, across = TILES
    chosen = [
        Image.open(paths[i * len(paths) // (down * across)]).convert("RGB") for i in range(down * across)
    ]
    sheet = np.concatenate(
        [
            np.concatenate([np.asarray(image.resize((256, 256))) for image in chosen[row::down]], 1)
            for row in range(down)
        ]
    )
    return [Image.fromarray(sheet[:height, -width:]) for width, height in SHAPES]


def compare(theirs: Theirs, contract: Preprocess, photos: Sequence[Image.Image]) -> tuple[float, float]:
    """(largest difference in levels, share of values that differ by less than 0.01 levels)."""
    differences = []
    level = (np.array(contract.std) / contract.rescale).reshape(3, 1, 1)
    for photo in photos:
        expected = np.asarray(theirs(photo), np.float64)
        got = normalize(crop_pixels(photo, contract)[None], contract)[0]
        if expected.shape != got.shape:
            return float("inf"), 0.0
        differences.append((np.abs(got - expected) * level).ravel())
    values = np.concatenate(differences)
    return float(values.max()), float((values < 0.01).mean())


def cases() -> Iterator[Case]:
    yield from of_torchvision()
    yield from of_albumentations()
    yield from of_timm()
    yield from of_transformers()


def of_torchvision() -> Iterator[Case]:
    plain = [tv.ToTensor()]
    normal = [tv.ToTensor(), tv.Normalize(MEAN, STD)]
    usual = Preprocess(resize=256, crop=224, mean=MEAN, std=STD)
    yield (
        "torchvision Resize(256), CenterCrop(224)",
        tv.Compose([tv.Resize(256), tv.CenterCrop(224), *normal]),
        usual,
    )
    for name, mode in MODES.items():
        squeeze = tv.Compose([tv.Resize((96, 128), mode), *plain])
        yield (
            f"torchvision Resize((96, 128), {name})",
            squeeze,
            Preprocess(resize=(96, 128), crop=None, interpolation=name, **PLAIN),
        )
    narrow = tv.Compose([tv.Resize(129), tv.CenterCrop((128, 96)), *plain])
    yield (
        "torchvision Resize(129), CenterCrop((128, 96))",
        narrow,
        Preprocess(resize=129, crop=(128, 96), **PLAIN),
    )
    padded = tv.Compose([v2.Resize(None, max_size=224), tv.CenterCrop(224), *plain])
    yield (
        "torchvision Resize(max_size=224), padded",
        padded,
        Preprocess(resize=224, resize_mode="longer", crop=None, **PLAIN),
    )
    for name in ("bilinear", "bicubic"):
        tensor = tv.Compose([tv.PILToTensor(), tv.Resize((96, 128), MODES[name], antialias=False), in_levels])
        yield (
            f"torchvision Resize((96, 128), {name}, antialias=False)",
            tensor,
            Preprocess(resize=(96, 128), crop=None, interpolation=name, antialias=False, **PLAIN),
        )


def in_levels(values: Any) -> Any:
    return values / 255


def of_albumentations() -> Iterator[Case]:
    flags = {
        "nearest": "NEAREST",
        "bilinear": "LINEAR",
        "bicubic": "CUBIC",
        "area": "AREA",
        "lanczos": "LANCZOS4",
    }
    for name, flag in flags.items():
        squeeze = albumentations.Resize(96, 128, interpolation=getattr(cv2, f"INTER_{flag}"))
        yield (
            f"albumentations Resize(96, 128, {flag})",
            opened(squeeze),
            Preprocess(resize=(96, 128), crop=None, interpolation=name, library="opencv", **PLAIN),
        )
    yield (
        "albumentations SmallestMaxSize(255), CenterCrop(224, 192)",
        opened(albumentations.SmallestMaxSize(255), albumentations.CenterCrop(224, 192)),
        Preprocess(resize=255, crop=(224, 192), library="opencv", **PLAIN),
    )
    yield (
        "albumentations LongestMaxSize(200), PadIfNeeded(224, 224, 114)",
        opened(
            albumentations.LongestMaxSize(200),
            albumentations.PadIfNeeded(224, 224, border_mode=cv2.BORDER_CONSTANT, fill=114),
        ),
        Preprocess(resize=200, resize_mode="longer", crop=224, fill=114, library="opencv", **PLAIN),
    )

    caffe = (103.939, 116.779, 123.68)

    def reversed_levels(image: Image.Image) -> Any:
        pixels = cv2.resize(np.asarray(image)[..., ::-1], (128, 128))
        return (pixels.astype(np.float32) - caffe).transpose(2, 0, 1)

    yield (
        "OpenCV resize, BGR, 0 to 255, mean alone",
        reversed_levels,
        Preprocess(
            resize=(128, 128),
            crop=None,
            library="opencv",
            channels="BGR",
            rescale=1,
            mean=caffe,
            std=(1, 1, 1),
        ),
    )


def opened(*steps: Any) -> Theirs:
    pipeline = albumentations.Compose([*steps, albumentations.Normalize((0, 0, 0), (1, 1, 1))])
    return lambda image: pipeline(image=np.asarray(image))["image"].transpose(2, 0, 1)


def of_timm() -> Iterator[Case]:
    """Every way in which a network of timm is evaluated, and each mode for an input that is not square."""
    seen = set()
    for name in timm.list_models():
        config = timm.get_pretrained_cfg(name)
        data = config and resolve_data_config(pretrained_cfg=config.to_dict())
        key = data and (*data.values(),)
        if not data or data["input_size"][0] != 3 or key in seen:
            continue
        seen.add(key)
        label = f"{data['input_size'][1:]} {data['interpolation']} {data['crop_pct']} {data['crop_mode']}"
        contract = resolved(timm_network.preprocess(name))
        yield f"timm {name}: {label}", create_transform(**data, is_training=False), contract
    for mode, ours in {
        "center": {"resize": (109, 146), "resize_mode": "shorter", "rounding": "timm"},
        "squash": {"resize": (109, 146)},
        "border": {
            "resize": (109, 146),
            "resize_mode": "longer",
            "rounding": "timm",
            "fill": (124, 116, 104),
        },
    }.items():
        theirs = create_transform((3, 96, 128), crop_pct=0.875, crop_mode=mode, interpolation="bicubic")
        contract = Preprocess(**ours, crop=(96, 128), interpolation="bicubic", mean=MEAN, std=STD)
        yield f"timm (96, 128) bicubic 0.875 {mode}", theirs, contract


def resolved(stated: StatedPreprocess) -> Preprocess:
    return Preprocess(**stated.model_dump(exclude_none=True))


PROCESSORS: dict[str, Sequence[dict[str, Any]]] = {
    "ViT": [
        {},
        {"size": {"height": 96, "width": 128}, "resample": 3},
        {"do_normalize": False},
        {"do_rescale": False},
    ],
    "DeiT": [{}],
    "Beit": [{}, {"do_center_crop": True, "size": 256}],
    "Bit": [{}, {"size": {"shortest_edge": 256}}],
    "CLIP": [{}, {"resample": 1}],
    "ConvNext": [
        {"size": {"shortest_edge": 224}},
        {"size": {"shortest_edge": 384}},
        {"size": 160, "crop_pct": 0.8},
    ],
    "EfficientNet": [
        {},
        {"rescale_offset": True, "include_top": False, "resample": 0, "rescale_factor": 1 / 127.5},
    ],
    "Levit": [{}],
    "MobileNetV2": [{}, {"crop_size": {"height": 160, "width": 192}}],
    "MobileViT": [
        {},
        {"size": {"shortest_edge": 288}},
        {"size": {"shortest_edge": 256}, "do_flip_channel_order": False},
    ],
    "PoolFormer": [{}, {"size": {"height": 224, "width": 224}, "crop_pct": 0.95}],
    "Pvt": [{}],
    "Siglip": [{}],
}


def of_transformers() -> Iterator[Case]:
    """Both of the library's own implementations: with torchvision, and with Pillow."""
    for name, many in PROCESSORS.items():
        for settings in many:
            for ending, how in (("Pil", ""), ("", f", {KERNEL}")):
                processor = getattr(transformers, f"{name}ImageProcessor{ending}")(**settings)
                stated, notes = read(json.loads(processor.to_json_string()), name)
                assert not notes, notes
                if how and stated["interpolation"] in ("bilinear", "bicubic"):
                    stated["library"] = "torch"
                facts = checked_info({"kind": "transformers", "preprocess": stated}, name)
                yield f"transformers {name} {settings}{how}", applied(processor), resolved(facts.preprocess)


def applied(processor: Any) -> Theirs:
    return lambda image: processor(image, return_tensors="np")["pixel_values"][0]


if __name__ == "__main__":
    main()
