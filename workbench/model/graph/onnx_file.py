"""Facts read back from an ONNX file: of the built graph, not of the request."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends.artifact import ArtifactInfo, Precision
from workbench.backends.common import PROBE_SIDE, filled, open_cpu, translated_ort_errors
from workbench.backends.mac_count import inputs_of
from workbench.errors import WorkbenchError, plural
from workbench.photos.contract import Batch
from workbench.photos.signatures import HEAD, kind_of_file
from workbench.system.files import refuse_lfs_pointer, sha256_file

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnxruntime
    from numpy.typing import NDArray


QUANTIZING = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
)
LEAST_OPSET = 7  # that onnxruntime implements
PIXELS = "tensor(uint8)"
WIDER = {11: "float64", 16: "bfloat16"}  # onnx.TensorProto's numbers


@dataclass(frozen=True, slots=True)
class OnnxFacts:
    """A classifier in an ONNX file.

    opset: of the default domain. input_shape: (N, C, H, W), 0 where the size is free.
    classes: logits per image. pixels: it takes (N, H, W, 3) uint8 and normalises them itself.
    """

    opset: int
    precision: Precision
    input_name: str
    output_name: str
    input_shape: tuple[int, int, int, int]
    classes: int
    pixels: bool = False

    @property
    def dynamic_batch(self) -> bool:
        return self.input_shape[0] == 0

    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image it takes; where free: 3 channels, PROBE_SIDE pixels."""
        _, channels, height, width = self.input_shape
        return (channels or 3, height or PROBE_SIDE, width or PROBE_SIDE)


def describe(path: Path, model: "onnx.ModelProto | None" = None) -> OnnxFacts:
    """Read a file back. model: what it holds, where its weights are in other files (see `onnx_source`).

    Raises WorkbenchError where it is no ONNX file, keeps weights in other files, or is not a classifier:
    one input of (N, 3, H, W) float32 or (N, H, W, 3) uint8, one output of (N, classes) float32.
    """
    given, model = model, model or load(path)
    session = _open(path, given, model)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    _check_values(path, inputs, outputs)
    pixels = inputs[0].type == PIXELS
    shape = _input_shape(path, inputs[0].shape, pixels=pixels)
    names = inputs[0].name, outputs[0].name
    facts = OnnxFacts(opset_of(model), precision_of(model), *names, shape, classes=0, pixels=pixels)
    match outputs[0].shape:
        case [_, int(classes)]:
            return replace(facts, classes=classes)
        case _:
            return replace(facts, classes=_count_classes(session, facts))


def _open(
    path: Path, given: "onnx.ModelProto | None", model: "onnx.ModelProto"
) -> "onnxruntime.InferenceSession":
    """A session of the given model, else of the file. Raises WorkbenchError with what to do where the type or
    the opset is why it does not open."""
    try:
        return open_cpu(given or path)
    except WorkbenchError as error:
        if (kind := image_input(model).type.tensor_type.elem_type) in WIDER:
            raise WorkbenchError(
                f"{path} computes in {WIDER[kind]}, which onnxruntime cannot",
                hint="export the network in float32: `model.float()` before the export",
            ) from error
        if (opset := opset_of(model)) < LEAST_OPSET:
            raise WorkbenchError(
                f"{path} is of opset {opset}: onnxruntime runs opset {LEAST_OPSET} and later",
                hint="export it again with a later one, or convert it: `onnx.save(onnx.version_converter."
                f"convert_version(onnx.load('{path}'), 13), '{path.stem}-13.onnx')`",
            ) from error
        raise


def _check_values(path: Path, inputs: list[Any], outputs: list[Any]) -> None:
    """Raise WorkbenchError where there is not one input of photos and one output of logits."""
    if len(inputs) != 1 or len(outputs) != 1:
        logits = next((value for value in outputs if len(value.shape) == 2), outputs[0])
        raise WorkbenchError(
            f"{path} has {plural(len(inputs), 'input')} and {plural(len(outputs), 'output')} "
            f"({_names(inputs)}; {_names(outputs)}): a classifier takes photos alone and gives logits alone",
            hint="cut it down, where these are the photos and the logits: `onnx.utils.extract_model("
            f"'{path}', '{path.stem}-logits.onnx', ['{inputs[0].name}'], ['{logits.name}'])`",
        )
    for value in outputs if inputs[0].type == PIXELS else [*inputs, *outputs]:
        if value.type != "tensor(float)":
            decided = value in outputs and not re.match(r"tensor\((b?float|double)", value.type)
            raise WorkbenchError(
                f"{path}: `{value.name}` is {value.type}: photos and logits go in and out as float32",
                hint="have the network give its logits as they are: no argmax, no names of classes"
                if decided
                else "export the network in float32; the `fp16` and `static_int8` steps make it smaller",
            )


def _names(values: list[Any]) -> str:
    return ", ".join(value.name for value in values)


def artifact_info(path: Path) -> ArtifactInfo:
    """`artifact.json` of a finished ONNX file. Raises WorkbenchError as `describe` does."""
    facts = describe(path)
    return ArtifactInfo(
        format="onnx",
        file=path.name,
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        opset=facts.opset,
        precision=facts.precision,
        input_shape=facts.input_shape,
        classes=facts.classes,
        pixels=facts.pixels,
    )


def open_model(path: Path) -> "onnx.ModelProto":
    """The model as far as it is in this file. Raises WorkbenchError where that is no ONNX."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if path.is_file():
        refuse_lfs_pointer(path)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise WorkbenchError(f"{path} cannot be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise _no_onnx(path) from error
    if not model.graph.node:
        raise _no_onnx(path)
    return model


def _no_onnx(path: Path) -> WorkbenchError:
    with path.open("rb") as file:
        kind = kind_of_file(file.read(HEAD))
    article = "an" if kind[0] in "aeA" else "a"
    what = "file, or it is damaged" if kind == "unknown file" else f"file but {article} {kind}"
    return WorkbenchError(f"{path} is not an ONNX {what}", hint="export it, copy it or download it again")


def load(path: Path) -> "onnx.ModelProto":
    """The whole model. Raises WorkbenchError where the file is no ONNX, or keeps its weights elsewhere."""
    import onnx

    model = open_model(path)
    if outside := [w.name for w in model.graph.initializer if w.data_location == onnx.TensorProto.EXTERNAL]:
        raise WorkbenchError(
            f"{path} keeps {len(outside)} of its weights in other files (external data)",
            hint=f"save it as one file: `onnx.save(onnx.load('{path}'), '{path.stem}-whole.onnx')`",
        )
    return model


def logits_of(path: Path, facts: OnnxFacts, samples: Batch) -> "NDArray[np.float32]":
    """(n, classes) logits of n samples, in the form the file takes, of the graph as written.

    A fixed batch is filled up. Raises WorkbenchError where onnxruntime cannot run the file.
    """
    import numpy as np

    session, size = open_cpu(path), facts.input_shape[0] or len(samples)
    parts = [filled(samples[start : start + size], size) for start in range(0, len(samples), size)]
    return np.concatenate([_run(session, facts, part) for part in parts])[: len(samples)]


def _run(session: "onnxruntime.InferenceSession", facts: OnnxFacts, batch: Batch) -> "NDArray[np.float32]":
    with translated_ort_errors(f"run a batch of {len(batch)}"):
        logits: NDArray[np.float32] = session.run([facts.output_name], {facts.input_name: batch})[0]
    return logits


def _count_classes(session: "onnxruntime.InferenceSession", facts: OnnxFacts) -> int:
    """Count the logits of a black image, for a file that does not declare them."""
    import numpy as np

    black = np.zeros_like(noise(facts)[:1])
    logits = _run(session, facts, filled(black, facts.input_shape[0] or 1))
    if logits.ndim != 2:
        raise WorkbenchError(
            f"the output `{facts.output_name}` has the shape {logits.shape}: a classifier gives (N, classes)",
            hint="have the network give its logits as they are: flattened, `x.flatten(1)`, and no argmax",
        )
    return int(logits.shape[1])


def _input_shape(path: Path, declared: list[Any], *, pixels: bool) -> tuple[int, int, int, int]:
    sizes = [size if isinstance(size, int) and size > 0 else 0 for size in declared]
    channels_last = len(sizes) == 4 and sizes[3] == 3
    if pixels and channels_last:
        return (sizes[0], 3, sizes[1], sizes[2])
    if len(sizes) != 4 or sizes[1] not in (0, 3) or pixels:
        nhwc = " (channels come last: NHWC)" if channels_last else " of uint8" if pixels else ""
        tensorflow = " (`--inputs-as-nchw` of tf2onnx)" if channels_last else ""
        raise WorkbenchError(
            f"{path} takes an input of shape {declared}{nhwc}",
            hint="photos go in as (N, 3, height, width) float32, or as (N, height, width, 3) uint8: export "
            f"the network with that input{tensorflow}",
        )
    return (sizes[0], sizes[1], sizes[2], sizes[3])


def opset_of(model: "onnx.ModelProto") -> int:
    """The version of the default operator set."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def precision_of(model: "onnx.ModelProto") -> Precision:
    """int8 where the graph quantises with 8-bit weights, else the float type of most weight bytes."""
    import onnx

    types = onnx.TensorProto
    sizes: Counter[int] = Counter()
    for tensor in weights(model):
        sizes[tensor.data_type] += tensor.ByteSize()
    operators = {node.op_type for node in model.graph.node}
    quantizes = operators & QUANTIZING or any(name.startswith("QLinear") for name in operators)
    if quantizes and (types.INT8 in sizes or types.UINT8 in sizes):
        return "int8"
    if sizes[types.FLOAT16] > sizes[types.FLOAT]:
        return "fp16"
    return "unknown" if sizes[types.BFLOAT16] > sizes[types.FLOAT] else "fp32"


def image_input(model: "onnx.ModelProto") -> "onnx.ValueInfoProto":
    return inputs_of(model.graph)[0]


def weights(model: "onnx.ModelProto") -> "Iterator[onnx.TensorProto]":
    """The stored tensors: initializers, and the values of Constant nodes."""
    yield from model.graph.initializer
    for node in model.graph.node:
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.name == "value")


def noise(facts: OnnxFacts, count: int = 2) -> Batch:
    """Images of noise, always the same: standard normal, similar to normalised photos."""
    import numpy as np

    rng, (channels, height, width) = np.random.default_rng(0), facts.image_shape()
    if facts.pixels:
        return rng.integers(0, 256, (count, height, width, channels), np.uint8)
    return rng.standard_normal((count, channels, height, width), np.float32)
