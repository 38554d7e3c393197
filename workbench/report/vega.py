"""Charts of Vega-Lite as a browser and a printer take them, and the library that draws them in a browser."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, Self

from workbench.system.child import Child, ChildError, calls
from workbench.system.files import cache_folder, write_atomic
from workbench.system.packages import versions

TIMEOUT_S = 120.0
PRINTED_WIDTH = 680  # pixels of a chart on paper, and where no script runs
LIBRARY = "window.vegaEmbed = vegaEmbed;"


class ChartDrawer:
    """Draws charts in a process of its own: its JavaScript takes long to start, and the sections of the page
    are made meanwhile. Its methods raise ChildError."""

    def __init__(self) -> None:
        import vl_convert

        self._folder = Path(mkdtemp(prefix="krishi-bench-charts-"))
        log = self._folder / "log.txt"
        start = (vl_convert.vegalite_to_vega, {"mark": "point"})
        self._child = Child(calls, *start, log=log, label="the process that draws charts", exit_at_once=True)
        self._ready = self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.close(failed=not self._ready)  # where no chart was drawn, it may still be starting
        if not self._failed:  # else its log is what the message points to
            rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        return self._child.process.pid

    @property
    def runs(self) -> bool:
        """Whether it can still be asked, between two questions."""
        return not self._failed and (not self._ready or not self._child.poll(0))

    def ready(self) -> None:
        """Wait until it has started; from then on it computes nothing but what it is asked for."""
        if not self._ready:
            with self._noted():
                self._child.ready(TIMEOUT_S)
            self._ready = True

    def live(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The chart for Vega, as wide as its container."""
        import vl_convert

        return dict(self._call(vl_convert.vegalite_to_vega, {**spec, "width": "container"}))

    def svg(self, spec: dict[str, Any], prefix: str) -> str:
        """The chart as an image. prefix: of the ids in it, so that several fit into one page."""
        import vl_convert

        compiled = self._call(vl_convert.vegalite_to_vega, {**spec, "width": PRINTED_WIDTH})
        text = str(self._call(vl_convert.vega_to_svg, compiled))
        text = re.sub(r'\bid="(\w+)"', rf'id="{prefix}-\1"', text)
        return re.sub(r"url\(#(\w+)\)", rf"url(#{prefix}-\1)", text)

    def _call(self, function: object, *arguments: object) -> Any:
        self.ready()
        with self._noted():
            return self._child.ask((function, *arguments), TIMEOUT_S)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except ChildError:
            self._failed = True
            raise


def library() -> str:
    """vegaEmbed as one script; making it takes two seconds, so it is kept."""
    import vl_convert

    (version,) = versions("vl-convert-python").values()
    path = cache_folder() / "vega" / f"embed-{version}.js"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    # `</script` within it would end the element that holds it.
    script = str(vl_convert.javascript_bundle(LIBRARY)).replace("</script", "<\\/script")
    write_atomic(path, script.encode())
    return script


def embedded(data: object) -> str:
    """JSON that may stand in a `script` element, whatever texts are in it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
