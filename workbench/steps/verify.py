"""The checks of every step's result."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.errors import WorkbenchError, first_line, plural
from workbench.measure.agreement import Disagreement, coarsest, disagreement
from workbench.model.graph.first_difference import cut, first_difference
from workbench.model.graph.onnx_file import OnnxFacts, describe, load, logits_of, noise
from workbench.photos.contract import Batch, Preprocess
from workbench.photos.preprocess import normalize
from workbench.steps.base import BaseStep
from workbench.steps.fp16.casts import cast_type, half_share, notes_of, types_of
from workbench.steps.fp16.ranges import LARGEST, measured
from workbench.steps.graph import FLOAT16, runner

SAME = 1e-4  # of the largest logit: what folding constants may change
SAME_INT8 = 0.05  # likewise where values on the edge between two levels may round the other way
LEAST_HALF = 0.5  # of the MACs of an fp16 file


def check(
    step: BaseStep,
    source: Path,
    result: Path,
    samples: "Batch | None" = None,
    contract: Preprocess | None = None,
) -> None:
    """Open a step's result in onnxruntime on the CPU and compare it with the source.

    samples: photos as the source takes them; noise by default. contract: of a step that folds it.
    Raises WorkbenchError naming the step where the file is invalid, where its opset, input or classes
    changed, where logits are not finite; where it should have kept the precision and did not; where logits
    changed by more than `agreement.disagreement` grants its precision, with the first node that differs;
    where an activation became FP16 and does not fit.
    """
    before = describe(source)
    batch = noise(before) if samples is None else samples
    try:
        after = _valid(result)
        _same_contract(step, before, after)
        given = batch
        if after.pixels and not before.pixels:
            assert contract is not None
            given = to_pixels(batch, contract)
            batch = normalize(given, contract)
        logits = _finite(logits_of(result, after, given))
        if step.keeps_logits and after.precision != before.precision:
            raise WorkbenchError(
                f"turned {before.precision} weights into {after.precision}",
                hint=f"put `{step.use}` before the steps that change the precision",
            )
        if step.HALVES:
            _fits_fp16(source, result, batch)
        if step.FAMILY == "fp16":
            _mostly_half(result)
        _same_logits(step, source, result, batch, given, logits)
    except WorkbenchError as error:
        result.unlink(missing_ok=True)
        raise WorkbenchError(f"step `{step.use}`: {error.message}", hint=error.hint) from error


def to_pixels(batch: NDArray[np.float32], contract: Preprocess) -> NDArray[np.uint8]:
    """(n, H, W, 3) uint8 pixels whose normalisation comes nearest to (n, 3, H, W) float32."""
    units = batch.transpose(0, 2, 3, 1) * np.asarray(contract.std) + np.asarray(contract.mean)
    pixels: NDArray[np.uint8] = np.clip(np.rint(contract.white * units), 0, 255).astype(np.uint8)
    return pixels


def _valid(path: Path) -> OnnxFacts:
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise WorkbenchError(f"the result is not valid ONNX: {first_line(error)}") from error
    return describe(path)


def _same_contract(step: BaseStep, before: OnnxFacts, after: OnnxFacts) -> None:
    fixed = 1 if step.RESIZES else 0  # those steps are there to change the batch size
    for what, old, new in (
        ("opset", before.opset, after.opset),
        ("input shape (0: free)", before.input_shape[fixed:], after.input_shape[fixed:]),
        ("number of classes", before.classes, after.classes),
    ):
        if old != new:
            raise WorkbenchError(
                f"the {what} was {old} and became {new}",
                hint="export with a newer opset: the step raised it to have the operators it needs"
                if what == "opset"
                else None,
            )


def _finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(logits).all():
        raise WorkbenchError(
            "the result gives logits that are not finite (NaN or infinity)",
            hint="leave the nodes with the largest activations out: `exclude_nodes`, `exclude_op_types`",
        )
    return logits


def _same_logits(
    step: BaseStep, source: Path, result: Path, batch: Batch, given: Batch, logits: NDArray[np.float32]
) -> None:
    """batch, given: the same photos as the source and as the result take them."""
    before = describe(source)
    expected = logits_of(source, before, batch)
    precision = "fp32" if step.keeps_logits else coarsest((step.FAMILY, describe(result).precision))
    tolerance = SAME_INT8 if before.precision == "int8" else SAME
    off = disagreement(expected, logits, precision, rounding=tolerance)
    if off is None:
        return
    there = first_step_difference(source, result, batch, given, off, precision, tolerance)
    node = f"; the first node that differs is {there}" if there else ""
    hint = "leave the step out, or for `simplify` try the other `tool`"
    if not step.keeps_logits:
        hint = "leave the step out, or leave that node out of it (`exclude_nodes`, `ignored_nodes`)"
    raise WorkbenchError(f"on photo {off.row + 1} of {len(batch)} {off.text}{node}", hint=hint)


def first_step_difference(
    source: Path,
    result: Path,
    batch: Batch,
    given: Batch,
    off: Disagreement,
    precision: str,
    tolerance: float,
) -> str | None:
    """The first node of the result whose output, which the source has too, is another on that photo."""
    models = load(source), load(result)
    photos = batch[off.row : off.row + 1], given[off.row : off.row + 1]

    def differs(name: str) -> bool:
        (expected,), (got,) = (
            runner(cut(model, name))(photo) for model, photo in zip(models, photos, strict=True)
        )
        if len(expected) != len(got):  # another batch, filled up with the same photo
            expected, got = expected[:1], got[:1]
        found = disagreement(expected, got, precision, rounding=tolerance, classes=False)
        return found is not None

    made = {name for node in models[0].graph.node for name in node.output}
    return first_difference(models[1], differs, shared=made)


def _fits_fp16(source: Path, result: Path, batch: NDArray[np.float32]) -> None:
    """Compare the FP32 activations with what FP16 holds.

    The result does not show it: on the CPU, onnxruntime runs it in FP32 between casts, and nothing overflows
    until the file meets a GPU.
    """
    converted = load(result)
    half = {node.input[0] for node in converted.graph.node if cast_type(node) == FLOAT16}
    half |= {name for name, kind in types_of(converted).items() if kind == FLOAT16}
    if not half:
        return
    for name, peak in measured(load(source), [batch]).tensors.items():
        if name in half and LARGEST < peak < float("inf"):
            raise WorkbenchError(
                f"the activation `{name}` reaches {peak:.3g}; fp16 ends at {LARGEST:g}",
                hint="leave the node that computes it in fp32, with `exclude_nodes` or `exclude_op_types`; "
                "`keep_sensitive: true` of `fp16` finds such nodes",
            )


def _mostly_half(result: Path) -> None:
    """Refuse a file that is computed in FP32 between casts."""
    share = half_share(load(result))
    if share is None or share >= LEAST_HALF:
        return
    notes = notes_of(result)
    sensitive = list(notes.kept.items()) if notes else []
    because, hint = "", "exclude fewer nodes, or leave the step out"
    if sensitive:
        name, reason = sensitive[0]
        because = f" (FP16 would harm {plural(len(sensitive), 'node')}: `{name}`, as {reason})"
        hint = "leave the step out, or use bf16, which has the range of fp32"
    raise WorkbenchError(
        f"{share:.0%} of the multiplications are in fp16, the others were left in fp32{because}", hint=hint
    )
