"""What every step promises by its class, held against what it does to a real network."""

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter

onnx = pytest.importorskip("onnx", reason="steps transform ONNX files")
pytest.importorskip("onnxruntime", reason="results are checked by running them")

from workbench.backends.artifact import Format  # noqa: E402
from workbench.backends.base import OPERATORS  # noqa: E402
from workbench.errors import Unsuited  # noqa: E402
from workbench.model.graph.onnx_file import describe, opset_of, precision_of  # noqa: E402
from workbench.photos.contract import Preprocess  # noqa: E402
from workbench.photos.dataset import Images  # noqa: E402
from workbench.photos.preprocess import normalize  # noqa: E402
from workbench.steps import STEPS, Photos, Step, apply, apply_native, transform  # noqa: E402
from workbench.steps.base import BaseStep, Family, Reads  # noqa: E402
from workbench.steps.fold import FoldPreprocess  # noqa: E402
from workbench.steps.verify import to_pixels  # noqa: E402

pytestmark = pytest.mark.integration

SIDE, CLASSES, PHOTOS = 16, 5, 320
CONTRACT = Preprocess(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
STEP: TypeAdapter[Step] = TypeAdapter(Step)
# Part of onnx, and of every step's arithmetic: neither is what tells two versions of a step's result apart.
EVERYWHERE = {"protobuf", "numpy"}
every_step = pytest.mark.parametrize("use", sorted(STEPS))
# Others start from the network in torch (tests/steps/test_edge.py).
every_onnx_step = pytest.mark.parametrize("use", sorted(u for u in STEPS if not STEPS[u].FROM_TORCH))


def step(use: str) -> Step:
    return STEP.validate_python({"use": use})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """Two convolutions and a product of matrices, which each step has something to do with."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "w2": rng.normal(0, 0.2, (8, 8, 3, 3)),
        "w3": rng.normal(0, 1, (8, CLASSES)),
    }
    graph = onnx.parser.parse_graph(
        f"""network (float[n,3,{SIDE},{SIDE}] images) => (float[n,{CLASSES}] logits) {{
            a = Conv <pads = [1,1,1,1]> (images, w1)
            b = Relu (a)
            c = Conv <pads = [1,1,1,1]> (b, w2)
            d = Relu (c)
            e = GlobalAveragePool (d)
            f = Flatten (e)
            logits = MatMul (f, w3)
        }}"""
    )
    for name, values in weights.items():
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    for position, node in enumerate(graph.node):
        node.name = f"node_{position}"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def images(folder: Path) -> Images:
    """Smooth coloured noise, as cropped pixels on disk."""
    coarse = np.random.default_rng(1).integers(0, 256, (PHOTOS, 4, 4, 3), np.uint8)
    np.save(folder / "pixels.npy", coarse.repeat(4, axis=1).repeat(4, axis=2))
    return Images(folder / "pixels.npy", tuple(np.arange(PHOTOS) % CLASSES), CONTRACT, "digest")


@pytest.fixture(scope="module")
def samples(images: Images) -> NDArray[np.float32]:
    return normalize(images.pixels()[:4], CONTRACT)


class WatchedPhotos:
    """Photos that note which of them were looked at."""

    def __init__(self, photos: Photos) -> None:
        self.photos = photos
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> object:
        self.read.add(name)
        return getattr(self.photos, name)


@contextmanager
def skip_where_absent() -> Iterator[None]:
    """Skip the test where the package of a step is not installed."""
    try:
        yield
    except (Unsuited, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("workbench"):
            raise
        pytest.skip(str(error))


@every_step
def test_every_step_says_all_that_has_no_default(use: str) -> None:
    kinds = get_type_hints(BaseStep, localns={"Format": Format}, include_extras=True)
    wanted = [name for name, kind in kinds.items() if get_origin(kind) is ClassVar and name.isupper()]
    assert "PACKAGES" in wanted
    assert [name for name in wanted if not hasattr(STEPS[use], name)] == []
    assert STEPS[use].FAMILY in get_args(Family)
    assert set(get_args(Reads)) >= STEPS[use].READS
    assert set(get_args(Format)) - {"onnx"} >= STEPS[use].NATIVE
    assert STEPS[use].PACKAGES
    assert STEPS[use].__doc__


@every_step
def test_every_step_is_complete_without_settings_and_survives_being_written(use: str) -> None:
    made = step(use)
    assert type(made) is STEPS[use]
    assert STEP.validate_json(made.model_dump_json()) == made
    assert made.operators() in OPERATORS
    need = made.opset_need()
    assert need is None or (need.what and need.why and 7 <= need.opset <= 30)
    assert made.calibration_photos() is None or "calibration" in made.READS
    assert made.bound_to() is None or "processor" in made.READS


@every_onnx_step
def test_every_step_does_to_a_network_what_it_says(
    use: str, source: Path, images: Images, samples: NDArray[np.float32], tmp_path: Path
) -> None:
    target, made = tmp_path / "result.onnx", step(use)
    with skip_where_absent():
        apply(made, source, target, Photos(CONTRACT, images, images, samples))
    before, after = describe(source), describe(target)
    model = onnx.load(target)
    assert precision_of(model) == ("fp32" if made.FAMILY == "tidying" else made.FAMILY)
    assert made.keeps_logits is (made.FAMILY == "tidying")
    assert opset_of(model) == 19
    assert after.pixels is made.GIVES_PIXELS
    resized = before.input_shape[0] != after.input_shape[0]
    assert not resized or made.RESIZES
    note = made.note_of(target)
    assert note is None or note.strip()


@every_onnx_step
def test_every_step_reads_and_imports_what_it_says_and_no_more(
    use: str,
    source: Path,
    images: Images,
    samples: NDArray[np.float32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it leaves out would not be in the key of the cache: an old result would be taken for a new one."""
    imported: set[str] = set()
    load = builtins.__import__

    def watching(name: str, globals: Any = None, *more: Any, **named: Any) -> Any:
        if str((globals or {}).get("__name__", "")).startswith("workbench."):
            imported.add(name.partition(".")[0])
        return load(name, globals, *more, **named)

    watched: Any = WatchedPhotos(Photos(CONTRACT, images, images, samples))
    with monkeypatch.context() as patched, skip_where_absent():
        patched.setattr(builtins, "__import__", watching)
        transform(step(use), source, tmp_path / "result.onnx", watched)
    read = {"validation" if name == "choosing" else name for name in watched.read}
    assert read - {"samples"} <= STEPS[use].READS
    owners = packages_distributions()
    needed = {owner for name in imported for owner in owners.get(name, [])} - {"krishi-bench"}
    assert needed - EVERYWHERE <= set(STEPS[use].PACKAGES)


@pytest.mark.parametrize("use", sorted(use for use, model in STEPS.items() if model.TAKES_PIXELS))
def test_a_step_that_takes_pixels_does(
    use: str, source: Path, images: Images, samples: NDArray[np.float32], tmp_path: Path
) -> None:
    folded = tmp_path / "folded.onnx"
    apply(FoldPreprocess(use="fold_preprocess"), source, folded, Photos(CONTRACT, samples=samples))
    raw = Images(images.path, images.labels, CONTRACT, "digest", raw=True)
    pixels = to_pixels(samples, CONTRACT)
    with skip_where_absent():
        apply(step(use), folded, tmp_path / "result.onnx", Photos(CONTRACT, raw, raw, pixels))
    assert describe(tmp_path / "result.onnx").pixels


@pytest.mark.parametrize(
    "use", sorted(use for use, model in STEPS.items() if model.NATIVE and not model.FROM_TORCH)
)
def test_a_step_writes_its_native_format(
    use: str, source: Path, images: Images, samples: NDArray[np.float32], tmp_path: Path
) -> None:
    with skip_where_absent():
        info = apply_native(step(use), source, tmp_path, Photos(CONTRACT, images, images, samples))
    assert info.format in STEPS[use].NATIVE
    assert info.classes == CLASSES
