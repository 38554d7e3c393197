"""The small parts of the server: settings, cores, softmax, metrics, the shipped configuration."""

import re
from pathlib import Path

import numpy as np
import pytest

from serve.metrics import Metrics
from serve.model import probabilities_of
from serve.settings import Settings, port_number
from workbench.errors import WorkbenchError
from workbench.system.machine import usable_cores

SERVE = Path(__file__).parents[2] / "serve"


def test_settings_come_from_the_environment() -> None:
    environ = {
        "KRISHI_REGISTRY": "/models",
        "KRISHI_MODEL": "leaf",
        "KRISHI_ALIAS": "canary",
        "KRISHI_DRAIN_DELAY": "2.5",
    }
    assert Settings.from_environment(environ) == Settings(
        Path("/models"), "leaf", "canary", drain_delay_s=2.5
    )


def test_a_slip_of_the_finger_does_not_start_a_thousand_workers() -> None:
    with pytest.raises(WorkbenchError, match="KRISHI_WORKERS='999'"):
        Settings.from_environment({"KRISHI_WORKERS": "999"})
    with pytest.raises(WorkbenchError, match="999 workers are more than the 64"):
        Settings(workers=999)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PIN", "1.0"),
        ("PIN", "latest"),
        ("SHADOW", "x"),
        ("CANARY", "1"),
        ("ALIAS", "../x"),
        ("MODEL", "A B"),
    ],
)
def test_what_can_be_no_version_or_name_is_refused_at_once(name: str, text: str) -> None:
    with pytest.raises(WorkbenchError, match=f"`?{text}`? is not a"):
        Settings.from_environment({f"KRISHI_{name}": text})


def test_an_empty_variable_counts_as_absent() -> None:
    environ = {"KRISHI_REGISTRY": "", "KRISHI_MODEL": "", "KRISHI_ALIAS": "", "KRISHI_DRAIN_DELAY": ""}
    assert Settings.from_environment(environ) == Settings.from_environment({}) == Settings()
    assert port_number({"KRISHI_PORT": ""}, "KRISHI_PORT", 8000) == 8000


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_delay_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(WorkbenchError, match="KRISHI_DRAIN_DELAY"):
        Settings.from_environment({"KRISHI_DRAIN_DELAY": text})


def test_spaces_around_the_key_are_none_of_it() -> None:
    assert Settings.from_environment({"KRISHI_API_KEY": " our own key\n"}).api_key == "our own key"
    # One that holds nothing else is a mistake, and must not open the server.
    with pytest.raises(WorkbenchError, match="8 to 256 printable ASCII characters"):
        Settings.from_environment({"KRISHI_API_KEY": "          "})


def test_looking_at_the_alias_without_a_pause_is_refused() -> None:
    with pytest.raises(WorkbenchError, match="KRISHI_WATCH='0' is not a number"):
        Settings.from_environment({"KRISHI_WATCH": "0"})


@pytest.mark.parametrize("text", ["http", "65536", "-1", "\u0663"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(WorkbenchError, match="KRISHI_PORT"):
        port_number({"KRISHI_PORT": text}, "KRISHI_PORT", 8000)


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("junk", 4)]
)
def test_a_container_has_the_cores_it_may_use(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    path = tmp_path / "cpu.max"
    path.write_text(quota)
    assert usable_cores(path) == cores
    assert usable_cores(tmp_path / "absent") == 4


def test_softmax_survives_large_logits() -> None:
    probabilities = probabilities_of(np.array([3e38, -3e38, 0.0], np.float32))
    assert probabilities.dtype == np.float64
    assert probabilities.tolist() == [1.0, 0.0, 0.0]
    assert probabilities_of(np.zeros(4, np.float32)).tolist() == [0.25] * 4
    assert probabilities_of(np.array([1, 2], np.float32))[1] == pytest.approx(
        1 / (1 + np.exp(-1.0)), rel=1e-15
    )


def test_each_app_has_its_own_metrics() -> None:
    first, second = Metrics(), Metrics()
    first.requests.labels("200").inc()
    assert 'requests_total{code="200"} 1.0' in first.expose().decode()
    assert 'requests_total{code="200"} 0.0' in second.expose().decode()


def test_every_metric_is_explained_in_the_docs() -> None:
    exposed = set(re.findall(r"^# TYPE (\w+)", Metrics().expose().decode(), re.MULTILINE))
    ours = {name for name in exposed if not name.startswith(("process_", "python_"))}
    docs = (SERVE.parent / "docs/serving.md").read_text()
    assert ours == set(re.findall(r"^\| `(\w+?)(?:\{\w+(?:, \w+)*\})?` \|", docs, re.MULTILINE)) & ours
    assert len(ours) == 18
