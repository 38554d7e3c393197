"""What a delegate runs of a network: counted from lists of nodes as LiteRT's interpreter gives them."""

from typing import Any

import numpy as np
import pytest

from tests.builders import error_of
from workbench.backends import RUNTIME, LitertRuntime
from workbench.backends.audit import Audit, Delegation
from workbench.backends.edge import with_delegation
from workbench.backends.litert.audit import audit_nodes, delegation_of, macs_of

PHOTO = 0
SHAPES: dict[int, tuple[int, ...]] = {
    0: (1, 8, 8, 3),
    1: (4, 3, 3, 3),  # weights of the convolution
    2: (1, 4, 4, 4),
    3: (1, 4, 4, 4),  # after hard-swish
    4: (1, 3, 3, 4),  # weights of the depthwise one
    5: (1, 4, 4, 4),
    6: (1, 4),
    7: (5, 4),  # weights of the product
    8: (1, 5),
    9: (5, 4),  # the same weights, stored in another type
}
CONV = 4 * 4 * 4 * 27
DEPTHWISE = 4 * 4 * 4 * 9
PRODUCT = 5 * 4


def node(name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
    return {"op_name": name, "inputs": np.array(inputs), "outputs": np.array(outputs)}


OWN = [
    node("DEQUANTIZE", [9], [7]),  # of a constant
    node("CONV_2D", [0, 1], [2]),
    node("HARD_SWISH", [2], [3]),
    node("DEPTHWISE_CONV_2D", [3, 4], [5]),
    node("MEAN", [5], [6]),
    node("FULLY_CONNECTED", [6, 7], [8]),
]
CUT = [*OWN, node("DELEGATE", [0, 1], [2]), node("DELEGATE", [3, 4, 7], [8])]
WHOLE = [*OWN, node("DELEGATE", [0, 1, 4, 7], [8])]


def tensors(**types: Any) -> list[dict[str, Any]]:
    return [
        {"index": index, "shape": np.array(shape), "dtype": types.get(f"t{index}", np.float32)}
        for index, shape in SHAPES.items()
    ]


@pytest.mark.parametrize(
    ("position", "macs"), [(1, CONV), (2, None), (3, DEPTHWISE), (4, None), (5, PRODUCT)]
)
def test_multiplications_follow_from_the_shapes(position: int, macs: int | None) -> None:
    assert macs_of(OWN[position], SHAPES) == macs


def test_a_transposed_convolution_multiplies_each_value_it_is_given() -> None:
    shapes = {0: (4,), 1: (2, 3, 3, 4), 2: (1, 5, 5, 4), 3: (1, 10, 10, 2)}
    assert macs_of(node("TRANSPOSE_CONV", [0, 1, 2], [3]), shapes) == 5 * 5 * 4 * 2 * 9


def test_what_stays_outside_the_delegate_is_counted_and_named() -> None:
    found = delegation_of(CUT, tensors(), PHOTO)
    assert found == Delegation(
        delegate="XNNPACK",
        partitions=2,
        nodes=5,
        delegated=4,
        macs=CONV + DEPTHWISE + PRODUCT,
        delegated_macs=CONV + DEPTHWISE + PRODUCT,
        outside={"HARD_SWISH": 1},
    )
    assert not found.whole
    assert found.sentence() == (
        "XNNPACK runs 4 of 5 nodes, 100 % of the multiplications, in 2 partitions; outside: HARD_SWISH (1)"
    )


def test_a_network_in_one_piece_is_whole() -> None:
    found = delegation_of(WHOLE, tensors(), PHOTO)
    assert (found.whole, found.partitions, found.outside) == (True, 1, {})


def test_without_a_delegate_everything_is_outside() -> None:
    found = delegation_of(OWN, tensors(), PHOTO)
    assert (found.partitions, found.delegated, found.delegated_macs) == (0, 0, 0)
    assert sum(found.outside.values()) == found.nodes == 5


def test_the_precision_is_that_of_the_weights() -> None:
    types = {"t1": np.int8, "t4": np.int8}
    found = audit_nodes(WHOLE, tensors(**types), PHOTO, delegation_of(WHOLE, tensors(), PHOTO), stored="int8")
    total = CONV + DEPTHWISE + PRODUCT
    assert found.int8_share == pytest.approx((CONV + DEPTHWISE) / total)
    assert found.computes == "int8"
    assert found.providers == {"XNNPACK": 5}
    assert found.verdict == "int8 for 99 % of the multiplications (fp32 1 %)"


def test_the_rule_fails_with_the_numbers_and_the_remedy() -> None:
    required = LitertRuntime(full_delegation="required")
    cut = delegation_of(CUT, tensors(), PHOTO)
    error = error_of(lambda: with_delegation(Audit(verdict="int8"), cut, required))
    assert error.message == f"runtime.full_delegation: {cut.sentence()}"
    assert "exclude_op_types" in (error.hint or "")
    whole = delegation_of(WHOLE, tensors(), PHOTO)
    audit = with_delegation(Audit(verdict="int8"), whole, required)
    assert audit.delegation == whole
    assert audit.verdict == f"int8; {whole.sentence()}"


def test_a_program_that_does_not_say_what_is_delegated_fails_the_rule() -> None:
    required = LitertRuntime(full_delegation="required")
    assert "does not say" in error_of(lambda: with_delegation(Audit(verdict="x"), None, required)).message


@pytest.mark.parametrize("backend", ["litert", "executorch"])
def test_a_batch_is_refused_where_it_is_written(backend: str) -> None:
    with pytest.raises(ValueError, match="one photo a call: leave `batch` out"):
        RUNTIME.validate_python({"backend": backend, "batch": 4})
