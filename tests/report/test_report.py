"""What a comparison looks like, in every format."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import run_info
from workbench.measure.early_stopping import LostRace
from workbench.report import cells, render, render_bytes
from workbench.report.json import schema
from workbench.results.frames import comparison_frame
from workbench.results.reasons import Certified, CloseBehind, Failed, Reason, Skipped, Verdict, Winner
from workbench.results.verdict import Comparison, Row

# What is part of a trial's record; docs/measuring.md says so where they are mentioned.
DOCUMENTED_WITH_TRIALS = {"WholePath", "GpuUse", "GpuState", "GpuThroughput", "Engine"}

BASELINE = Row(
    variant="baseline",
    recipe="baseline",
    status="ok",
    reason=None,
    backend="onnxruntime",
    device="cpu",
    opset=18,
    digest="b" * 64,
    size_bytes=8_000_000,
    top1=0.97,
    drop=0.0,
    drop_ci=None,
    p50_ms=10.0,
    p90_ms=11.0,
    p95_ms=12.0,
    p99_ms=13.0,
    speedup=1.0,
    speedup_ci=None,
    throughput_ips=95.5,
    load_ms=50.0,
    peak_memory_bytes=40_000_000,
    pareto=True,
    winner=False,
)
WINNER = replace(
    BASELINE,
    variant="int8-static[method=entropy]",
    recipe="int8-static",
    digest="1" * 64,
    size_bytes=2_130_000,
    top1=0.9675,
    drop=0.0025,
    drop_ci=(-0.003, 0.00987),
    p50_ms=4.85,
    p99_ms=None,
    speedup=2.05,
    speedup_ci=(2.0, 2.1),
    winner=True,
)
PLAIN = replace(
    BASELINE,
    variant="fp16",
    recipe="fp16",
    digest="f" * 64,
    drop=-0.001,
    drop_ci=(-0.004, 0.002),
    speedup=0.996,
    speedup_ci=(0.981, 1.012),
    pareto=False,
)
NOTHING = dict.fromkeys(
    [
        "opset", "size_bytes", "top1", "drop", "drop_ci", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "speedup",
        "speedup_ci", "throughput_ips", "load_ms", "peak_memory_bytes",
    ]
)  # fmt: skip
FAILED = replace(
    BASELINE,
    variant="broken[a,b]",
    recipe="broken",
    status="failed",
    reason="RuntimeError: <class 'Conv'> & \"more\" to come",
    pareto=False,
    **NOTHING,
)
SKIPPED = replace(
    FAILED, variant="gpu", recipe="gpu", device="cuda", status="skipped", reason="no CUDA device"
)
VERDICT = Verdict(
    winner=WINNER.variant,
    certified=True,
    close_behind=("fp32[a]",),
    reasons=(
        Winner(
            variant=WINNER.variant,
            objective="latency",
            speedup=2.05,
            speedup_ci=(2.0, 2.1),
            drop=-0.0017,
            drop_upper=0.0028,
            images=1000,
            size_bytes=2_130_000,
            tolerance=0.02,
        ),
        Certified(
            variant=WINNER.variant,
            images=600,
            top1=0.97,
            drop=-0.0017,
            drop_upper=0.0028,
            limit=0.01,
            mcnemar_p=1.0,
        ),
        CloseBehind(variant="fp32[a]", ratio=1.03, tied=False, speedup=1.99, speedup_ci=None),
        LostRace(variant="slow", behind=WINNER.variant, factor=1.27, rounds=3, confidence=0.99996),
        Failed(variant="broken[a,b]", message=FAILED.reason or "", hint="mend it"),
        Skipped(variant="gpu", message="no [bold] CUDA device"),
    ),
)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return Comparison((BASELINE, WINNER, PLAIN, FAILED, SKIPPED), VERDICT, run_info())


def empty(*reasons: Reason) -> Verdict:
    return Verdict(winner=None, certified=False, close_behind=(), reasons=reasons)


TABLE = """\
leaves, run 20260102-030405: 1,000 validation photos
Test CPU @ 2.00GHz, 4 cores; noise floor of speed-ups 2.0 %
  variant             MB top-1 % drop, points [95 %] p50 ms p95 ms   speed-up [95 %] RAM MB
• baseline          8.00   97.00                0.00  10.00  12.00              1.00     40
▶ int8-static       2.13   96.75  0.25 [−0.30, 0.99]   4.85  12.00 2.05 [2.00, 2.10]     40
   [method=entropy]
  fp16              8.00   97.00 −0.10 [−0.40, 0.20]  10.00  12.00 1.00 [0.98, 1.01]     40
▶ winner   • on the Pareto front of accuracy, speed and size   × slower: dropped early

Winner
  int8-static[method=entropy]: 2.05 times the baseline's speed [2.00, 2.10], 2.13 MB
  certified on 600 held-out photos: drop −0.17 points (95 % bound 0.28, budget 1)
Close behind
  fp32[a] 1.99 times: up to 3 % behind in speed
Not measured here
  broken[a,b] failed: RuntimeError: <class 'Conv'> & "more" to come
  gpu skipped: no [bold] CUDA device
more: `compare --verbose`, `compare --variant NAME`, report.html in the folder of the run

"""

VERBOSE = """\
Not measured here
  broken[a,b] failed: RuntimeError: <class 'Conv'> & "more" to come (mend it)
  gpu skipped: no [bold] CUDA device
Dropped early
  slow: at least 1.27 times the time of int8-static[method=entropy] (after 3 rounds, one-sided
    99.996 % bound)

"""

MARKDOWN = """\
**leaves**, run `20260102-030405`, 1,000 validation photos; Test CPU @ 2.00GHz, 4 cores; noise \
floor of speed-ups 2.0 %

|    | variant                       |   MB |   top-1 % |   drop, points [95 %] |   p50 ms |   p95 \
ms |   speed-up [95 %] |   RAM MB |
|:---|:------------------------------|-----:|----------:|----------------------:|---------\
:|---------:|------------------:|---------:|
| •  | `baseline`                    | 8.00 |     97.00 |                  0.00 |    10.00 |    \
12.00 |              1.00 |       40 |
| ▶  | `int8-static[method=entropy]` | 2.13 |     96.75 |    0.25 [−0.30, 0.99] |     4.85 |    \
12.00 | 2.05 [2.00, 2.10] |       40 |
|    | `fp16`                        | 8.00 |     97.00 |   −0.10 [−0.40, 0.20] |    10.00 |    \
12.00 | 1.00 [0.98, 1.01] |       40 |

▶ winner   • on the Pareto front of accuracy, speed and size   × slower: dropped early

**Winner**

- int8-static[method=entropy]: 2.05 times the baseline's speed [2.00, 2.10], 2.13 MB
- certified on 600 held-out photos: drop −0.17 points (95 % bound 0.28, budget 1)

**Close behind**

- fp32[a] 1.99 times: up to 3 % behind in speed

**Not measured here**

- broken[a,b] failed: RuntimeError: \\<class 'Conv'> & "more" to come
- gpu skipped: no [bold] CUDA device
"""

B64, O64, F64 = "b" * 64, "1" * 64, "f" * 64
RUN = "2026-01-02 03:04:05+00:00,Test CPU @ 2.00GHz,4,0.02"
NO_RANGES = "," * 15
CSV = f"""\
run,variant,recipe,status,reason,backend,device,opset,digest,size_bytes,top1,drop,drop_ci_low,drop_ci_high,\
p50_ms,p90_ms,p95_ms,p99_ms,speedup,speedup_ci_low,speedup_ci_high,throughput_ips,load_ms,peak_memory_bytes,\
pareto,winner,crop,precision,computes,int8_share,half_share,fp32_share,casts,unfused_qdq,audit,validated,\
same_answers,p95_ms_ci_low,p95_ms_ci_high,p99_ms_ci_low,p99_ms_ci_high,load_ms_range_low,load_ms_range_high,cold_start_ms,\
cold_start_ms_range_low,cold_start_ms_range_high,peak_memory_bytes_range_low,peak_memory_bytes_range_high,\
saturated_ips,saturated_ratio,saturated_ratio_ci_low,saturated_ratio_ci_high,gpu_device_p50_ns,gpu_memory_bytes,gpu_joules,created_at,machine,cores,noise_floor
20260102-030405,baseline,baseline,ok,,onnxruntime,cpu,18,{B64},8000000,0.97,0.0,,,\
10.0,11.0,12.0,13.0,1.0,,,95.5,50.0,40000000,True,False,,,,,,,,,,,False,{NO_RANGES},,,{RUN}
20260102-030405,int8-static[method=entropy],int8-static,ok,,onnxruntime,cpu,18,{O64},2130000,0.9675,0.0025,\
-0.003,0.00987,4.85,11.0,12.0,,2.05,2.0,2.1,95.5,50.0,40000000,True,True,,,,,,,,,,,False,{NO_RANGES},,,{RUN}
20260102-030405,fp16,fp16,ok,,onnxruntime,cpu,18,{F64},8000000,0.97,-0.001,-0.004,0.002,\
10.0,11.0,12.0,13.0,0.996,0.981,1.012,95.5,50.0,40000000,False,False,,,,,,,,,,,False,{NO_RANGES},,,{RUN}
20260102-030405,"broken[a,b]",broken,failed,"RuntimeError: <class 'Conv'> & ""more"" to come",\
onnxruntime,cpu,,{B64},,,,,,,,,,,,,,,,False,False,,,,,,,,,,,False,{NO_RANGES},,,{RUN}
20260102-030405,gpu,gpu,skipped,no CUDA device,\
onnxruntime,cuda,,{B64},,,,,,,,,,,,,,,,False,False,,,,,,,,,,,False,{NO_RANGES},,,{RUN}
"""


def test_the_table_is_this(comparison: Comparison) -> None:
    assert render("table", [comparison]) == TABLE


def test_verbose_adds_what_to_do_and_every_bound(comparison: Comparison) -> None:
    text = render("table", [comparison], verbose=True)
    before = text[: text.index("Not measured")].replace("; McNemar p 1.00", "")
    assert before == TABLE[: TABLE.index("Not measured")]
    assert text[text.index("Not measured") :] == VERBOSE


def test_lines_wrap_at_the_width_of_the_terminal_and_causes_are_cut_to_one_line(
    comparison: Comparison,
) -> None:
    text = render("table", [comparison], width=60)
    below = text[text.index("Winner") :].splitlines()
    assert max(map(len, below)) <= 60
    assert "  broken[a,b] failed: RuntimeError: <class 'Conv'> & \"more …" in below


def test_the_markdown_is_this(comparison: Comparison) -> None:
    assert render("markdown", [comparison]) == MARKDOWN


def test_the_csv_is_this(comparison: Comparison) -> None:
    assert render("csv", [comparison]) == CSV


def test_parquet_holds_the_rows_with_their_types(comparison: Comparison) -> None:
    found = pd.read_parquet(io.BytesIO(render_bytes("parquet", [comparison])))
    pd.testing.assert_frame_equal(found, comparison_frame([comparison]))
    assert str(found["size_bytes"].dtype) == "Int64"


def test_a_file_of_text_holds_what_would_be_printed(comparison: Comparison) -> None:
    assert render_bytes("table", [comparison]).decode() == TABLE


def test_colour_changes_nothing_but_escape_codes(comparison: Comparison) -> None:
    colored = render("table", [comparison], color=True)
    assert "\x1b[" in colored
    plain = re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert [line.rstrip() for line in plain.splitlines()] == TABLE.splitlines()


def test_the_json_holds_every_row_raw_with_the_run_it_belongs_to(comparison: Comparison) -> None:
    rows = json.loads(render("json", [comparison]))["rows"]
    assert [row["variant"] for row in rows] == [row.variant for row in comparison.rows]
    winner = rows[1]
    assert winner["run"] == "20260102-030405"
    assert (winner["size_bytes"], winner["drop_ci"], winner["p99_ms"]) == (2_130_000, [-0.003, 0.00987], None)
    assert (winner["winner"], winner["pareto"], winner["speedup"]) == (True, True, 2.05)
    assert rows[3]["reason"] == "RuntimeError: <class 'Conv'> & \"more\" to come"


def test_the_json_of_one_run_has_the_verdict_on_top_and_of_several_a_list(comparison: Comparison) -> None:
    one = json.loads(render("json", [comparison]))
    assert list(one) == ["run", "verdict", "remarks", "rows", "timings", "upgrades", "schema_version"]
    assert Verdict.model_validate(one["verdict"]) == VERDICT
    two = json.loads(render("json", [comparison, comparison]))
    one.pop("schema_version")
    assert two == {"schema_version": 1, "runs": [one, one], "differences": []}


def test_the_json_fits_its_schema(comparison: Comparison) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for found in ([comparison], [comparison, comparison]):
        jsonschema.validate(json.loads(render("json", found)), schema())


def test_every_key_of_the_json_is_documented() -> None:
    docs = Path(__file__).parents[2] / "docs"
    pages = [(docs / name).read_text() for name in ("measuring.md", "compare-json.md")]
    documented = set(re.findall(r"`(\w+)`", "".join(pages)))
    definitions = schema()["$defs"]
    keys = {
        key
        for name, definition in definitions.items()
        if name not in DOCUMENTED_WITH_TRIALS
        for key in definition.get("properties", {})
    }
    found = [
        each["properties"]["kind"] for each in definitions.values() if "kind" in each.get("properties", {})
    ]
    kinds = {name for kind in found for name in kind.get("enum", [kind.get("const")])}
    assert keys | kinds <= documented, sorted((keys | kinds) - documented)


@pytest.mark.parametrize(
    ("known", "word"), [({"synthetic": True}, "synthetic"), ({"noise_floor": None}, "unknown")]
)
@pytest.mark.parametrize("form", ["table", "markdown"])
def test_what_weakens_the_figures_is_stated(
    comparison: Comparison, form: Any, known: dict[str, Any], word: str
) -> None:
    assert word not in render(form, [comparison])
    assert word in render(form, [replace(comparison, info=run_info(**known))])


@pytest.mark.parametrize("form", ["table", "markdown", "csv", "json"])
def test_several_runs_follow_each_other(comparison: Comparison, form: str) -> None:
    other = replace(comparison, info=run_info(run_id="20270101-000000"))
    text = render(form, [comparison, other])
    assert 0 < text.index("20260102-030405") < text.index("20270101-000000")


@pytest.mark.parametrize("form", ["table", "markdown", "csv"])
def test_a_run_of_which_nothing_came_is_still_shown(form: str) -> None:
    assert "RuntimeError" in render(
        form, [Comparison((FAILED,), empty(Failed(variant="broken", message="RuntimeError")), run_info())]
    )


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (None, None, "–"),
        (2.0, None, "2.00"),
        (2.094, (2.046, 2.131), "2.09 [2.05, 2.13]"),
        (-0.0, (-0.001, 0.001), "0.00 [0.00, 0.00]"),
        (-1.25, (-2.0, -0.5), "−1.25 [−2.00, −0.50]"),
        (1234.5, (999.9, 1500.0), "1234 [1000, 1500]"),
    ],
)
def test_a_value_stands_with_its_interval(
    value: float | None, interval: tuple[float, float] | None, text: str
) -> None:
    assert cells.with_interval(value, interval) == text


def test_the_same_function_is_called_that_in_place_of_a_drop() -> None:
    assert "same answers" in cells.grid([replace(BASELINE, same_answers=True)], "speed").rows[0]
    assert "same answers" not in cells.grid([BASELINE], "speed").rows[0]


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(None, "–"), (0, "0.00"), (1_234_567, "1.23"), (123_456_789, "123")]
)
def test_sizes_are_in_millions_of_bytes(size_bytes: int | None, text: str) -> None:
    assert cells.rounded(size_bytes, 1e6) == text


NAMES = st.text("abcxyz0123456789-_.[]=,", min_size=1, max_size=45)
SPEEDS = st.floats(0.01, 5000)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    speedup, drop = draw(SPEEDS), draw(st.floats(-1, 1))
    return replace(
        BASELINE,
        variant=draw(NAMES),
        size_bytes=draw(st.integers(0, 50_000_000_000)),
        top1=draw(st.floats(0, 1)),
        drop=drop,
        drop_ci=draw(st.none() | st.just((max(-1, drop - 0.1), min(1, drop + 0.1)))),
        p50_ms=draw(st.floats(0, 99_999)),
        p99_ms=draw(st.none() | st.floats(0, 99_999)),
        speedup=speedup,
        speedup_ci=draw(st.none() | st.just((speedup * 0.9, speedup * 1.1))),
        peak_memory_bytes=draw(st.none() | st.integers(0, 99_999_000_000)),
        winner=draw(st.booleans()),
    )


@given(st.lists(rows(), min_size=1, max_size=4), st.lists(st.text("abc [],.%", max_size=300), max_size=3))
def test_a_table_is_at_most_100_columns_wide_and_cuts_nothing_off(
    made: list[Row], messages: list[str]
) -> None:
    failed = [Failed(variant="x", message=message) for message in messages]
    text = render("table", [Comparison(tuple(made), empty(*failed), run_info())], verbose=True)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for row in made:
        for cell in cells.grid([row], "speed").rows[0][2:]:
            assert cell in text


@given(NAMES)
def test_a_folded_name_is_whole_when_its_lines_are_joined(name: str) -> None:
    text = render("table", [Comparison((replace(WINNER, variant=name),), empty(), run_info())])
    # The column of names lies between the mark and the sizes.
    start = text.splitlines()[2].index("variant")
    end = text.splitlines()[2].index("MB") - 2
    lines = text[: text.index(cells.LEGEND)].splitlines()[3:]
    assert "".join(line[start:end].strip() for line in lines) == name
