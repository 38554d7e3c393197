"""The page of a fleet's run: what each section says, what it links to, and that no code of others runs."""

from pathlib import Path

import pytest

from tests.report.large_fleet import CLASSES, large_fleet
from tests.report.large_run import EVIL
from tests.report.test_html_report import Reader
from workbench.cli import main
from workbench.fleet.records import FleetFolder
from workbench.report import page
from workbench.report.page import charts, fleet_sections
from workbench.report.page.blocks import Chart, DataTable, TextLines
from workbench.report.page.fleet_data import FleetData

pytest.importorskip("altair")

SECTIONS = [
    "The decision", "Variants by class", "Speed-ups by class", "Where classes disagree",
    "Devices of one class", "The devices", "What runs on them", "What was not measured where, and why",
    "Every variant: recipe, commands, figures", "To repeat it",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> FleetFolder:
    return large_fleet(tmp_path_factory.mktemp("fleet") / "results")


@pytest.fixture(scope="module")
def data(folder: FleetFolder) -> FleetData:
    return FleetData(folder, folder.path)


@pytest.fixture(scope="module")
def html(folder: FleetFolder) -> str:
    (folder.path / "devices" / "pi5-a" / page.FILE).write_text("a page of its own")
    return page.render_fleet(folder, folder.path)


def text_of(section: page.PageSection) -> list[str]:
    return [line for block in section.blocks if isinstance(block, TextLines) for line in block.lines]


def rows_of(section: page.PageSection) -> list[list[str]]:
    return [[cell.text for cell in row] for b in section.blocks if isinstance(b, DataTable) for row in b.rows]


def test_the_page_has_every_section_and_one_chart_for_each_class(html: str, folder: FleetFolder) -> None:
    found = Reader(html)
    assert found.headings == [f"h1 leaves, run {folder.run_id} of a fleet", *(f"h2 {s}" for s in SECTIONS)]
    assert html.count('<figure class="chart"') == 2


def test_the_decision_is_two_sentences_and_names_the_class_without_a_device(data: FleetData) -> None:
    assert text_of(fleet_sections.decision(data)) == [
        "No device of riscv was measured to the end: the class has no column.",
        "int8 wins on pi5; fp16 wins on x86-avx2.",
        "If one file must serve all, fp16 is the least bad; over each class's winner it costs pi5 75 %, "
        "x86-avx2 nothing.",
    ]


def test_the_matrix_marks_the_winner_of_each_class(data: FleetData) -> None:
    (table,) = fleet_sections.matrix(data).blocks
    assert isinstance(table, DataTable)
    assert table.headings == ("variant", "pi5", "x86-avx2")
    marked = {(row[0].text, cell.text[:7]) for row in table.rows for cell in row if cell.marked}
    assert marked == {("int8", "▶ 2.82×"), ("fp16", "▶ 1.95×")}
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert all(text.endswith("over budget") for text in cells["openvino"])
    assert cells["wide"] == ["skipped", "skipped"]
    assert cells["one file for all: fp16"] == ["75 % more", "the best"]


def test_a_forest_has_every_device_of_its_class(data: FleetData) -> None:
    first, second = fleet_sections.speedups(data).blocks
    assert isinstance(first, Chart) and isinstance(second, Chart)
    assert "on pi5" in first.title and "on x86-avx2" in second.title
    assert [cell.text for cell in first.table.rows[0]] == ["int8", "2.82", "2.79", "2.85", "2.60", "3.05"]
    for chart in (first, second):
        import altair as alt

        alt.Chart.from_dict({**chart.spec, "width": "container"}, validate=True)
    assert "pi5-b" in str(first.spec) and "edge-1" not in str(second.spec)
    assert set(charts.KINDS).isdisjoint({"over the budget"}) and "over the budget" in str(first.spec)


def test_where_classes_disagree_and_devices_of_one_differ_is_said(data: FleetData) -> None:
    assert text_of(fleet_sections.disagreement(data)) == [
        "int8 is faster than the baseline on pi5 and slower on x86-avx2."
    ]
    assert rows_of(fleet_sections.spread(data))[0] == ["int8", "pi5", "2.60× pi5-b", "3.05× pi5-a", "17.3"]


def test_each_device_is_described_and_the_one_with_a_page_is_linked(html: str, data: FleetData) -> None:
    (table, *_) = page.device_sections.devices(data).blocks
    assert isinstance(table, DataTable)
    assert [row[0].text for row in table.rows] == list(CLASSES)
    assert [cell.text for cell in table.rows[3]][:3] == ["board-7", "riscv", "gone"]
    assert 'href="devices/pi5-a/report.html"' in html and "devices/pi5-b/report.html" not in html
    differing = page.device_sections.versions(data)
    assert [row[-1] for row in rows_of(differing)] == ["1.27.0", "1.27.0", "1.26.0"]
    assert text_of(differing) == ["The same on all: numpy 2.3.0."]


def test_what_was_not_measured_where_is_said(data: FleetData) -> None:
    said = text_of(page.device_sections.unmeasured(data))
    assert said[0].startswith("board-7 (riscv) gone: nothing was heard of it for 45 s")
    assert any(line.startswith("x86-avx2: ") and "no vnni" in line for line in said)


def test_no_request_leaves_the_page_and_hostile_names_are_text(html: str) -> None:
    found = Reader(html).found
    assert not {tag for tag, _ in found} & {"link", "iframe", "object", "embed", "base"}
    assert not [a for _, a in found if "src" in a]
    ids = [a["id"] for _, a in found if "id" in a]
    links = {(a["href"] or "")[1:] for tag, a in found if tag == "a" and (a["href"] or "").startswith("#")}
    assert len(ids) == len(set(ids)) and links <= set(ids)
    assert EVIL not in html and Reader(html).text.count(EVIL) >= 4


def test_compare_and_report_write_the_page_and_refuse_other_files(
    folder: FleetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.path.parents[1])
    target = tmp_path / "page.html"
    assert (
        main(["compare", folder.run_id, "--format", "html", "--output", str(target)]) == 1
    )  # riscv is missing
    assert "Variants by class" in target.read_text(encoding="utf-8")
    assert main(["compare", folder.run_id, "--format", "csv"]) == 2
    assert "it is table, json, html" in capsys.readouterr().err
    assert main(["compare", folder.run_id, "--output", str(target)]) == 2
    assert "only with --format html" in capsys.readouterr().err
