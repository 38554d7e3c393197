"""What every step's result must pass, and which order of steps makes sense."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.artifact import Precision
from workbench.errors import WorkbenchError
from workbench.images import Batch, Preprocess, normalize
from workbench.onnx_info import OnnxFacts, describe, load, logits_of
from workbench.steps.fp16_casts import FLOAT16, casts_to, half_share, types_of
from workbench.steps.fp16_ranges import measured
from workbench.weights import first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LARGEST_FP16 = 65504.0
LEAST_HALF = 0.5  # of the MACs of an fp16 file
SAME = 1e-4  # of the largest logit: what folding constants may change
SAME_INT8 = 0.05  # likewise where values on the edge between two levels may round the other way

NEEDS_FLOAT = frozenset({"dynamic_int8", "static_int8", "nncf_int8", "modelopt_int8", "fp16"})
HALVES = frozenset({"fp16", "static_int8", "modelopt_int8"})  # what they do not quantise may become FP16
EXACT = frozenset({"simplify", "fold_preprocess", "optimize", "fixed_batch", "dynamic_batch"})
BATCH = frozenset({"fixed_batch", "dynamic_batch"})
LAST = frozenset({"fold_preprocess", "optimize"})
# After a step in LAST the graph has another input, or operators of one runtime only.
AFTER = {
    "fold_preprocess": frozenset({"static_int8", "nncf_int8", "optimize", *BATCH}),
    "optimize": frozenset[str](),
}


def check_sequence(uses: Sequence[str]) -> None:
    """Raise WorkbenchError where a recipe's steps make no sense in this order, whatever the model."""
    for position, use in enumerate(uses):
        before = uses[:position]
        if use in before and use != "simplify":
            raise WorkbenchError(
                f"step `{use}` is there twice: the second would have nothing to do",
                hint="leave one of them out",
            )
        if use in BATCH and BATCH & set(before):
            raise WorkbenchError(f"step `{use}` undoes `{before[-1]}`", hint="keep one of the two")
        if use in NEEDS_FLOAT and (changed := [name for name in before if name in NEEDS_FLOAT]):
            raise WorkbenchError(
                f"step `{use}` comes after `{changed[0]}`, which leaves no float network to work on",
                hint="keep one of the steps that change the precision",
            )
        for earlier in before:
            if earlier in LAST and use not in AFTER[earlier]:
                allowed = " or ".join(f"`{name}`" for name in sorted(AFTER[earlier]))
                follow = f"only {allowed} may follow" if allowed else "nothing may follow"
                raise WorkbenchError(
                    f"step `{use}` comes after `{earlier}`, which {follow}",
                    hint=f"move `{use}` before `{earlier}`",
                )


def check_order(step: str, before: Precision) -> None:
    """Raise WorkbenchError where `step` makes no sense on a model of this precision."""
    if step not in NEEDS_FLOAT or before == "fp32":
        return
    reasons = {
        "int8": "its input is quantised already, and quantising twice loses accuracy for nothing",
        "fp16": "its input is fp16 already; ranges and scales are found in fp32",
        "bf16": "its input is bf16 already; ranges and scales are found in fp32",
        "unknown": "its input is not fp32",
    }
    raise WorkbenchError(
        f"step `{step}`: {reasons[before]}", hint="keep one of the steps that change the precision"
    )


def check(
    step: str, source: Path, result: Path, samples: "Batch | None" = None, contract: Preprocess | None = None
) -> None:
    """Open a step's result in onnxruntime on the CPU and hold it against what went in.

    samples: photos as the source takes them; noise by default. contract: of a step that folds it.
    Raises WorkbenchError naming the step where the file is invalid, where its opset, input or classes
    changed, where logits are not finite; for the steps in EXACT, where precision or logits changed; for those
    in HALVES, where an activation became FP16 and does not fit.
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
        if step in EXACT:
            if after.precision != before.precision:
                raise WorkbenchError(
                    f"turned {before.precision} weights into {after.precision}",
                    hint=f"put `{step}` before the steps that change the precision",
                )
            tolerance = SAME_INT8 if before.precision == "int8" else SAME
            _same_logits(logits_of(source, before, batch), logits, tolerance)
        if step in HALVES:
            _fits_fp16(source, result, batch)
        if step == "fp16":
            _mostly_half(result)
    except WorkbenchError as error:
        result.unlink(missing_ok=True)
        raise WorkbenchError(f"step `{step}`: {error.message}", hint=error.hint) from error


def to_pixels(batch: "NDArray[np.float32]", contract: Preprocess) -> "NDArray[np.uint8]":
    """(n, H, W, 3) uint8 pixels whose normalisation comes nearest to (n, 3, H, W) float32."""
    import numpy as np

    units = batch.transpose(0, 2, 3, 1) * np.asarray(contract.std) + np.asarray(contract.mean)
    pixels: NDArray[np.uint8] = np.clip(np.rint(255 * units), 0, 255).astype(np.uint8)
    return pixels


def noise(facts: OnnxFacts) -> Batch:
    """Two images of noise, always the same: standard normal, what normalised photos look like at a glance."""
    import numpy as np

    rng, (channels, height, width) = np.random.default_rng(0), facts.image_shape()
    if facts.pixels:
        return rng.integers(0, 256, (2, height, width, channels), np.uint8)
    return rng.standard_normal((2, channels, height, width), np.float32)


def _valid(path: Path) -> OnnxFacts:
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise WorkbenchError(f"the result is not valid ONNX: {first_line(error)}") from error
    return describe(path)


def _same_contract(step: str, before: OnnxFacts, after: OnnxFacts) -> None:
    fixed = 1 if step in BATCH else 0  # those steps are there to change the batch size
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


def _finite(logits: "NDArray[np.float32]") -> "NDArray[np.float32]":
    import numpy as np

    if not np.isfinite(logits).all():
        raise WorkbenchError(
            "the result gives logits that are not finite (NaN or infinity)",
            hint="leave the nodes with the largest activations out: `exclude_nodes`, `exclude_op_types`",
        )
    return logits


def _same_logits(before: "NDArray[np.float32]", after: "NDArray[np.float32]", tolerance: float) -> None:
    import numpy as np

    difference, largest = float(np.abs(after - before).max()), float(np.abs(before).max())
    if difference > tolerance * max(1.0, largest):
        raise WorkbenchError(
            f"a logit changed by {difference:.3g} (largest logit {largest:.3g}); it should stay the same",
            hint="leave the step out, or for `simplify` try the other `tool`",
        )


def _fits_fp16(source: Path, result: Path, batch: "NDArray[np.float32]") -> None:
    """Compare the FP32 activations with what FP16 holds.

    The result cannot tell: on the CPU, onnxruntime runs it in FP32 between casts, and nothing overflows
    until the file meets a GPU.
    """
    import onnx

    model = load(source)
    converted = load(result)
    types = types_of(converted)
    cast = {node.input[0] for node in converted.graph.node if FLOAT16 in casts_to(node)}
    half = cast | {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT16}
    if not half:
        return
    for name, peak in measured(model, [batch]).tensors.items():
        if name in half and LARGEST_FP16 < peak < float("inf"):
            raise WorkbenchError(
                f"the activation `{name}` reaches {peak:.3g}; fp16 ends at {LARGEST_FP16:g}",
                hint="leave the node that computes it in fp32, with `exclude_nodes` or `exclude_op_types`; "
                "`keep_sensitive: true` of `fp16` finds such nodes",
            )


def _mostly_half(result: Path) -> None:
    """A file that would be computed in FP32 between casts is not what was asked for."""
    from workbench.steps.fp16 import notes_of

    share = half_share(load(result))
    if share is None or share >= LEAST_HALF:
        return
    notes = notes_of(result)
    kept = list(notes.kept.items()) if notes else []
    because = f" (FP16 would harm {len(kept)} nodes: `{kept[0][0]}`, as {kept[0][1]})" if kept else ""
    raise WorkbenchError(
        f"{share:.0%} of the multiplications are in fp16, the others were left in fp32{because}",
        hint="leave the step out, or use bf16, which has the range of fp32"
        if kept
        else "exclude fewer nodes, or leave the step out",
    )
