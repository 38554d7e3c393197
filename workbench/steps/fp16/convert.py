"""FP16 graphs, with what FP16 would harm left in FP32."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import Unsuited, WorkbenchError
from workbench.model.graph.node_names import known_op_types, matching
from workbench.photos.contract import Batch
from workbench.steps.fp16 import autocast
from workbench.steps.fp16.casts import control_flow, count_casts, half_share, without_cast_pairs
from workbench.steps.fp16.graph import always_kept, between, by_onnxruntime, prepared, separated, without_half
from workbench.steps.fp16.notes import NOTES, Converter, Fp16Notes
from workbench.steps.fp16.ranges import Sensitive, sensitive
from workbench.steps.fp16.settings import Fp16

if TYPE_CHECKING:
    import onnx

    from workbench.photos.dataset import Images


PHOTOS = 64  # looked at for ranges


def fp16(
    step: Fp16,
    source: Path,
    target: Path,
    images: "Images | None" = None,
    samples: "Batch | None" = None,
) -> None:
    """Convert the graph; what was done is written to stderr and noted in the file (see `notes_of`).

    images: photos for `keep_sensitive`; else samples, a batch as the network takes it; else noise.
    Raises WorkbenchError where an exclusion fits nothing, where nothing was left to convert, or where no
    converter manages; Unsuited where the converter asked for is not installed.
    """
    import onnx

    from workbench.model.graph.onnx_file import load, weights

    if step.converter == "modelopt" and (reason := autocast.missing()):
        raise Unsuited(f"fp16.converter: modelopt: {reason}", hint=autocast.INSTALL)
    original = load(source)
    op_types = known_op_types(step.exclude_op_types, original, field="fp16.exclude_op_types")
    matching(step.exclude_nodes, original, field="fp16.exclude_nodes")
    model = prepared(original)
    # Constants have become weights of the nodes that read them: a pattern may fit them alone.
    excluded = set(matching(_fitting(step.exclude_nodes, model), model, field="fp16.exclude_nodes"))
    excluded |= {node.name for node in model.graph.node if node.op_type in op_types}
    batches = list(_batches(source, images, samples))
    found = sensitive(model, batches) if step.keep_sensitive else Sensitive({}, frozenset())
    kept = excluded | set(found.nodes) | set(always_kept(model)) | set(without_half(model))
    while more := between(model, kept):
        kept.update(more)
    separated(model, kept)
    for converter, last in _converters(step, model):
        try:
            if converter == "modelopt":
                converted = autocast.by_autocast(model, kept, found.tensors)
            else:
                converted = by_onnxruntime(model, kept, op_types)
            if not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights(converted)):
                raise WorkbenchError("fp16: no weight was converted", hint=_nothing_left(step, found))
            tidy = without_cast_pairs(converted)
            notes = Fp16Notes(converter, found.nodes, half_share(tidy), count_casts(tidy))
            _write(tidy, notes, target, batches[0])
        except (WorkbenchError, ImportError) as error:
            if last:
                raise
            sys.stderr.write(f"fp16: onnxruntime's converter, because of {error}\n")
        else:
            sys.stderr.write(f"{notes.text()}\n")
            return


def _fitting(patterns: tuple[str, ...], model: "onnx.ModelProto") -> list[str]:
    from fnmatch import fnmatchcase

    names = [node.name for node in model.graph.node]
    return [p for p in patterns if any(name == p or fnmatchcase(name, p) for name in names)]


def _batches(source: Path, images: "Images | None", samples: "Batch | None") -> Iterator[Batch]:
    from workbench.model.graph.onnx_file import describe, noise

    if images is not None:
        yield from images.spread(min(PHOTOS, len(images)), 1)
    else:
        batch = noise(describe(source)) if samples is None else samples
        yield from (batch[row : row + 1] for row in range(len(batch)))


def _converters(step: Fp16, model: "onnx.ModelProto") -> "list[tuple[Converter, bool]]":
    """Those to try in turn, and whether it is the last. Raises Unsuited where the one asked for cannot."""
    if step.converter == "onnxruntime":
        return [("onnxruntime", True)]
    reason = autocast.missing() or autocast.unsuited(model)
    if step.converter == "modelopt":
        if reason:
            raise Unsuited(f"fp16.converter: modelopt: {reason}", hint="set `converter: auto`")
        return [("modelopt", True)]
    if reason:
        sys.stderr.write(f"fp16: onnxruntime's converter, because {reason}\n")
        return [("onnxruntime", True)]
    return [("modelopt", False), ("onnxruntime", True)]


def _nothing_left(step: Fp16, found: Sensitive) -> str:
    if found.nodes and not (step.exclude_nodes or step.exclude_op_types):
        name, reason = next(iter(found.nodes.items()))
        return f"FP16 is not for this network: `{name}` stays in FP32 because {reason}, and so do the others"
    return "exclude fewer nodes, or leave the step out"


def _write(model: "onnx.ModelProto", notes: Fp16Notes, target: Path, batch: "Batch") -> None:
    """Raise WorkbenchError, and leave no file, where the converter left what cannot be opened or run."""
    import onnx

    from workbench.model.graph.onnx_file import describe, logits_of

    model.metadata_props.add(key=NOTES, value=json.dumps(asdict(notes)))
    onnx.save(model, target)
    try:
        logits_of(target, describe(target), batch)
    except WorkbenchError as error:
        target.unlink()
        bodies = control_flow(model)
        other = "onnxruntime" if notes.converter == "modelopt" else "modelopt"
        raise WorkbenchError(
            f"fp16: {notes.converter}'s converter writes a graph that does not run: {error.message}",
            hint=f"it has `{bodies[0]}`, which converters get wrong: put `simplify` before `fp16`"
            if bodies
            else f"put `simplify` before `fp16`, or set `converter: {other}`",
        ) from error
