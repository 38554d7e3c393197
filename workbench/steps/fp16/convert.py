"""FP16 graphs, with what FP16 would harm left in FP32."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.model.graph.node_names import known_op_types, matching
from workbench.model.graph.onnx_file import describe, load, logits_of, noise, weights
from workbench.photos.contract import Batch
from workbench.photos.dataset import Images
from workbench.steps.fp16.casts import NOTES, Fp16Notes, count_casts, half_share, has_body, without_cast_pairs
from workbench.steps.fp16.graph import always_kept, between, by_onnxruntime, prepared, separated
from workbench.steps.fp16.ranges import sensitive
from workbench.steps.fp16.settings import Fp16

if TYPE_CHECKING:
    import onnx


log = logging.getLogger(__name__)

PHOTOS = 64  # that ranges are measured on


def fp16(
    step: Fp16, source: Path, target: Path, images: Images | None = None, samples: "Batch | None" = None
) -> None:
    """Convert the graph; the nodes that stay are logged and noted in the file (see `notes_of`).

    images: photos for `keep_sensitive`; else samples, a batch as the network takes it; else noise.
    Raises WorkbenchError where an exclusion fits nothing, where nothing was left to convert, or where the
    converter fails.
    """
    import onnx

    original = load(source)
    op_types = known_op_types(step.exclude_op_types, original, field="fp16.exclude_op_types")
    matching(step.exclude_nodes, original, field="fp16.exclude_nodes")
    model = prepared(original)
    excluded = {
        node.name
        for node in model.graph.node
        if node.op_type in op_types or any(fnmatchcase(node.name, name) for name in step.exclude_nodes)
    }
    excluded.update(step.exclude_nodes)  # a name may have the characters of a pattern
    batches = list(_batches(source, images, samples))
    found = sensitive(model, batches) if step.keep_sensitive else {}
    kept = excluded | set(found) | always_kept(model)
    while more := between(model, kept):
        kept.update(more)
    separated(model, kept)
    converted = by_onnxruntime(model, kept, op_types)
    if not any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights(converted)):
        raise WorkbenchError("fp16: no weight was converted", hint=_nothing_left(step, found))
    tidy = without_cast_pairs(converted)
    notes = Fp16Notes(found, half_share(tidy), count_casts(tidy))
    _write(tidy, notes, target, batches[0])
    log.info("%s", notes.text())


def _batches(source: Path, images: Images | None, samples: "Batch | None") -> Iterator[Batch]:
    if images is not None:
        yield from images.spread(min(PHOTOS, len(images)), 1)
    else:
        batch = noise(describe(source)) if samples is None else samples
        yield from (batch[row : row + 1] for row in range(len(batch)))


def _nothing_left(step: Fp16, found: Mapping[str, str]) -> str:
    if found and not (step.exclude_nodes or step.exclude_op_types):
        name, reason = next(iter(found.items()))
        return f"FP16 is not for this network: `{name}` stays in FP32 because {reason}, and so do the others"
    return "exclude fewer nodes, or leave the step out"


def _write(model: "onnx.ModelProto", notes: Fp16Notes, target: Path, batch: Batch) -> None:
    """Raise WorkbenchError, and leave no file, where the converter left what cannot be opened or run."""
    import onnx

    model.metadata_props.add(key=NOTES, value=json.dumps(asdict(notes)))
    onnx.save(model, target)
    try:
        logits_of(target, describe(target), batch)
    except WorkbenchError as error:
        target.unlink()
        control_flow = sorted({node.op_type for node in model.graph.node if has_body(node)})
        reason = f"it has `{control_flow[0]}`, which the converter gets wrong: " if control_flow else ""
        raise WorkbenchError(
            f"fp16: onnxruntime's converter writes a graph that does not run: {error.message}",
            hint=f"{reason}put `simplify` before `fp16`",
        ) from error
