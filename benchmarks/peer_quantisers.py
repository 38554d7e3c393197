"""What a user gets from other tools: an ONNX file and calibration photos in, a quantised model out.

    python benchmarks/peer_quantisers.py NAME SOURCE.onnx PHOTOS.npy FOLDER

PHOTOS.npy holds preprocessed (n, 3, H, W) float32 photos. FOLDER receives `model.onnx`, or `model.xml` and
`model.bin`. Each is called as its documentation shows and with its defaults. `benchmarks/peers.py` starts
this file in the environment that has the tool, so it imports nothing of krishi-bench.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Photos = NDArray[np.float32]
PACKAGES = ("onnxruntime", "onnx", "olive-ai", "optimum-onnx", "nncf", "openvino", "torch", "transformers")


class Reader:
    """The photos one by one, as onnxruntime's calibration asks for them."""

    def __init__(self, source: Path, photos: Photos) -> None:
        self._feeds = feeds(source, photos)

    def get_next(self) -> dict[str, Photos] | None:
        return next(self._feeds, None)


def feeds(source: Path, photos: Photos) -> Iterator[dict[str, Photos]]:
    name = input_name(source)
    return ({name: photos[row : row + 1]} for row in range(len(photos)))


def input_name(source: Path) -> str:
    import onnx

    model = onnx.load(source)
    stored = {weight.name for weight in model.graph.initializer}
    return str(next(value.name for value in model.graph.input if value.name not in stored))


def ort_static(source: Path, photos: Photos, folder: Path) -> None:
    """The two steps of onnxruntime's guide: pre-process, then `quantize_static`, all defaults."""
    from onnxruntime.quantization import quantize_static

    prepared = preprocessed(source, folder)
    quantize_static(prepared, folder / "model.onnx", Reader(prepared, photos))


def ort_dynamic(source: Path, photos: Photos, folder: Path) -> None:
    """`quantize_dynamic` with signed weights, as most guides show it; needs no photos."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    del photos
    quantize_dynamic(preprocessed(source, folder), folder / "model.onnx", weight_type=QuantType.QInt8)


def preprocessed(source: Path, folder: Path) -> Path:
    from onnxruntime.quantization.preprocess import quant_pre_process

    target = folder / "preprocessed.onnx"
    quant_pre_process(source, target)
    return target


def nncf_onnx(source: Path, photos: Photos, folder: Path) -> None:
    """NNCF's post-training quantisation of the ONNX file, for onnxruntime."""
    import nncf
    import onnx

    calibration = nncf.Dataset(list(feeds(source, photos)))
    onnx.save(nncf.quantize(onnx.load(source), calibration), folder / "model.onnx")


def nncf_openvino(source: Path, photos: Photos, folder: Path) -> None:
    """NNCF's post-training quantisation of the model that OpenVINO reads from the ONNX file."""
    import nncf
    import openvino

    calibration = nncf.Dataset([photos[row : row + 1] for row in range(len(photos))])
    quantised = nncf.quantize(openvino.Core().read_model(source), calibration)
    openvino.save_model(quantised, folder / "model.xml")


def optimum_avx512(source: Path, photos: Photos, folder: Path) -> None:
    """The preset as optimum's documentation calls it, per tensor."""
    _optimum(source, photos, folder, per_channel=False)


def optimum_avx512_per_channel(source: Path, photos: Photos, folder: Path) -> None:
    """The preset with its own default of `per_channel`."""
    _optimum(source, photos, folder, per_channel=True)


def _optimum(source: Path, photos: Photos, folder: Path, *, per_channel: bool) -> None:
    from onnxruntime.quantization import CalibrationMethod
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig, CalibrationConfig

    preset = AutoQuantizationConfig.avx512_vnni(is_static=True, per_channel=per_channel)
    # What AutoCalibrationConfig.minmax makes of a dataset of the `datasets` library.
    calibration = CalibrationConfig(
        dataset_name="photos",
        dataset_config_name="default",
        dataset_split="train",
        dataset_num_samples=len(photos),
        method=CalibrationMethod.MinMax,
    )
    quantiser = ORTQuantizer(source)
    name = input_name(source)
    ranges = quantiser.fit(
        [{name: photo} for photo in photos],
        calibration,
        onnx_augmented_model_name=folder / "augmented.onnx",
        operators_to_quantize=preset.operators_to_quantize,
    )
    quantiser.quantize(preset, folder, file_suffix="", calibration_tensors_range=ranges)
    (folder / source.name).replace(folder / "model.onnx")


def olive_static(source: Path, photos: Photos, folder: Path) -> None:
    """Olive's `OnnxStaticQuantization` pass with its defaults, run as `olive run` runs a configuration."""
    from olive.data.registry import Registry
    from olive.workflows import run

    name = input_name(source)

    def krishi_photos() -> list[tuple[dict[str, Photos], int]]:
        return [({name: photo}, 0) for photo in photos]

    Registry.register_dataset("krishi_photos")(krishi_photos)
    calibration = {"name": "calibration", "load_dataset_config": {"type": "krishi_photos"}}
    machine = {"type": "LocalSystem", "accelerators": [{"device": "cpu"}]}
    configuration = {
        "input_model": {"type": "ONNXModel", "model_path": str(source)},
        "systems": {"local": machine},
        "data_configs": [calibration],
        "passes": {"quantise": {"type": "OnnxStaticQuantization", "data_config": "calibration"}},
        "target": "local",
        "output_dir": str(folder / "olive"),
        "cache_dir": str(folder / "cache"),
    }
    run(configuration)
    made = sorted((folder / "olive").rglob("*.onnx"))
    if len(made) != 1:
        raise FileNotFoundError(f"Olive left {len(made)} ONNX files")
    import onnx

    onnx.save(onnx.load(made[0]), folder / "model.onnx")  # whole, wherever the weights were


QUANTISERS: dict[str, Callable[[Path, Photos, Path], None]] = {
    "ort_static": ort_static,
    "ort_dynamic": ort_dynamic,
    "nncf_onnx": nncf_onnx,
    "nncf_openvino": nncf_openvino,
    "optimum_avx512": optimum_avx512,
    "optimum_avx512_per_channel": optimum_avx512_per_channel,
    "olive_static": olive_static,
}


def installed() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main(arguments: list[str]) -> None:
    name, source, photos, folder = arguments[0], Path(arguments[1]), Path(arguments[2]), Path(arguments[3])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "versions.json").write_text(json.dumps(installed()))
    print(inspect.getdoc(QUANTISERS[name]), flush=True)
    loaded: Any = np.load(photos)
    QUANTISERS[name](source, loaded, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
