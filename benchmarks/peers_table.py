"""What `benchmarks/peers.py` found, as records and as Markdown. Nothing here measures."""

import math
from collections.abc import Sequence
from typing import Literal

from workbench.measure.stats import PairedDrop, Ratio
from workbench.system.records import Record

Maker = Literal["baseline", "peer", "ours"]


class Row(Record):
    """One tool's artifact for one model.

    runs_on: runtime, threads and input size, in words. reason: why the rest is missing.
    top1: on all validation photos, a fraction. losses, gains: against the FP32 baseline on the `certifying`
    photos. round_log_ratios: log(its time / the baseline's) per round of fresh launches.
    """

    name: str
    maker: Maker
    runs_on: str = ""
    reason: str | None = None
    make_s: float | None = None
    size_bytes: int | None = None
    top1: float | None = None
    losses: int | None = None
    gains: int | None = None
    certifying: int | None = None
    p50_ns: float | None = None
    round_log_ratios: tuple[float, ...] = ()
    confirmed: bool = False

    @property
    def drop(self) -> PairedDrop | None:
        if self.losses is None or self.gains is None or self.certifying is None:
            return None
        return PairedDrop(self.losses, self.gains, self.certifying)

    @property
    def speed(self) -> Ratio | None:
        return Ratio(self.round_log_ratios) if self.round_log_ratios else None

    def meets(self, max_drop: float) -> bool:
        """Within the budget, certified: the baseline always is."""
        if self.speed is None:
            return False
        return self.maker == "baseline" or (self.drop is not None and self.drop.upper_bound() <= max_drop)


class Model(Record):
    """All that was found for one workspace.

    against: the fastest of the peers' artifacts and the baseline that meet the budget. duel_log_ratios:
    log(our time / its) per round of a session of their own; empty where there is no artifact of ours.
    noise_floor: what a second copy of the baseline differed by, a fraction.
    """

    name: str
    source: str
    photos: int
    certifying: int
    uncertified: str | None
    calibrating: int
    max_drop: float
    date: str
    cpu: str
    cores: int
    libraries: dict[str, str]
    peer_libraries: dict[str, str]
    rows: tuple[Row, ...]
    against: str
    duel_log_ratios: tuple[float, ...] = ()
    noise_floor: float | None = None
    disturbed_rounds: int = 0
    tune_s: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def ours(self) -> Row:
        return next(row for row in self.rows if row.maker == "ours")

    @property
    def duel(self) -> Ratio | None:
        """How many times faster ours is than `against`."""
        return Ratio(self.duel_log_ratios) if self.duel_log_ratios else None

    @property
    def outcome(self) -> Literal["faster", "even", "slower", "none"]:
        """`even`: the interval includes 1, or there are too few rounds for one."""
        if self.duel is None or not self.ours.meets(self.max_drop):
            return "none"
        low, high = self.duel.interval or (0.0, math.inf)
        return "faster" if low > 1 else "slower" if high < 1 else "even"


class Results(Record):
    """The JSON file beside the table."""

    schema_version: Literal[1] = 1
    command: str
    models: tuple[Model, ...] = ()

    def with_model(self, model: Model) -> "Results":
        others = tuple(other for other in self.models if other.name != model.name)
        return self.model_copy(update={"models": (*others, model)})


def fastest_within(rows: Sequence[Row], max_drop: float) -> Row:
    """Of what a user without krishi-bench has: artifacts of others that meet the budget, or the baseline."""
    fitting = [row for row in rows if row.maker != "ours" and row.meets(max_drop)]
    return max(fitting, key=lambda row: row.speed.log_speedup if row.speed else -math.inf)


def verdict(model: Model) -> str:
    """One sentence."""
    duel, against = model.duel, f"`{model.against}`"
    if model.outcome == "none" or duel is None:
        return (
            f"**Ours does not count**: {model.ours.reason or 'its drop is not certified within the budget'}."
        )
    interval = _interval(duel)
    words = {
        "faster": f"**Ours is faster** than the best that meets the budget, {against}: ",
        "even": f"**Ours is not slower** than the best that meets the budget, {against}: ",
        "slower": f"**Ours is slower** than the best that meets the budget, {against}: ",
    }
    return f"{words[model.outcome]}{duel.speedup:.2f} times its speed {interval}."


def markdown(results: Results) -> str:
    """The whole page."""
    models = results.models
    judged = [model for model in models if model.outcome != "none"]
    faster = [model for model in judged if model.outcome == "faster"]
    even = [model for model in judged if model.outcome == "even"]
    lines = [
        "# Side by side with other tools",
        "",
        f"Output of `{results.command}`. The same ONNX file, calibration photos, validation photos and "
        "measuring engine for all; one photo at a time.",
        "",
        "Not slower than the best artifact of another tool that meets the budget, or the plain FP32 file: "
        f"{len(faster) + len(even)} of {len(models)} models. Faster: {len(faster)} of {len(models)}.",
        "",
        "| model | best of the others | ours | ours to the best | |",
        "| --- | --- | --- | --- | --- |",
        *[_summary(model) for model in models],
    ]
    for model in models:
        lines += ["", *_section(model)]
    return "\n".join(lines) + "\n"


def _summary(model: Model) -> str:
    duel = model.duel
    ratio = f"{duel.speedup:.2f} {_interval(duel)}" if duel else ""
    best = next(row for row in model.rows if row.name == model.against)
    return f"| {model.name} | {best.name} {_speed(best)} | {_speed(model.ours)} | {ratio} | {model.outcome} |"


def _section(model: Model) -> list[str]:
    libraries = ", ".join(f"{name} {version}" for name, version in model.libraries.items())
    others = ", ".join(f"{name} {version}" for name, version in model.peer_libraries.items())
    certified = model.uncertified or f"{model.certifying} of them certify the drop"
    took = "" if model.tune_s is None else f" The search took {model.tune_s / 60:.1f} minutes."
    floor = "unknown" if model.noise_floor is None else f"{100 * model.noise_floor:.1f} %"
    return [
        f"## {model.name}",
        "",
        f"{model.date}, {model.cpu}, {model.cores} cores. {model.photos} validation photos ({certified}), "
        f"{model.calibrating} calibration photos, budget: a drop of at most {100 * model.max_drop:g} points. "
        f"Noise floor {floor}; {model.disturbed_rounds} rounds were disturbed.{took}",
        "",
        "| artifact | runs on | top-1 % | drop (certified at most) | speed-up [95 %] | ms | MB | fits |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
        *[_line(row, model.max_drop) for row in model.rows],
        "",
        verdict(model),
        *[f"\n{note}" for note in model.notes],
        "",
        f"Ours: {libraries}." + (f" Their environment: {others}." if others else ""),
    ]


def _line(row: Row, max_drop: float) -> str:
    if row.reason is not None:
        return f"| {row.name} | {row.runs_on} | {_percent(row.top1)} | | | | | no: {_cell(row.reason)} |"
    drop = row.drop
    lost = (
        ""
        if row.maker == "baseline" or drop is None
        else f"{_points(drop.drop)} ({_points(drop.upper_bound())})"
    )
    cells = [
        f"**{row.name}**" if row.maker == "ours" else row.name,
        row.runs_on,
        _percent(row.top1),
        lost,
        _speed(row),
        "" if row.p50_ns is None else f"{row.p50_ns / 1e6:.2f}",
        "" if row.size_bytes is None else f"{row.size_bytes / 1e6:.1f}",
        "yes" if row.meets(max_drop) else "no",
    ]
    return "| " + " | ".join(cells) + " |"


def _speed(row: Row) -> str:
    if row.speed is None:
        return ""
    return "1.00" if row.maker == "baseline" else f"{row.speed.speedup:.2f} {_interval(row.speed)}"


def _interval(ratio: Ratio) -> str:
    return "[too few rounds]" if ratio.interval is None else "[{:.2f}, {:.2f}]".format(*ratio.interval)


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f}"


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:160]
