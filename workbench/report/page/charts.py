"""The charts, as Vega-Lite made by Altair. Colours are CSS variables of the page: they follow light and dark.

Altair is imported when a chart is made.
"""

from collections.abc import Sequence
from typing import Any

KINDS = ("winner", "on the Pareto front", "other", "dropped early")
COLOURS = ("var(--winner)", "var(--front)", "var(--other)", "var(--dropped)")
SHAPES = ("diamond", "circle", "square", "cross")
SERIES = ("var(--one)", "var(--two)", "var(--three)", "var(--four)")
ROW = 24  # pixels of a row in charts of one row a variant
# On narrow screens a variant's settings stand below its name.
NARROW = "containerSize()[0] < 560"
FOLDED = (
    f"{NARROW} && indexof(datum.label, '[') > 0 ? [slice(datum.label, 0, indexof(datum.label, '[')), "
    "slice(datum.label, indexof(datum.label, '['))] : datum.label"
)

Values = Sequence[dict[str, Any]]


def tradeoff(values: Values, front: Values, limit: float) -> dict[str, Any]:
    """Accuracy drop against speed-up, both with intervals; better is up and to the right.

    values: variant, card, kind, speedup, low, high, drop, drop_low, drop_high, beyond, and texts to hover.
    front: speedup and drop along the Pareto front. limit: the budget's, in points.
    """
    import altair as alt

    x = alt.X("speedup:Q", title="times the baseline's speed", scale=_log(alt), axis=alt.Axis(format="~g"))
    y = alt.Y(
        "drop:Q",
        title="accuracy drop, points (better is up)",
        scale=alt.Scale(reverse=True, nice=False, padding=14),
    )
    base = alt.Chart(_data(values))
    bars = {"opacity": 0.55, "strokeWidth": 1.5, "color": "var(--soft)"}
    points = base.mark_point(filled=True, opacity=1, size=90, cursor="pointer").encode(
        x,
        y,
        color=_colour(alt),
        shape=_shape(alt),
        tooltip=_hover(alt, "speed-up", "drop, points", "p50", "size"),
    )
    budget = alt.Chart(_data([{"limit": limit, "label": f"budget: {limit:g}"}])).encode(y="limit:Q")
    layers = [
        alt.Chart(_data(front)).mark_line(color="var(--front)", strokeDash=[4, 3]).encode(x, y),
        base.mark_rule(**bars).encode(x="low:Q", x2="high:Q", y=y),
        base.mark_rule(**bars).encode(x=x, y="drop_low:Q", y2="drop_high:Q"),
        budget.mark_rule(color="var(--bad)", strokeWidth=1.5),
        budget.mark_text(align="left", dx=4, dy=9, color="var(--bad)", x=0).encode(text="label:N"),
        points,
    ]
    return _finished(alt.layer(*layers).properties(height=340))


def forest(
    values: Values, noise: float | None, kinds: Sequence[str] = KINDS, single: Values = ()
) -> dict[str, Any]:
    """Speed-ups with their intervals, a row each. values: as of `tradeoff`. noise: the floor, a fraction.

    single: what each row's devices measured, drawn as ticks: variant, device, speedup, and a text to hover.
    """
    import altair as alt

    x = alt.X("speedup:Q", title="times the baseline's speed", scale=_log(alt), axis=alt.Axis(format="~g"))
    base = alt.Chart(_data(values)).encode(y=_rows(alt, values))
    layers: list[Any] = []
    if noise:
        band = alt.Chart(_data([{"from": 1 / (1 + noise), "to": 1 + noise}]))
        layers.append(band.mark_rect(color="var(--soft)", opacity=0.18).encode(x="from:Q", x2="to:Q"))
    if single:
        ticks = alt.Chart(_data(single)).mark_tick(color="var(--soft)", thickness=2, height=14)
        hover = _hover(alt, "device", "speed-up")
        layers.append(ticks.encode(x=x, y=_rows(alt, values), tooltip=hover))
    layers += [
        alt.Chart(_data([{"speedup": 1}])).mark_rule(color="var(--soft)", strokeDash=[3, 3]).encode(x),
        base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", color=_colour(alt, kinds)),
        base.mark_point(filled=True, opacity=1, size=70, cursor="pointer").encode(
            x, color=_colour(alt, kinds), shape=_shape(alt, kinds), tooltip=_hover(alt, "speed-up")
        ),
    ]
    return _finished(alt.layer(*layers).properties(height=ROW * len(values)))


def latencies(values: Values) -> dict[str, Any]:
    """A box and whiskers a row. values: variant, card, kind, p5, p25, p50, p75, p95, p99 in ms."""
    import altair as alt

    x = alt.X("p5:Q", title="ms of one hot call (logarithmic)", scale=_log(alt), axis=alt.Axis(format="~g"))
    hover = _hover(alt, *(f"p{rank} ms" for rank in (5, 25, 50, 75, 95, 99)))
    base = alt.Chart(_data(values)).encode(y=_rows(alt, values), color=_colour(alt, legend=False))
    layers = (
        base.mark_rule().encode(x=x, x2="p95:Q", tooltip=hover),
        base.mark_bar(height=10, opacity=0.6, cursor="pointer").encode(x="p25:Q", x2="p75:Q", tooltip=hover),
        base.mark_tick(thickness=3, height=16).encode(x="p50:Q", tooltip=hover),
        base.mark_point(size=30, strokeWidth=1.5).encode(x="p99:Q", tooltip=hover),
    )
    return _finished(alt.layer(*layers).properties(height=ROW * len(values)))


def stages(values: Values, photos: int) -> dict[str, Any]:
    """Where the time of a photo goes, as stacked bars. values: photo, stage, order, ms."""
    import altair as alt

    names = ["decode", "preprocess", "inference", "rest"]
    chart = (
        alt.Chart(_data(values))
        .mark_bar(height=18)
        .encode(
            alt.X("ms:Q", title="ms"),
            alt.Y("photo:N", title=None, sort=None, axis=alt.Axis(labelLimit=220, labelExpr=_words())),
            alt.Color(
                "stage:N", title=None, scale=alt.Scale(domain=names, range=list(SERIES)), legend=_legend(alt)
            ),
            alt.Order("order:Q"),
            tooltip=[alt.Tooltip("photo:N"), alt.Tooltip("stage:N"), alt.Tooltip("ms:Q", format=".2f")],
        )
    )
    return _finished(chart.properties(height=34 * photos))


def recalls(values: Values, classes: Sequence[str], series: Sequence[str]) -> dict[str, Any]:
    """Recall of each class, a row each, before and after. values: class, series, recall, in percent.

    series: the baseline first.
    """
    import altair as alt

    points = (
        alt.Chart(_data(values))
        .mark_point(filled=True, opacity=0.9, size=60)
        .encode(
            alt.X("recall:Q", title="recall, %", scale=alt.Scale(zero=False, nice=False, padding=10)),
            alt.Y("class:N", title=None, sort=list(classes), axis=_names(alt, grid=True)),
            yOffset=alt.YOffset("series:N", sort=list(series)),
            color=_series(alt, series),
            shape=alt.Shape("series:N", title=None, scale=_shapes(alt, series), legend=_legend(alt)),
            tooltip=[alt.Tooltip("class:N"), alt.Tooltip("series:N"), alt.Tooltip("recall:Q", format=".1f")],
        )
    )
    return _finished(points.properties(height=(8 * len(series) + 6) * len(classes)))


def reliability(values: Values, series: Sequence[str]) -> dict[str, Any]:
    """Share of right answers against confidence. values: series, confidence, right, photos; in percent."""
    import altair as alt

    scale = alt.Scale(domain=[0, 100])
    x = alt.X("confidence:Q", title="confidence, %", scale=scale)
    y = alt.Y("right:Q", title="right answers, %", scale=scale)
    diagonal = alt.Chart(_data([{"confidence": 0, "right": 0}, {"confidence": 100, "right": 100}]))
    hover = [alt.Tooltip("series:N"), alt.Tooltip("photos:Q")]
    hover += [alt.Tooltip(f"{name}:Q", format=".1f") for name in ("confidence", "right")]
    base = alt.Chart(_data(values)).encode(x, y, color=_series(alt, series))
    layers = (
        diagonal.mark_line(color="var(--soft)", strokeDash=[3, 3]).encode(x, y),
        base.mark_line(),
        base.mark_point(filled=True, opacity=1, size=60).encode(
            shape=alt.Shape("series:N", title=None, scale=_shapes(alt, series), legend=_legend(alt)),
            tooltip=hover,
        ),
    )
    return _finished(alt.layer(*layers).properties(height=320))


def stresses(values: Values, names: Sequence[str], series: Sequence[str]) -> dict[str, Any]:
    """Accuracy against severity, a panel a stress. values: stress, severity, series, top1, in percent.

    names: of the stresses, in order. series: the baseline first.
    """
    import altair as alt

    label = "replace(datum.label, 'overexposure', 'over-exposure')"
    look = {
        "labelExpr": f"{NARROW} ? slice(datum.label, 0, 9) : split({label}, '-')",
        "labelAngle": alt.ExprRef(f"{NARROW} ? -60 : 0"),
        "labelAlign": alt.ExprRef(f"{NARROW} ? 'right' : 'center'"),
    }
    base = alt.Chart(_data(values)).encode(
        alt.X(
            "stress:N",
            title="severity 0 to 5 of each stress",
            sort=list(names),
            scale=alt.Scale(paddingInner=0.25),
            axis=alt.Axis(ticks=False, **look),
        ),
        alt.Y("top1:Q", title="top-1, %", scale=alt.Scale(zero=False, padding=8)),
        xOffset=alt.XOffset("severity:O"),
        color=_series(alt, series),
        detail="stress:N",
        order="severity:Q",
    )
    hover = [alt.Tooltip(f"{name}:N") for name in ("series", "stress", "severity")]
    points = base.mark_point(filled=True, opacity=1, size=30).encode(
        shape=alt.Shape("series:N", title=None, scale=_shapes(alt, series), legend=_legend(alt)),
        tooltip=[*hover, alt.Tooltip("top1:Q", format=".1f"), alt.Tooltip("lost:N")],
    )
    return _finished(alt.layer(base.mark_line(), points).properties(height=300))


def _data(values: Values) -> Any:
    import altair as alt

    return alt.InlineData(values=list(values))


def _rows(alt: Any, values: Values) -> Any:
    return alt.Y("variant:N", title=None, sort=[value["variant"] for value in values], axis=_names(alt))


def _names(alt: Any, *, grid: bool = False) -> Any:
    limit = alt.ExprRef(f"{NARROW} ? 120 : 300")
    look = {"ticks": False, "domain": False, "labelLineHeight": 11, "grid": grid, "tickBand": "extent"}
    return alt.Axis(labelLimit=limit, labelExpr=FOLDED, **look)


def _words() -> str:
    """A label as two lines on narrow screens: its parts are joined by `, `."""
    return f"{NARROW} ? split(datum.label, ', ') : datum.label"


def _colour(alt: Any, kinds: Sequence[str] = KINDS, *, legend: bool = True) -> Any:
    scale = alt.Scale(domain=list(kinds), range=list(COLOURS[: len(kinds)]))
    return alt.Color("kind:N", title=None, scale=scale, legend=_legend(alt) if legend else None)


def _shape(alt: Any, kinds: Sequence[str] = KINDS) -> Any:
    scale = alt.Scale(domain=list(kinds), range=list(SHAPES[: len(kinds)]))
    return alt.Shape("kind:N", title=None, scale=scale, legend=_legend(alt))


def _series(alt: Any, series: Sequence[str]) -> Any:
    scale = alt.Scale(domain=list(series), range=list(SERIES[: len(series)]))
    return alt.Color("series:N", title=None, scale=scale, legend=_legend(alt))


def _shapes(alt: Any, series: Sequence[str]) -> Any:
    return alt.Scale(domain=list(series), range=["circle", "diamond", "triangle-up", "square"][: len(series)])


def _log(alt: Any) -> Any:
    return alt.Scale(type="log", nice=False, padding=14)


def _legend(alt: Any) -> Any:
    columns = alt.ExprRef(f"{NARROW} ? 1 : 4")
    return alt.Legend(
        orient="top", columns=columns, columnPadding=24, labelLimit=alt.ExprRef(f"{NARROW} ? 240 : 300")
    )


def _hover(alt: Any, *names: str) -> list[Any]:
    figures = [alt.Tooltip(field=name, type="nominal", title=name) for name in names]
    return [alt.Tooltip("variant:N"), *figures]


def _finished(chart: Any) -> dict[str, Any]:
    """The chart as JSON, in the page's colours."""
    text = {"labelColor": "var(--ink)", "titleColor": "var(--ink)", "labelFontSize": 11, "titleFontSize": 12}
    lines = {"gridColor": "var(--line)", "domainColor": "var(--edge)", "tickColor": "var(--edge)"}
    config = {
        "background": "transparent",
        "font": "Arial, Helvetica, sans-serif",
        "view": {"stroke": None},
        "axis": {**text, **lines, "titleFontWeight": "normal", "gridOpacity": 0.7},
        "legend": text,
        "text": {"fontSize": 11},
    }
    # Altair's check against its schema takes as long as all the rest; the tests have it.
    spec = chart.properties(autosize={"type": "fit-x", "contains": "padding"}).to_dict(validate=False)
    return {**spec, "config": config}
