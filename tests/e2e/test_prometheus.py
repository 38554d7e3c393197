"""What operators see: rules, alerts and dashboard, held against a real server and a real Prometheus."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.serving import ROOT, ServerProcess, encoded, noise, publish, wait_for, wait_until_ready

pytestmark = pytest.mark.e2e

SERVE = ROOT / "serve"
CONFIG = yaml.safe_load((SERVE / "prometheus.yml").read_text())
GROUPS = yaml.safe_load((SERVE / "alerts.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RULE_TESTS = sorted(SERVE.glob("alerts*_test.yml"))
DASHBOARD_FILE = SERVE / "grafana" / "dashboard.json"
DASHBOARD = json.loads(DASHBOARD_FILE.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

# Made by Prometheus itself, and the labels that it or its target adds.
OF_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"job", "alertname", "alertstate"}}
OF_THE_TARGET = {"job", "instance"}
# There is no sample of these without a GPU, so their labels cannot be read from a page.
OF_A_GPU = {"gpu_utilization": {"gpu"}, "gpu_memory_used": {"gpu"}, "gpu_memory_total": {"gpu"}}
OF_A_FAILED_SWAP = {"model_next_try_timestamp_seconds": {"name", "version"}}


def dashboard_queries() -> list[str]:
    """What the panels and annotations ask, with Grafana's variables filled in for `All`."""
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    asked += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    for name, value in (("$__rate_interval", "1m"), ("$job", ".*"), ("$instance", ".*")):
        asked = [query.replace(name, value) for query in asked]
    assert not any("$" in query for query in asked)
    return asked


def variable_selectors() -> list[str]:
    variables = [
        variable["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"
    ]
    selectors = [re.fullmatch(r"label_values\((.*), (\w+)\)", query["query"]) for query in variables]
    assert all(selectors)
    return [found[1].replace("$job", ".*") for found in selectors if found]


# A reader of PromQL, as far as names go


@dataclass(frozen=True, slots=True)
class Selector:
    metric: str
    matchers: tuple[tuple[str, str, str], ...]  # label, operator, value


TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[[^]]*\]|[a-zA-Z_:][\w:]*|[\d.][\w.]*|=~|!~|!=|\S')
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
CALLED = {"(", "by", "without"}  # what comes after the name of a function or an aggregation
OPERATORS = {"and", "or", "unless", "bool", "offset", *GROUPING}


def names_in(query: str) -> tuple[list[Selector], set[str]]:
    """The selectors of a query, and the labels that it groups or joins by."""
    tokens = [*TOKEN.findall(query), "", ""]
    selectors, grouping = [], set()
    at = 0
    while at < len(tokens) - 2:
        word, following = tokens[at], tokens[at + 1]
        end = at + 1
        if word in GROUPING and following == "(":
            end = tokens.index(")", at)
            grouping |= set(tokens[at + 2 : end]) - {","}
        elif re.match("[a-zA-Z_:]", word) and word not in OPERATORS and following not in CALLED:
            matchers: tuple[tuple[str, str, str], ...] = ()
            if following == "{":
                end = tokens.index("}", at) + 1
                inside = [token for token in tokens[at + 2 : end - 1] if token != ","]
                matchers = tuple(
                    (inside[i], inside[i + 1], inside[i + 2].strip('"')) for i in range(0, len(inside), 3)
                )
            selectors.append(Selector(word, matchers))
        at = end
    return selectors, grouping


def test_the_reader_of_promql_finds_metrics_matchers_and_grouping() -> None:
    query = (
        'topk by (job) (1, sum by (job, le) (rate(a:b_total{x="1",y=~"2|}"}[5m] offset 1d))) / on () c > 2e6'
    )
    matchers = (("x", "=", "1"), ("y", "=~", "2|}"))
    assert names_in(query) == ([Selector("a:b_total", matchers), Selector("c", ())], {"job", "le"})


# The files


def promtool(*arguments: str | Path, cwd: Path = ROOT) -> str:
    if (tool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(
        [tool, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_config_finds_its_rules_from_the_checkout_and_from_a_container(tmp_path: Path) -> None:
    checked = [promtool("check", "config", "serve/prometheus.yml")]
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(SERVE / name, tmp_path)
    checked.append(promtool("check", "config", tmp_path / "prometheus.yml", cwd=Path("/")))
    for answer in checked:
        assert "1 rule files found" in answer
        assert f"{len(RULES)} rules found" in answer


@pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.name)
def test_the_alerts_fire_when_they_should(file: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", file)


def test_every_alert_is_seen_to_fire_and_to_stay_silent() -> None:
    fired: set[str] = set()
    silent: set[str] = set()
    for file in RULE_TESTS:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for check in case["alert_rule_test"]:
                (fired if check["exp_alerts"] else silent).add(check["alertname"])
    assert fired == silent == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_is_wrong_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert list(rule["annotations"]) == ["summary", "description", "action"]
    assert f"`{name}`" in (ROOT / "docs" / "serving.md").read_text()


def test_the_alerts_name_the_job_of_the_config() -> None:
    (job,) = [scrape["job_name"] for scrape in CONFIG["scrape_configs"]]
    made_here = {rule["record"] for rule in RULES if "record" in rule}
    for rule in RULES:
        for selector in names_in(rule["expr"])[0]:
            if selector.metric not in made_here:
                assert ("job", "=", job) in selector.matchers, rule


def test_the_dashboard_is_regular() -> None:
    """Sorted keys and one indentation, so that a change is a small difference; panels without gaps."""
    assert DASHBOARD_FILE.read_text() == json.dumps(DASHBOARD, indent=2, sort_keys=True) + "\n"
    assert [panel["id"] for panel in DASHBOARD["panels"]] == list(range(1, len(DASHBOARD["panels"]) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    bottom = max(y for _, y in taken)
    assert taken == {(x, y) for x in range(24) for y in range(bottom + 1)}, "a gap between panels"
    for panel in PANELS:
        assert panel["description"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"


def test_grafana_looks_for_the_dashboard_where_compose_puts_it() -> None:
    compose = yaml.safe_load((SERVE / "docker-compose.yml").read_text())["services"]
    provisioning = SERVE / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "krishi-bench.yml").read_text())["providers"]
    mounted = f"./grafana/dashboard.json:{provider['options']['path']}/dashboard.json:ro"
    assert mounted in compose["grafana"]["volumes"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert re.fullmatch(r"http://(\w+):9090", source["url"])[1] in compose  # type: ignore[index]
    assert source["jsonData"]["timeInterval"] == CONFIG["global"]["scrape_interval"]


# A real server


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.0.0 serves; 1.1.0 is to be its canary; 1.2.0, the same network, its shadow."""
    root = tmp_path_factory.mktemp("prometheus") / "registry"
    publish(root)
    publish(root, version="1.1.0", seed=8, alias=None)
    publish(root, version="1.2.0", alias=None)
    return root


@pytest.fixture(scope="module")
def server(registry: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(
        registry,
        KRISHI_CANARY="1.1.0",
        KRISHI_WEIGHT="0.5",
        KRISHI_SHADOW="1.2.0",
        KRISHI_SAMPLE="1",
        KRISHI_WATCH="0.2",
        KRISHI_DRAIN_DELAY="0",
    )
    try:
        wait_until_ready(server.client)
        # The candidates are opened once the server is ready.
        wait_for(lambda: values_of(server, "model_info", "role") == {"primary", "canary", "shadow"})
        predict(server, 20)
        wait_for(lambda: "agree" in values_of(server, "shadow_requests_total", "result"))
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


def predict(server: ServerProcess, photos: int) -> None:
    for seed in range(photos):
        files = {"file": ("leaf.jpg", encoded(noise(seed)), "image/jpeg")}
        assert server.client.post("/predict", files=files).status_code == 200


Samples = dict[str, dict[str, set[str]]]


def samples_of(server: ServerProcess) -> tuple[Samples, set[str]]:
    """By name of sample, the values of each of its labels; and the names of the families without samples."""
    samples: Samples = {}
    empty = set()
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        if not family.samples:
            empty.add(family.name)
        for sample in family.samples:
            labels = samples.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return samples, empty


def values_of(server: ServerProcess, name: str, label: str) -> set[str]:
    return samples_of(server)[0].get(name, {}).get(label, set())


def accepts(operator: str, pattern: str, value: str) -> bool:
    if operator in ("=", "!="):
        return (pattern == value) == (operator == "=")
    return (re.fullmatch(pattern, value) is not None) == (operator == "=~")


def test_every_query_asks_for_what_the_server_exposes(server: ServerProcess) -> None:
    """Metrics, labels, and values: `role="cannary"` would be a valid query that never finds anything."""
    samples, empty = samples_of(server)
    assert {*OF_A_GPU, *OF_A_FAILED_SWAP} <= empty | set(samples)
    labels = {name: set(of_sample) | OF_THE_TARGET for name, of_sample in samples.items()}
    unseen = OF_A_GPU | OF_A_FAILED_SWAP
    labels |= {name: of_it | OF_THE_TARGET for name, of_it in unseen.items()} | OF_PROMETHEUS
    for rule in RULES:  # in order: a rule may use what was recorded above it
        grouping = check_query(rule["expr"], labels, samples)
        if "record" in rule:
            assert rule["record"] not in labels
            labels[rule["record"]] = grouping
    for query in [*dashboard_queries(), *variable_selectors()]:
        check_query(query, labels, samples)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("sum(request_total)", "request_total does not exist"),
        ('rate(requests_total{stage="total"}[5m])', "requests_total has no label stage"),
        ('up - on (job) group_left () model_info{role="cannary"}', "role='cannary'"),
        ("sum by (class) (predictions_total)", "{'class'} in no metric"),
    ],
)
def test_a_query_that_never_finds_anything_is_noticed(
    server: ServerProcess, query: str, message: str
) -> None:
    samples, _ = samples_of(server)
    labels = {name: set(of_sample) | OF_THE_TARGET for name, of_sample in samples.items()} | OF_PROMETHEUS
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_query(query, labels, samples)


def check_query(query: str, labels: dict[str, set[str]], samples: Samples) -> set[str]:
    """Raises AssertionError for a name that is not there. Returns the labels that an answer may have."""
    selectors, grouping = names_in(query)
    assert selectors or query == "vector(0)", query
    for selector in selectors:
        assert selector.metric in labels, f"{selector.metric} does not exist: {query}"
        for label, operator, value in selector.matchers:
            assert label in labels[selector.metric], f"{selector.metric} has no label {label}: {query}"
            # Of any metric: some codes and results are only seen once they happen.
            known = set[str]().union(*(values.get(label, set()) for values in samples.values()))
            if known:
                assert any(accepts(operator, value, one) for one in known), f"{label}={value!r}: {query}"
    available = set[str]().union(*(labels[selector.metric] for selector in selectors))
    assert grouping <= available, f"{grouping - available} in no metric of {query}"
    return available - {"le"}


def test_the_dashboard_shows_every_metric_of_ours(server: ServerProcess) -> None:
    samples, empty = samples_of(server)
    asked = " ".join([*dashboard_queries(), *(rule["expr"] for rule in RULES)])
    ours = {name for name in [*samples, *empty] if not name.startswith(("python_", "process_"))}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in ours}
    assert {name for name in families if not re.search(rf"\b{name}", asked)} == set()


# A real Prometheus


class Prometheus:
    """The binary with the files of serve/, hurried: twice a second, and alerts that do not wait."""

    def __init__(self, folder: Path, target: str) -> None:
        config = json.loads(json.dumps(CONFIG))
        config["global"] = dict.fromkeys(
            ("scrape_interval", "scrape_timeout", "evaluation_interval"), "500ms"
        )
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        groups = json.loads(json.dumps(GROUPS))
        for group in groups:
            group.pop("interval", None)
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = "1s"
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "alerts.yml").write_text(yaml.safe_dump({"groups": groups}))
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = folder / "log.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--web.listen-address={address}",
                    f"--storage.tsdb.path={folder / 'data'}",
                ],
                stdout=log,
                stderr=log,
            )
        self.client = httpx.Client(base_url=f"http://{address}", timeout=10, verify=False)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.client.get("/-/ready").status_code == 200
        except httpx.ConnectError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        response = self.client.get(f"/api/v1/{path}", params=parameters)
        answer = response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def ask(self, query: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get("query", query=query)["result"]
        return result

    def number(self, query: str) -> float | None:
        """The only value of a query's answer, None where there is none."""
        answer = self.ask(query)
        assert len(answer) <= 1, answer
        return float(answer[0]["value"][1]) if answer else None

    def firing(self, name: str) -> list[dict[str, Any]]:
        alerts = self.get("alerts")["alerts"]
        return [a for a in alerts if a["state"] == "firing" and a["labels"]["alertname"] == name]

    def end(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(15)


@pytest.fixture(scope="module")
def prometheus(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    prometheus = Prometheus(tmp_path_factory.mktemp("scraper"), f"{server.host}:{server.port}")
    try:
        wait_for(prometheus.ready)
        yield prometheus
    finally:
        prometheus.end()


def test_prometheus_counts_the_requests_that_were_made(server: ServerProcess, prometheus: Prometheus) -> None:
    wait_for(lambda: prometheus.number('up{job="krishi-bench"}') == 1)
    query = 'sum(requests_total{job="krishi-bench",code="200"})'
    wait_for(lambda: prometheus.number(query) is not None)
    before = prometheus.number(query)
    assert before is not None
    predict(server, 7)
    wait_for(lambda: prometheus.number(query) == before + 7)


@pytest.fixture(scope="module")
def refused(registry: Path, prometheus: Prometheus) -> dict[str, Any]:
    """The alert after a promotion of a version that does not reproduce its golden logits."""
    wait_for(lambda: prometheus.number('sum(model_swaps_total{result="failed"})') == 0)
    assert prometheus.firing("FailedSwap") == []
    publish(registry, version="1.3.0", golden_error=0.5)
    wait_for(lambda: prometheus.firing("FailedSwap") != [])
    return prometheus.firing("FailedSwap")[0]


def test_a_version_that_is_refused_raises_an_alert(server: ServerProcess, refused: dict[str, Any]) -> None:
    instance = f"{server.host}:{server.port}"
    assert refused["labels"]["instance"] == instance
    assert refused["annotations"]["summary"] == f"{instance} refused the version it should load"
    assert server.client.get("/model").json()["version"] == "1.0.0"


def test_prometheus_evaluates_every_rule(prometheus: Prometheus) -> None:
    def states() -> dict[str, str]:
        return {
            rule["name"]: rule["health"] + rule.get("lastError", "")
            for group in prometheus.get("rules")["groups"]
            for rule in group["rules"]
        }

    wait_for(lambda: "unknown" not in states().values())
    assert states() == {rule.get("record") or rule["alert"]: "ok" for rule in RULES}


@pytest.mark.usefixtures("refused")
def test_every_query_of_the_dashboard_has_an_answer(server: ServerProcess, prometheus: Prometheus) -> None:
    """All but those about a GPU or a failed swap, and those that compare with a week ago."""
    too_large = server.client.post(
        "/predict", content=b"x" * 10_000_001, headers={"Content-Type": "image/jpeg"}
    )
    assert too_large.status_code == 413
    predict(server, 5)
    asked = [query for query in dashboard_queries() if not re.search(r"\bgpu_|:past_|_next_try_", query)]

    def unanswered() -> list[str]:
        return [query for query in asked if not prometheus.ask(query)]

    with suppress(AssertionError):  # the list says more than "waited too long"
        wait_for(lambda: not unanswered())
    assert unanswered() == []
    for query in dashboard_queries():
        prometheus.ask(query)


def test_a_server_that_is_gone_raises_an_alert(server: ServerProcess, prometheus: Prometheus) -> None:
    assert prometheus.firing("ServerDown") == []
    assert server.end() == 0, server.log
    wait_for(lambda: prometheus.firing("ServerDown") != [])
    assert prometheus.number('up{job="krishi-bench"}') == 0
    assert prometheus.firing("NoServer") == []
