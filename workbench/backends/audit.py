"""The audit: in which precision the multiplications of an artifact really run, and what stands between them.

A runtime may compute a file in another precision than the one it is stored in. The audit counts the nodes of
the graph that the runtime executes, weighted by multiply-accumulates (MACs).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt

from workbench.errors import plural
from workbench.system.records import Record

Computed = Literal["int8", "fp16", "bf16", "fp32", "unknown"]
Whole = Literal["int8", "fp16", "bf16", "fp32", "mixed", "unknown"]
# By `runtime.precision`. TF32 is a way to multiply float32; the tensors stay float32.
COMPUTED: Mapping[str, Computed] = {"f32": "fp32", "tf32": "fp32", "bf16": "bf16", "f16": "fp16"}

DOMINANT = 0.9  # of the MACs: below it no single precision names the whole


class Delegation(Record):
    """How much of a network its delegate runs; what is outside runs on kernels of the runtime's own.

    delegate: its name. partitions: pieces that it runs, one after the other. nodes, delegated: of the
    network, without those that were folded. macs, delegated_macs: multiply-accumulates a photo, None where a
    shape is hidden. outside: how many nodes of each operator.
    """

    delegate: str
    partitions: NonNegativeInt
    nodes: NonNegativeInt
    delegated: NonNegativeInt
    macs: NonNegativeInt | None = None
    delegated_macs: NonNegativeInt | None = None
    outside: dict[str, NonNegativeInt] = Field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return self.partitions == 1 and self.delegated == self.nodes

    def sentence(self) -> str:
        """`XNNPACK runs 101 of 120 nodes, 97 % of the multiplications, in 20 partitions; outside: …`."""
        known = bool(self.macs) and self.delegated_macs is not None
        share = (
            f", {percent((self.delegated_macs or 0) / (self.macs or 1))} of the multiplications"
            if known
            else ""
        )
        outside = ", ".join(f"{name} ({count})" for name, count in sorted(self.outside.items()))
        ran = f"{self.delegate} runs {self.delegated} of {plural(self.nodes, 'node')}{share}"
        return f"{ran}, in {plural(self.partitions, 'partition')}" + (
            f"; outside: {outside}" if outside else ""
        )


class Audit(Record):
    """What really runs. None, and "unknown": the runtime does not tell.

    macs: per photo. int8_share, half_share (fp16 and bf16), fp32_share: fractions of the MACs; the rest is
    unknown. providers: nodes per execution provider. casts: nodes that change the number format.
    unfused_qdq: nodes that only quantise or dequantise between two multiplications. delegation: of runtimes
    that hand parts of a network to a delegate. runtime_bytes: of the installed runtime, of those for devices.
    computes: the precision of at least nine tenths of the MACs, else mixed. verdict: one sentence.
    """

    REMOVED: ClassVar = {"as_asked": None}

    macs: NonNegativeInt | None = None
    int8_share: float | None = None
    half_share: float | None = None
    fp32_share: float | None = None
    providers: dict[str, NonNegativeInt] = Field(default_factory=dict)
    casts: NonNegativeInt | None = None
    unfused_qdq: NonNegativeInt | None = None
    computes: Whole = "unknown"
    delegation: Delegation | None = None
    runtime_bytes: NonNegativeInt | None = None
    verdict: str


@dataclass(frozen=True, slots=True)
class Product:
    """A node that multiplies, as it is executed. macs: per photo; None where its shapes are hidden."""

    precision: Computed
    macs: int | None


def audit_of(
    products: Sequence[Product],
    *,
    asked: Computed,
    providers: Mapping[str, int],
    casts: int | None,
    unfused_qdq: int | None,
    macs: int | None = None,
    stored: bool = True,
) -> Audit:
    """The audit of these counts.

    products: every node that multiplies in the executed graph. asked: the precision to expect: the file's
    (`stored`), or else the runtime's setting. macs: of the network as it is stored; what the products lack of
    it counts as unknown.
    """
    shares = shares_of(products, macs)
    parts = [_precision_part(shares, asked, casts, stored=stored)]
    if unfused_qdq:
        parts.append(f"{plural(unfused_qdq, 'quantise/dequantise node')} did not fuse")
    if len(providers) > 1:
        ordered = sorted(providers.items(), key=lambda item: -item[1])
        parts.append(
            "split over " + ", ".join(f"{name} ({plural(count, 'node')})" for name, count in ordered)
        )
    return Audit(
        macs=macs if macs is not None else _total(products),
        int8_share=shares.get("int8", 0.0) if shares else None,
        half_share=shares.get("fp16", 0.0) + shares.get("bf16", 0.0) if shares else None,
        fp32_share=shares.get("fp32", 0.0) if shares else None,
        providers=dict(providers),
        casts=casts,
        unfused_qdq=unfused_qdq,
        computes=_computes(shares),
        verdict="; ".join(parts),
    )


def shares_of(products: Sequence[Product], macs: int | None = None) -> dict[Computed, float]:
    """Fractions of the MACs by precision, sum 1; empty where a product hides its shapes.

    macs: of the whole network, where known; what the products lack of it counts as unknown. Runtimes pad
    channels, so that the products may come to more.
    """
    counted = _total(products)
    if not counted:
        return {}
    sums: dict[Computed, float] = {}
    for product in products:
        sums[product.precision] = sums.get(product.precision, 0.0) + (product.macs or 0)
    if macs is not None and counted < macs:
        sums["unknown"] = sums.get("unknown", 0.0) + macs - counted
    total = sum(sums.values())
    return {precision: part / total for precision, part in sums.items() if part}


def _precision_part(
    shares: Mapping[Computed, float], asked: Computed, casts: int | None, *, stored: bool
) -> str:
    if not shares or max(shares, key=lambda name: shares[name]) == "unknown":
        return "the runtime does not tell in which precision it multiplies"
    main, *others = sorted(shares, key=lambda name: -shares[name])
    mostly = f" for {percent(shares[main])} of the multiplications" if others else ""
    behind = f" behind {plural(casts, 'cast')}" if casts else ""
    if asked not in (main, "unknown"):
        wish = f"stored in {asked}" if stored else f"{asked} was asked for"
        part = f", {asked} for {percent(shares[asked])}" if asked in shares else ""
        for_nothing = stored and main == "fp32" and asked not in shares
        gain = ": smaller, but no faster" if for_nothing else ""
        return f"{wish}, computed in {main}{mostly}{part}{behind}{gain}"
    rest = ", ".join(f"{name} {percent(shares[name])}" for name in others)
    return f"{main}{mostly} ({rest})" if others else f"{main} for all multiplications"


def percent(share: float) -> str:
    """`97 %`; `100 %` and `0 %` only where the share is exactly that."""
    rounded = round(100 * share)
    if rounded == 100 and share < 1:
        return "over 99 %"
    return "under 1 %" if rounded == 0 and share > 0 else f"{rounded} %"


def _computes(shares: Mapping[Computed, float]) -> Whole:
    if not shares or shares.get("unknown", 0.0) > 1 - DOMINANT:
        return "unknown"
    precision, share = max(shares.items(), key=lambda item: item[1])
    return precision if share >= DOMINANT else "mixed"


def _total(products: Sequence[Product]) -> int | None:
    """MACs of all products; None where a shape is hidden or nothing multiplies in sight."""
    counts = [product.macs for product in products]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None
