"""Field robustness in the HTML report."""

from pathlib import Path

import pytest

from tests.builders import run_info, trial
from tests.results.test_stress import FIELD, cell, every, record, stressed
from workbench.measure.records import SameAnswers, SharedPhotos
from workbench.photos.stress import STRESSES
from workbench.report.page.blocks import Chart, TextLines
from workbench.report.page.field_section import robustness
from workbench.report.page.run_data import RunData
from workbench.report.stress import conclusions, stress_answer
from workbench.results.folder import RunFolder
from workbench.results.stress import write_stress
from workbench.results.verdict import compare

pytest.importorskip("altair")
TRIALS = [trial("baseline", artifact_digest="b"), trial("int8", speedup=2.0, artifact_digest="a")]


@pytest.fixture
def run(tmp_path: Path) -> RunData:
    folder = RunFolder(tmp_path)
    for each in TRIALS:
        folder.append(each)
    return RunData(compare(run_info(class_names=("rust",), budget=FIELD), TRIALS), folder)


def test_a_run_without_stress_has_no_section(run: RunData) -> None:
    assert robustness(run).blocks == ()


def test_the_section_draws_every_stress_and_has_its_figures(run: RunData) -> None:
    import altair as alt

    cells = [*every(4), *(cell(name, 9, 2, severity=5) for name in STRESSES)]
    write_stress(run.folder, record(stressed(*cells)))
    section = robustness(run)
    (chart,) = [block for block in section.blocks if isinstance(block, Chart)]
    alt.Chart.from_dict({**chart.spec, "width": "container"}, validate=True)
    (values,) = chart.spec["datasets"].values()
    assert len(values) == len(STRESSES) * 2 * 3  # severities 0, 3 and 5 of the baseline and the variant
    assert {value["top1"] for value in values if value["severity"] == 0} == {97.0}
    assert [c.text for c in chart.table.rows[0]] == [
        "int8", "motion-blur", "3", "1,000", "90.00", "89.60", "0.40", "0.91", "yes",
    ]  # fmt: skip
    said = [line for block in section.blocks if isinstance(block, TextLines) for line in block.lines]
    assert any(line.startswith("int8: certified to lose at most 2 points under 9 stresses") for line in said)


@pytest.mark.parametrize(("names", "which"), [(["int8"], "nothing"), (["int8", "same"], "nothing else")])
def test_a_leak_is_of_the_photos_it_is_of_and_of_nothing_that_cannot_lose(
    names: list[str], which: str
) -> None:
    shared = SharedPhotos(images=2, paths=("/a.jpg", "/b.jpg"), part="train")
    info = run_info(class_names=("rust",), leak=True, uncertified=shared)
    same = trial("same", artifact_digest="c", same_answers=SameAnswers(images=1000, max_rel=0.0, bound=1e-4))
    known = record(*(stressed(*every(0), of=each) for each in (TRIALS[1], same)))
    said = conclusions(stress_answer(known, info, [*TRIALS, same], names, [3], [*STRESSES]))
    assert f"{which} is certified: training and validation share photos" in said
