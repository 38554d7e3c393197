"""How long a call takes by the kinds of its work: costs fitted on measurements alone (measured.yaml).

A call costs something by itself, every node does, and so do multiplications and values moved; each runtime
and precision has costs of its own. Only ratios of them are used: they carry over to other machines, times do
not.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

from workbench.model.graph.work import Work
from workbench.system.records import Record

Method = Literal[
    "fp32",
    "int8",
    "fp16",
    "dynamic_int8",
    "dynamic_uint8",
    "dynamic_products",
    "openvino_f32",
    "openvino_bf16",
    "openvino_int8",
]
SIZES = 1.1  # logarithm of the ratio of pixels between the two sizes measured
FOREIGN = 1.4  # wider on processors with other instructions: an assumption, not a measurement


class Costs(Record):
    """Microseconds of a call, of a node, and of a million of each other kind of `Work`.

    within: a ratio to FP32 (of FP32, the ratio of two sizes) was predicted within this factor for 80 % of the
    networks that the fit had not seen; for networks whose calls are all arithmetic and memory.
    """

    call: float
    nodes: float
    plain: float
    depthwise: float
    products: float
    weights: float
    moved: float
    between: float
    gated: float
    within: float

    def overhead(self, work: Work) -> float:
        """Microseconds of a call that are neither arithmetic nor memory."""
        return self.call + self.nodes * work.nodes

    def of(self, work: Work) -> float:
        """Microseconds of a call."""
        sized: float = sum(getattr(self, name) * count for name, count in work if name != "nodes")
        return self.overhead(work) + sized / 1e6


class CostModel(Record):
    """Costs, and what they were fitted on. features: of the processor."""

    cpu: str
    features: tuple[str, ...]
    date: str
    versions: Mapping[str, str]
    networks: tuple[str, ...]
    costs: Mapping[Method, Costs]

    @property
    def source(self) -> str:
        used = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        count = len(self.networks)
        return f"measured on {count} networks, one thread, {self.cpu}, {used}: docs/measured-advice.md"

    def costs_of(self, method: Method) -> Costs:
        if method == "dynamic_products":  # the rest stays in FP32
            quick = self.costs["dynamic_uint8"]
            changed = {"products": quick.products, "within": quick.within}
            return self.costs["fp32"].model_copy(update=changed)
        return self.costs[method]

    def overhead_share(self, work: Work, method: Method) -> float:
        """How much of a call gains nothing from less arithmetic and memory."""
        costs = self.costs_of(method)
        return costs.overhead(work) / costs.of(work)

    def speedup(
        self, before: Work, first: Method, after: Work, second: Method, *, foreign: bool = False
    ) -> tuple[float, float]:
        """How many times as fast `second` does the work `after` as `first` does `before`: low and high.

        foreign: on a processor with other instructions than the measured one's.
        """
        costs = self.costs_of(second)
        ratio = self.costs_of(first).of(before) / costs.of(after)
        factor = costs.within * (FOREIGN if foreign and first != second else 1.0)
        uncertain = 1 - self.overhead_share(after, second)
        if second == "dynamic_products":  # the rest is as it was
            uncertain = costs.products * after.products / 1e6 / costs.of(after)
        if first == second:  # a little less work is surely a little faster
            uncertain *= min(1.0, abs(math.log(max(1, after.macs) / before.macs)) / SIZES)
        return ratio / factor**uncertain, ratio * factor**uncertain


@lru_cache(maxsize=1)
def measured() -> CostModel:
    import yaml

    return CostModel(**yaml.safe_load(Path(__file__).with_name("measured.yaml").read_bytes()))
