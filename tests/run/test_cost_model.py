"""What a call costs by the sizes of a network: counted, and compared."""

import pytest

from workbench.model.graph.work import Work
from workbench.run.advice.cost_model import CostModel, Costs, measured

NOTHING = dict.fromkeys(Work.model_fields, 0)
FREE = dict.fromkeys(Costs.model_fields, 0.0)


def work(**more: int) -> Work:
    return Work(**{**NOTHING, **more})


def costs(**more: float) -> Costs:
    return Costs(**{**FREE, "within": 1.2, **more})


def known(**methods: Costs) -> CostModel:
    origin = {"cpu": "a", "features": (), "date": "2026-01-01", "versions": {}, "networks": ()}
    return CostModel(**origin, costs=methods)


PLAIN = work(nodes=10, plain=20_000_000, products=1_000_000)


def test_a_call_costs_itself_its_nodes_and_its_arithmetic() -> None:
    assert costs(call=5, nodes=2, plain=3, products=7).of(PLAIN) == pytest.approx(5 + 20 + 60 + 7)


def test_smaller_photos_are_less_arithmetic_and_as_many_nodes_and_weights() -> None:
    small = work(nodes=10, plain=8, weights=100, moved=40).scaled(0.25)
    assert small == work(nodes=10, plain=2, weights=100, moved=10)


def test_a_ratio_is_as_uncertain_as_the_part_of_it_that_is_no_overhead() -> None:
    model = known(fp32=costs(plain=4), int8=costs(call=40, plain=2))
    low, high = model.speedup(PLAIN, "fp32", PLAIN, "int8")
    assert low * high == pytest.approx(1)  # 80 of both
    assert high == pytest.approx(1.2**0.5)
    wider = model.speedup(PLAIN, "fp32", PLAIN, "int8", foreign=True)
    assert wider[0] < low and high < wider[1]


def test_a_slightly_smaller_photo_is_surely_a_little_faster() -> None:
    model = known(fp32=costs(plain=4))
    low, high = model.speedup(PLAIN, "fp32", PLAIN.scaled(0.9), "fp32", foreign=True)
    assert 1 < low < 1 / 0.9 < high < 1.2


def test_dynamic_int8_of_products_leaves_the_convolutions_as_they_were() -> None:
    model = known(fp32=costs(plain=4, products=8), dynamic_uint8=costs(plain=40, products=2))
    assert model.costs_of("dynamic_products").of(PLAIN) == pytest.approx(80 + 2)


@pytest.mark.parametrize("method", list(measured().costs))
def test_the_shipped_costs_say_what_they_were_measured_on(method: str) -> None:
    here = measured()
    assert len(here.networks) >= 12 and here.cpu and "onnxruntime" in here.versions
    assert here.costs[method].of(PLAIN) > 0  # type: ignore[index]
    assert here.costs[method].within > 1  # type: ignore[index]
