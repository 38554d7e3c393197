"""How a page is laid out: its sections by the template, with the charts drawn, in one file."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from workbench.report import vega
from workbench.report.page.blocks import Chart, DataTable, DrawnChart, PageBlock, PageSection

TEMPLATES = Path(__file__).with_name("templates")


class PageRunInfo(Protocol):
    """What the page says of a run above its sections."""

    @property
    def name(self) -> str: ...
    @property
    def run_id(self) -> str: ...


class PageRun(Protocol):
    """A run on a page. number: its place there, from 1, which is part of the ids of its sections."""

    @property
    def number(self) -> int: ...
    @property
    def info(self) -> PageRunInfo: ...


def layout(
    title: str,
    runs: Sequence[tuple[PageRun, Sequence[PageSection]]],
    drawer: vega.ChartDrawer,
    overview: Sequence[DataTable] = (),
) -> str:
    """The page as HTML. Sections without blocks are left out."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    specs: dict[str, dict[str, Any]] = {}
    shown = [
        (run, [_drawn(run, each, drawer, specs) for each in sections if each.blocks])
        for run, sections in runs
    ]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    script = vega.library() if specs else ""
    ours = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        title=title,
        runs=shown,
        overview=overview,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script), Markup(ours)],
        hashes=[_hash(script), _hash(ours)],
        charts=Markup(vega.embedded(specs)),
    )


def _drawn(
    run: PageRun, section: PageSection, drawer: vega.ChartDrawer, specs: dict[str, dict[str, Any]]
) -> PageSection:
    """The section with its charts drawn; what draws them in a browser is added to `specs`."""
    blocks: list[PageBlock] = []
    for number, block in enumerate(section.blocks, start=1):
        if isinstance(block, Chart):
            name = f"run{run.number}-{section.key}-{number}"
            specs[name] = drawer.live(block.spec)
            image, figures = drawer.svg(block.spec, name), block.table
            blocks.append(DrawnChart(name, block.title, image, figures, block.picks, block.unfolded))
        else:
            blocks.append(block)
    return replace(section, blocks=tuple(blocks))


def _hash(script: str) -> str:
    """As a content security policy names a script that may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
