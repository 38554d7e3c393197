"""Is the HTML report as small, quick, closed and accessible as it says, for 40 variants on 2,000 photos?

    python -m benchmarks.report_page [--page FILE] [--axe axe.min.js] [--loads 5]

From the root of a checkout. The page is of the made-up run of tests/report/large_run.py, unless --page names
another. It is opened in headless Chromium, which takes chromium, chromedriver and selenium:

- how long until it is loaded, and until every chart in sight is drawn, from an empty profile each time;
- which addresses it asks for;
- what axe-core finds in light and in dark colours, on a wide and on a narrow screen, where it is installed
  (`pip install axe-playwright-python`) or named by --axe;
- which of the elements that can be used are reached by the Tab key alone.

Exits with 1 where a promise does not hold, and with 0 and the reason where there is no Chromium.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.report.large_run import PHOTOS, VARIANTS, large_run
from workbench.report import page
from workbench.results.history import compare_folder

LARGEST_BYTES, SLOWEST_S = 3_000_000, 2.0
GRAVE = ("serious", "critical")
AXE_PACKAGES = ("axe_playwright_python", "axe_selenium_python")
DRAWN = """
const seen = (e) => {
  const box = e.getBoundingClientRect();
  return box.top < innerHeight + 600 && box.bottom > 0;
};
const charts = [...document.querySelectorAll('figure.chart')].filter(seen);
return charts.length > 0 && charts.every((chart) => chart.querySelector('.live svg, .live canvas'));
"""
USABLE = """
return [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex]')]
  .filter((e) => e.tabIndex >= 0 && e.checkVisibility())
  .map((e, number) => { e.dataset.number = number; return e.outerHTML.slice(0, 80); });
"""
Finding = tuple[str, str, bool]  # what, the value, whether it is as promised


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium with an empty profile."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium") or shutil.which("google-chrome"))
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1000,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def missing() -> str | None:
    """What the measurement lacks here."""
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        return "chromium is not installed"
    if not shutil.which("chromedriver"):
        return "chromedriver is not installed"
    return None if find_spec("selenium") else "the Python package selenium is not installed"


def opening(file: Path, loads: int) -> list[Finding]:
    loaded, drawn = [], []
    for _ in range(loads):
        with browser() as driver:
            started = time.perf_counter()
            driver.get(file.as_uri())
            while not driver.execute_script(DRAWN):
                time.sleep(0.02)
            drawn.append(time.perf_counter() - started)
            timing = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
            loaded.append(driver.execute_script(timing) / 1e3)
    found = {"loaded": loaded, "charts in sight drawn": drawn}
    return [
        (
            f"{what}, of {loads} openings",
            f"{median(times):.2f} s, at most {max(times):.2f} s",
            max(times) < SLOWEST_S,
        )
        for what, times in found.items()
    ]


def requests(driver: Any, file: Path) -> Finding:
    driver.get(file.as_uri())
    height = driver.execute_script("return document.documentElement.scrollHeight")
    for top in range(0, height, 800):
        driver.execute_script("scrollTo(0, arguments[0])", top)
        time.sleep(0.05)
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    outside = [url for url in urls if url != file.as_uri() and not url.startswith("data:")]
    problems = driver.get_log("browser")
    value = f"{len(outside)} requests beside the file itself, {len(problems)} messages on the console"
    return "scrolled from top to bottom", value, not outside and not problems


def violations(driver: Any, file: Path, axe: str) -> list[Finding]:
    found = []
    for scheme in ("light", "dark"):
        for width in (1000, 360):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            driver.get(file.as_uri())
            # Not by a script element: the page's policy lets only its own scripts run.
            driver.execute_script(axe)
            result = driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
            kinds = [f"{v['id']} ({v['impact']}, {v['nodes'][0]['target'][0]})" for v in result["violations"]]
            grave = [v["id"] for v in result["violations"] if v["impact"] in GRAVE]
            value = f"{len(result['passes'])} rules passed; {', '.join(kinds) or 'nothing found'}"
            found.append(
                (f"axe-core {result['testEngine']['version']}, {scheme}, {width} px", value, not grave)
            )
    return found


def keyboard(driver: Any, file: Path) -> Finding:
    driver.get(file.as_uri())
    usable = driver.execute_script(USABLE)
    reached = set()
    for _ in range(len(usable) + 20):
        for kind in ("keyDown", "keyUp"):
            driver.execute_cdp_cmd(
                "Input.dispatchKeyEvent",
                {"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
            )
        number = driver.execute_script("return document.activeElement.dataset.number")
        if number is not None and int(number) in reached:
            break
        reached |= {int(number)} if number is not None else set()
    lost = [usable[number] for number in range(len(usable)) if number not in reached]
    value = f"{len(reached)} of {len(usable)} links, summaries and scrolling parts"
    return "reached by Tab", value + (f"; not {lost[0]}" if lost else ""), not lost


def axe_source(given: Path | None) -> str | None:
    """axe.min.js, of a file or of an installed package that carries it."""
    if given is not None:
        return given.read_text(encoding="utf-8")
    for package in AXE_PACKAGES:
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            for file in sorted(Path(folder).rglob("axe*.js")):
                return file.read_text(encoding="utf-8")
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, help="a report to open instead of the made-up one")
    parser.add_argument("--axe", type=Path, help="axe.min.js")
    parser.add_argument("--loads", type=int, default=5)
    given = parser.parse_args()
    if (reason := missing()) is not None:
        print(f"not measured: {reason}")
        return 0
    with TemporaryDirectory() as folder:
        file = given.page.resolve() if given.page else Path(folder) / "report.html"
        findings: list[Finding] = []
        if given.page is None:
            run = large_run(Path(folder) / "results")
            started = time.perf_counter()
            html = page.render([compare_folder(run)], [run])
            seconds = time.perf_counter() - started
            file.write_text(html, encoding="utf-8")
            findings.append(
                (f"made of {VARIANTS} variants and {PHOTOS:,} photos", f"in {seconds:.1f} s", True)
            )
        size = file.stat().st_size
        findings.append(("size", f"{size / 1e6:.2f} MB", size < LARGEST_BYTES))
        findings += opening(file, given.loads)
        with browser() as driver:
            findings.append(requests(driver, file))
            findings.append(keyboard(driver, file))
            axe = axe_source(given.axe)
            findings += violations(driver, file, axe) if axe else []
    print("| what | found | as promised |\n| --- | --- | --- |")
    for what, value, kept in findings:
        print(f"| {what} | {value} | {'yes' if kept else '**no**'} |")
    if not axe:
        print(f"axe-core was not asked: none of {', '.join(AXE_PACKAGES)} is installed", file=sys.stderr)
    return int(not all(kept for _, _, kept in findings))


if __name__ == "__main__":
    sys.exit(main())
