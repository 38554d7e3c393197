"""The HTML report: of a made-up run of 40 variants on 2,000 photos, as text and in a real browser."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.builders import error_of, run_info
from tests.report.large_run import EVIL, NAMES, WORST, large_run
from tests.serving import wait_for
from workbench.cli import main
from workbench.cli.output import write_report
from workbench.photos.overlap import Separation
from workbench.report import cells, page, vega
from workbench.report.page import charts, gallery, separation_section
from workbench.report.page.blocks import Chart, DataTable
from workbench.report.page.run_data import RunData
from workbench.results.folder import RunFolder
from workbench.results.history import compare_folder
from workbench.results.reasons import Failed, Verdict
from workbench.results.verdict import Comparison, compare

pytest.importorskip("altair")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return large_run(tmp_path_factory.mktemp("report") / "results")


@pytest.fixture(scope="module")
def comparison(folder: RunFolder) -> Comparison:
    return compare(folder.info(), folder.trials())


@pytest.fixture(scope="module")
def html(folder: RunFolder, comparison: Comparison) -> str:
    return page.render([comparison], [folder])


class Reader(HTMLParser):
    """The elements of a page with their attributes, its headings, and its text without the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside if tag in ("a", "b", "span") else ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("h1", "h2", "h3"):
            self.headings.append(f"{self._inside} {data}")
        if self._inside not in ("script", "style"):
            self.text += data


SECTIONS = [
    "The decision", "Accuracy and speed", "Speed-ups", "Latency distributions", "Size, memory and start",
    "The path of a photo", "What ran in which precision", "Recall of each class, before and after",
    "Confusions that appeared or went", "Photos whose answer changed", "Reliability of confidence",
    "Photos in more than one part of the data",
    "Machine, noise and disturbed rounds", "What was not measured, and why",
    "Every variant: recipe, commands, figures", "To repeat it",
]  # fmt: skip


def test_40_variants_and_2000_photos_are_one_page_below_3_mb_with_every_section(html: str) -> None:
    assert len(html.encode()) < 3_000_000
    found = Reader(html).headings
    assert found == ["h1 leaves, run 20260102-030405", *(f"h2 {title}" for title in SECTIONS)]


def test_nothing_is_fetched_and_no_script_but_ours_may_run(html: str) -> None:
    found = Reader(html).found
    assert not {tag for tag, _ in found} & {"link", "iframe", "object", "embed", "base"}
    links = [a[name] or "" for _, a in found for name in ("src", "href") if name in a]
    assert links and all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert not any(name.startswith("on") for _, attributes in found for name in attributes)
    (policy,) = (a["content"] or "" for tag, a in found if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'") and policy.count("'sha256-") == 2
    assert "script-src 'unsafe" not in policy
    assert [a.get("type") for tag, a in found if tag == "script"] == ["application/json", None, None]
    ids = [a["id"] for _, a in found if "id" in a]
    assert len(ids) == len(set(ids))


def test_hostile_names_of_classes_files_and_workspaces_are_text(html: str) -> None:
    assert EVIL not in html
    text = Reader(html).text
    assert text.count(EVIL) > 5
    assert f"Workspace {EVIL}" in text
    assert f"description: {EVIL}" in text
    assert NAMES[1] in text


def test_every_figure_of_the_table_is_there(html: str, comparison: Comparison) -> None:
    text = Reader(html).text
    for row in comparison.rows:
        assert all(cell in text for cell in cells.grid([row], "speed").rows[0])


def test_every_link_within_the_page_leads_somewhere(html: str) -> None:
    found = Reader(html).found
    ids = {a["id"] for _, a in found if "id" in a}
    assert {(a["href"] or "")[1:] for tag, a in found if tag == "a"} <= ids


def test_every_chart_has_an_image_for_paper_and_a_table_for_those_who_cannot_see_it(html: str) -> None:
    drawn = re.findall(r'<figure class="chart" id="([\w-]+)">(.*?)</figure>', html, re.DOTALL)
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', html)
    assert data is not None
    assert [name for name, _ in drawn] == list(json.loads(data[1]))
    assert len(drawn) == 6
    for _, inside in drawn:
        assert "<svg" in inside and 'role="img" aria-label="' in inside and "<table " in inside


def test_the_charts_fit_the_schema_of_vega_lite(folder: RunFolder, comparison: Comparison) -> None:
    import altair as alt

    run = RunData(replace(comparison, rows=comparison.rows[:3]), folder)
    blocks = [b for make in page.SECTIONS for b in make(run).blocks if isinstance(b, Chart)]
    assert len(blocks) == 6
    for block in blocks:
        alt.Chart.from_dict({**block.spec, "width": "container"}, validate=True)


def test_the_gallery_shows_lost_photos_first_and_at_most_so_many(html: str) -> None:
    images = [str(a["alt"]) for tag, a in Reader(html).found if tag == "img"]
    assert sum(alt.startswith("Photo of") for alt in images) == gallery.PHOTOS
    shown = html[html.index('class="gallery"') :]
    first = shown[: shown.index("</li>")]
    assert first.index("✓") < first.index("✗")
    assert f"{WORST}: 60 photos" in Reader(html).text


def test_photos_that_are_not_there_as_they_were_measured_are_said_to_be_missing(
    folder: RunFolder, comparison: Comparison
) -> None:
    run = RunData(comparison, folder)
    assert run.predictions is not None
    photos, _ = gallery.thumbnails(run, run.predictions, [0])
    path = Path((folder.photos() or pytest.fail()).paths[0])
    kept = path.read_bytes()
    Image.new("RGB", (9, 9)).save(path, "JPEG")
    try:
        changed, missing = gallery.thumbnails(run, run.predictions, [0, 1])
    finally:
        path.write_bytes(kept)
    assert photos[0].image is not None and changed[0].image is None and changed[1].image is not None
    assert missing == "1 photo is no longer there as it was measured."


def test_recall_and_confusions_are_of_the_variants_that_change_answers(
    folder: RunFolder, comparison: Comparison
) -> None:
    run = RunData(comparison, folder)
    assert comparison.winner != WORST
    assert run.examined[:2] == [comparison.winner, WORST]
    first = next(b for b in page.answer_sections.recalls(run).blocks if isinstance(b, Chart))
    assert first.table.rows[0][0].text == EVIL  # the first photos are of the first class
    confused = page.answer_sections.confusions(run).blocks[0]
    assert isinstance(confused, DataTable)
    assert [cell.text for cell in confused.rows[0]][:3] == [EVIL, NAMES[1], "5"]
    assert [cell.text for cell in confused.rows[0]][4] == "65"


def test_several_runs_stand_in_one_page_each_with_ids_of_its_own(
    comparison: Comparison, tmp_path: Path
) -> None:
    few = replace(comparison, rows=comparison.rows[:2])
    other = replace(few, info=run_info(run_id="20270101-000000"))
    html = page.render([few, other], [RunFolder(tmp_path), RunFolder(tmp_path)])
    found = Reader(html)
    assert found.headings[:2] == ["h1 2 runs", "h2 leaves, run 20260102-030405"]
    assert "h3 The decision" in found.headings
    ids = [a["id"] for _, a in found.found if "id" in a]
    assert len(ids) == len(set(ids))
    assert "What differs" not in html


def test_runs_of_two_machines_begin_with_what_differs(comparison: Comparison, tmp_path: Path) -> None:
    few = replace(comparison, rows=comparison.rows[:2])
    machine = few.info.machine.model_copy(update={"cpu": "Cortex-A76", "fingerprint": "another"})
    info = few.info.model_copy(update={"run_id": "20270101-000000", "machine": machine})
    html = page.render([few, replace(few, info=info)], [RunFolder(tmp_path), RunFolder(tmp_path)])
    assert html.index("What differs") < html.rindex("Cortex-A76", 0, html.index("The decision"))


def test_photos_in_two_parts_stand_side_by_side(html: str, folder: RunFolder, comparison: Comparison) -> None:
    section = html.partition('id="run1-separation"')[2].partition("</section>")[0]
    text = Reader(section).text
    assert "30 validation photos in data.train (5,000 photos) too (1 by content, 29 by look): nothing" in text
    assert "Of 2,000 validation photos none is in data.calibration (200 photos), compared" in text
    assert "4 validation photos look like others of them and count once." in text
    # One file is no longer what it was.
    assert (section.count("<img"), section.count("no photo"), section.count("<li>")) == (47, 1, 24)
    assert "the same file" in text and "23 bits apart, turned" in text
    assert EVIL not in section
    alone = comparison.info.separation
    assert alone is not None
    separation = Separation(parts=alone.parts[1:])
    info = comparison.info.model_copy(update={"separation": separation})
    (lines,) = separation_section.separation(RunData(replace(comparison, info=info), folder)).blocks
    assert "`data.train`" in str(lines)


def earlier_run(results: Path) -> RunFolder:
    """A run of an earlier version, which kept less."""
    data = Path(__file__).parents[1] / "data" / "results-v1"
    return RunFolder(shutil.copytree(data, results / RunFolder(data).info().run_id))


def test_a_run_of_an_earlier_version_says_what_it_did_not_keep(tmp_path: Path) -> None:
    folder = earlier_run(tmp_path)
    run = RunData(compare_folder(folder), folder)
    assert run.predictions is None
    sections = {section.key: str(section.blocks) for make in page.SECTIONS if (section := make(run)).blocks}
    assert "this run kept no raw samples" in sections["latencies"]
    assert "kept no predictions" in sections["recalls"]
    assert not {"confusions", "changed", "reliability", "separation"} & set(sections)
    assert str(run.comparison.winner) in sections["decision"]


def test_a_run_of_which_nothing_came_is_still_shown(tmp_path: Path) -> None:
    verdict = Verdict(
        winner=None, certified=False, close_behind=(), reasons=(Failed(variant="x", message="RuntimeError"),)
    )
    text = Reader(page.render([Comparison((), verdict, run_info())], [RunFolder(tmp_path)])).text
    assert "x failed: RuntimeError" in text
    assert "kept no predictions" in text


def test_what_weakens_the_figures_is_stated(comparison: Comparison, tmp_path: Path) -> None:
    def text(**known: Any) -> str:
        run = RunData(replace(comparison, info=run_info(**known)), RunFolder(tmp_path))
        made = page.speed_sections.decision(run), page.origin_sections.machine(run)
        return str(made)

    for known, word in (({"synthetic": True}, "are synthetic"), ({"noise_floor": None}, "speed-ups unknown")):
        assert word not in text()
        assert word in text(**known)


def test_text_in_json_cannot_end_the_script_that_holds_it() -> None:
    assert "<" not in vega.embedded({"a": EVIL}) and json.loads(vega.embedded({"a": EVIL})) == {"a": EVIL}


def test_a_static_image_holds_hostile_names_as_text() -> None:
    values = [{"class": EVIL, "series": "baseline", "recall": 9.0}]
    with vega.ChartDrawer() as drawer:
        svg = drawer.svg(charts.recalls(values, [EVIL], ["baseline"]), "one")
    assert EVIL not in svg and "&lt;script&gt;" in svg


def test_report_writes_the_page_and_prints_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = earlier_run(tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 0
    written = Path(capsys.readouterr().out.strip())
    assert written.resolve() == folder.path / page.FILE
    text = written.read_text(encoding="utf-8")
    assert SECTIONS[-1] in text
    assert main(["compare", "--format", "html"]) in (0, 1)
    assert capsys.readouterr().out == text
    assert main(["report", "--output", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_a_run_without_the_packages_says_what_to_install_and_is_unharmed(
    comparison: Comparison,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(page, "PACKAGES", ("no_such_package",))
    folder = RunFolder(tmp_path)
    write_report(comparison, folder)
    command = "pip install 'krishi-bench[report]'"
    said = f"no report.html was written: `no_such_package` is not installed: {command}\n"
    assert capsys.readouterr().err == said
    assert list(tmp_path.iterdir()) == []
    assert error_of(lambda: page.render([comparison], [folder])).message.endswith(command)


webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
in_a_browser = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None, reason="needs chromium and chromedriver on the PATH"
)


@pytest.fixture(scope="module")
def browser(html: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with the report open."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1000,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.get(path.as_uri())
    yield driver
    driver.quit()


def drawn(browser: Any, section: str) -> Any:
    """The first chart of a section, scrolled to and drawn."""
    figure = browser.find_element("css selector", f"#run1-{section} figure")
    browser.execute_script("arguments[0].scrollIntoView()", figure)
    wait_for(lambda: figure.find_elements("css selector", ".live svg .mark-symbol path") != [])
    return figure


@pytest.mark.e2e
@in_a_browser
def test_a_click_on_a_point_shows_its_recipe_and_commands(browser: Any) -> None:
    figure = drawn(browser, "figures")
    mark = browser.execute_script(
        "return [...arguments[0].querySelectorAll('.live .mark-symbol path')].find("
        "(mark) => mark.__data__.datum && mark.__data__.datum.variant === arguments[1])",
        figure,
        WORST,
    )
    webdriver.ActionChains(browser).move_to_element(mark).click().perform()
    assert WORST in browser.find_element("id", "hover").text
    panel = figure.find_element("css selector", ".picked").text
    assert WORST in panel and f"description: {EVIL}" in panel
    assert f"krishi-bench promote --run 20260102-030405 --variant '{WORST}'" in panel


@pytest.mark.e2e
@in_a_browser
def test_no_request_leaves_the_file_and_nothing_goes_wrong(browser: Any) -> None:
    for section in ("figures", "speedups", "recalls", "reliability"):
        drawn(browser, section)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in asked) == 1
    assert browser.get_log("browser") == []


@pytest.mark.e2e
@in_a_browser
@pytest.mark.parametrize("width", [360, 1000])
def test_the_page_never_scrolls_sideways(browser: Any, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    drawn(browser, "recalls")
    shown = "return document.documentElement.{}"
    wide, seen = (browser.execute_script(shown.format(name)) for name in ("scrollWidth", "clientWidth"))
    assert wide == seen <= width


@pytest.mark.e2e
@in_a_browser
def test_the_keyboard_leads_from_the_table_to_a_variants_recipe(browser: Any) -> None:
    link = browser.find_element("css selector", "#run1-figures tbody tr:nth-child(2) a")
    link.send_keys("\ue007")  # Enter
    card = browser.find_element("css selector", "#run1-variant2")
    wait_for(lambda: card.get_attribute("open") is not None)
    assert WORST in card.text
    assert browser.execute_script("return document.activeElement.tagName") == "SUMMARY"
