"""What a server says of its shadow is read, told and kept; a promotion can demand it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from tests.versions import workspace_folder
from workbench.cli import main
from workbench.errors import Refused, WorkbenchError
from workbench.registry.shadow_record import Demand, ShadowResult, find, path_of, write
from workbench.registry.shadow_report import report_of
from workbench.report.registry import shadow, shadow_answer

DIGEST = "ab" * 32
RUNNING = f"""\
# HELP inference_latency_seconds Time of the engine alone, per photo.
# TYPE inference_latency_seconds histogram
inference_latency_seconds_bucket{{le="0.001"}} 0.0
inference_latency_seconds_bucket{{le="+Inf"}} 2000.0
inference_latency_seconds_count 2000.0
inference_latency_seconds_sum 8.0
# TYPE model_info gauge
model_info{{name="leaf",version="1.0.0",digest="{"cd" * 32}",backend="onnxruntime",role="primary"}} 1.0
model_info{{name="leaf",version="1.1.0",digest="{DIGEST}",backend="onnxruntime",role="shadow"}} 1.0
"""
COUNTED = """\
# TYPE shadow_requests_total counter
shadow_requests_total{result="agree",shadow_version="1.1.0",version="1.0.0"} 198.0
shadow_requests_total{result="disagree",shadow_version="1.1.0",version="1.0.0"} 2.0
shadow_requests_total{result="failed",shadow_version="1.1.0",version="1.0.0"} 1.0
shadow_requests_total{result="shed",shadow_version="1.1.0",version="1.0.0"} 7.0
# TYPE shadow_inference_seconds histogram
shadow_inference_seconds_bucket{le="+Inf",model="primary",shadow_version="1.1.0",version="1.0.0"} 200.0
shadow_inference_seconds_count{model="primary",shadow_version="1.1.0",version="1.0.0"} 200.0
shadow_inference_seconds_sum{model="primary",shadow_version="1.1.0",version="1.0.0"} 0.8
shadow_inference_seconds_bucket{le="+Inf",model="shadow",shadow_version="1.1.0",version="1.0.0"} 200.0
shadow_inference_seconds_count{model="shadow",shadow_version="1.1.0",version="1.0.0"} 200.0
shadow_inference_seconds_sum{model="shadow",shadow_version="1.1.0",version="1.0.0"} 0.4
"""
ALONE = "\n".join(line for line in RUNNING.splitlines() if 'role="shadow"' not in line) + "\n"


def plain(text: str) -> str:
    """Without comments, which may not come twice."""
    return "".join(line for line in text.splitlines(keepends=True) if line[0] != "#")


@contextmanager
def serving(text: str, status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *_: object) -> None:
            assert format

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return workspace_folder(tmp_path)


def test_the_report_says_how_often_both_agree_and_how_long_both_took() -> None:
    with serving(RUNNING + COUNTED, 200) as url:
        report = report_of(url + "/")
    assert report.running
    assert shadow(report).splitlines() == [
        "leaf 1.1.0 in the shadow of 1.0.0: 200 requests compared",
        "  agreement 99.00 % (95 % interval 96.43 to 99.73), 2 differ",
        "  1 failed, 7 left out while the server was busy",
        "  mean inference 2.00 ms against 4.00 ms, 0.50 times; the shadow runs at low priority",
    ]
    (pair,) = cast(list[dict[str, Any]], shadow_answer(report)["pairs"])
    assert pair["agreement_interval"] == [pytest.approx(0.9643, abs=1e-4), pytest.approx(0.9973, abs=1e-4)]
    assert (pair["requests"], pair["failed"], pair["shed"], pair["ratio"]) == (200, 1, 7, pytest.approx(0.5))


def test_samples_of_several_processes_are_added_up() -> None:
    doubled = COUNTED + COUNTED.replace("{", '{pid="2",')
    with serving(RUNNING + plain(doubled), 200) as url:
        (pair,) = report_of(url).pairs
    assert (pair.compared, pair.shed) == (400, 14)
    assert pair.ratio == pytest.approx(0.5)


def test_the_command_keeps_the_result_where_promote_finds_it(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(RUNNING + COUNTED, 200) as url:
        command = ["shadow-report", "--url", url, "--workspace", str(workspace)]
        assert main([*command, "--format", "json"]) == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out)["running"] is True
        assert shown.err == f"wrote {workspace}/results/shadow/leaf-1.1.0-vs-1.0.0.json\n"
        assert main(command) == 0
        assert "200 requests compared" in capsys.readouterr().out
    kept = find(workspace / "results", "leaf", "1.1.0", "1.0.0")
    assert kept is not None
    # Where it raised it did not agree: a candidate that fails on every second photo is not demanded away.
    assert (kept.shadow_digest, kept.requests, kept.agree) == (DIGEST, 201, 198)


@pytest.mark.parametrize("text", [ALONE, ALONE + COUNTED])
def test_where_no_shadow_runs_that_is_said_and_nothing_is_kept(
    workspace: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with serving(text, 200) as url:
        assert main(["shadow-report", "--url", url, "--workspace", str(workspace)]) == 0
    assert f"no shadow is running at {url}" in capsys.readouterr().out
    assert not (workspace / "results").exists()


def test_a_shadow_that_was_asked_nothing_yet_says_so_and_keeps_nothing() -> None:
    with serving(RUNNING, 200) as url:
        report = report_of(url)
    expected = "leaf 1.1.0 in the shadow of 1.0.0: no request compared yet (0 failed, 0 left out)"
    assert shadow(report) == expected
    assert report.results() == []


def test_after_a_swap_each_pair_is_told_apart() -> None:
    later = COUNTED.replace('version="1.0.0"', 'version="0.9.0"').replace("198.0", "90.0")
    with serving(RUNNING + plain(COUNTED + later), 200) as url:
        results = report_of(url).results()
    assert [(result.version, result.agree) for result in results] == [("0.9.0", 90), ("1.0.0", 198)]


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("", 500, "answers 500"),
        ("# nothing\n", 200, "is no krishi-bench server"),
        ("<html>\n<body a=b>\n", 200, "is not in Prometheus' text format|is no krishi-bench server"),
    ],
)
def test_what_is_no_server_of_ours_is_an_error(text: str, status: int, message: str) -> None:
    with serving(text, status) as url, pytest.raises(WorkbenchError, match=message):
        report_of(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1", "cannot be read: Connection refused"),
        ("file:///etc/passwd", "is not a server's address"),
        ("127.0.0.1:8000", "is not a server's address"),
        ("http://[broken", "cannot be read|is not a server's address"),
    ],
)
def test_where_nothing_answers_there_is_one_clear_error(
    url: str, message: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WorkbenchError, match=message):
        report_of(url)
    assert main(["shadow-report", "--url", url, "--workspace", str(workspace)]) == 2
    assert "Traceback" not in capsys.readouterr().err


# The result, and who demands it


def result(agree: int = 990, requests: int = 1000, **changes: str) -> ShadowResult:
    return ShadowResult.model_validate(
        {
            "name": "leaf",
            "version": "1.0.0",
            "shadow_version": "1.1.0",
            "shadow_digest": DIGEST,
            "requests": requests,
            "agree": agree,
            "at": datetime.now(UTC),
            **changes,
        }
    )


def test_a_result_is_replaced_by_a_later_one_and_found_again(tmp_path: Path) -> None:
    write(tmp_path, result(agree=1))
    path = write(tmp_path, result())
    assert path == tmp_path / "shadow" / "leaf-1.1.0-vs-1.0.0.json"
    assert find(tmp_path, "leaf", "1.1.0", "1.0.0") == result(at=json.loads(path.read_text())["at"])
    assert find(tmp_path, "leaf", "1.0.0", "1.1.0") is None


def test_the_lower_end_of_the_interval_must_reach_what_is_demanded(tmp_path: Path) -> None:
    write(tmp_path, result(agree=990))
    Demand(tmp_path, 0.98).check("leaf", "1.1.0", DIGEST, served="1.0.0")
    with pytest.raises(Refused) as caught:
        Demand(tmp_path, 0.99).check("leaf", "1.1.0", DIGEST, served="1.0.0")
    assert caught.value.message == (
        "leaf 1.1.0 agreed with 1.0.0 on 990 of 1,000 requests, 99.00 % (95 % interval 98.17 to 99.46): "
        "at least 99 % is demanded of the lower end"
    )
    write(tmp_path, result(agree=5, requests=5))
    with pytest.raises(Refused, match="on 5 of 5 requests"):
        Demand(tmp_path, 0.9).check("leaf", "1.1.0", DIGEST, served="1.0.0")


def test_a_result_of_other_versions_or_of_another_model_counts_for_nothing(tmp_path: Path) -> None:
    write(tmp_path, result())
    for version, digest, served in (
        ("1.1.0", DIGEST, "1.0.1"),
        ("1.2.0", DIGEST, "1.0.0"),
        ("1.1.0", "0", "1.0.0"),
    ):
        with pytest.raises(Refused, match="shadow result") as caught:
            Demand(tmp_path, 0.5).check("leaf", version, digest, served=served)
        assert f"--shadow {version}" in (caught.value.hint or "")


@pytest.mark.parametrize("content", ["{", "{}", '{"schema_version": 1}'])
def test_a_damaged_result_is_an_error_with_its_file(tmp_path: Path, content: str) -> None:
    path = path_of(tmp_path, "leaf", "1.1.0", "1.0.0")
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(WorkbenchError, match=str(path)):
        find(tmp_path, "leaf", "1.1.0", "1.0.0")


def test_a_result_that_was_moved_or_cannot_be_is_refused(tmp_path: Path) -> None:
    write(tmp_path, result()).rename(path_of(tmp_path, "leaf", "1.2.0", "1.0.0"))
    with pytest.raises(WorkbenchError, match="compares other versions"):
        find(tmp_path, "leaf", "1.2.0", "1.0.0")
    with pytest.raises(ValueError, match="agree is 2, more than the 1 request"):
        result(agree=2, requests=1)
