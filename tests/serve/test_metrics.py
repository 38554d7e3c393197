"""The server's metrics: apart for each app, and explained in the docs."""

import re
from pathlib import Path

from serve.metrics import Metrics

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"


def test_each_app_has_its_own_metrics() -> None:
    first, second = Metrics(), Metrics()
    first.requests.labels("200").inc()
    assert 'requests_total{code="200"} 1.0' in first.expose().decode()
    assert 'requests_total{code="200"} 0.0' in second.expose().decode()


def test_every_metric_is_explained_in_the_docs() -> None:
    exposed = set(re.findall(r"^# TYPE (\w+)", Metrics().expose().decode(), re.MULTILINE))
    ours = {name for name in exposed if not name.startswith(("process_", "python_"))}
    docs = DOCS.read_text()
    assert ours == set(re.findall(r"^\| `(\w+?)(?:\{\w+(?:, \w+)*\})?` \|", docs, re.MULTILINE)) & ours
    assert len(ours) == 25
