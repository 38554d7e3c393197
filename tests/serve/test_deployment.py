"""The files for Docker, Kubernetes and systemd: valid, and about the server that is there."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serve.app import create_app
from serve.metrics import Metrics
from serve.settings import Settings, variable

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "serve"
DOCKERFILE = (SERVE / "Dockerfile").read_text()
COMPOSE = SERVE / "docker-compose.yml"
UNIT = SERVE / "systemd" / "krishi-bench.service"
MANIFESTS = sorted((SERVE / "kubernetes").glob("*.yaml"))
SCALED = SERVE / "kubernetes" / "keda" / "scaledobject.yaml"
KSERVE = SERVE / "kubernetes" / "kserve" / "inferenceservice.yaml"
DEPLOYMENT_FILES = [
    SERVE / "Dockerfile",
    COMPOSE,
    UNIT,
    SERVE / "systemd" / "environment.example",
    *MANIFESTS,
    SCALED,
    KSERVE,
]


def tool(name: str) -> str:
    """Its path, beside the interpreter or on PATH; skips the test where it is not installed."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"`{name}` is not installed")
    return found


def ran(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT, check=False
    )


def served_paths() -> set[str]:
    return set(create_app(Settings()).openapi()["paths"])


# All of them


@pytest.mark.parametrize("file", DEPLOYMENT_FILES, ids=lambda path: path.name)
def test_every_variable_of_ours_is_one_the_server_reads(file: Path) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "workbench").rglob("*.py"))
    known = {variable(field) for field in Settings.model_fields}
    known |= set(re.findall(r"\"(KRISHI_[A-Z_]+)\"", sources))
    named = set(re.findall(r"\bKRISHI_[A-Z_]+\b", file.read_text()))
    assert named <= known


# The image


def instruction(name: str) -> list[str]:
    """The arguments of every such instruction, continued lines joined."""
    lines = re.sub(r"\\\n", "", DOCKERFILE).splitlines()
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def test_the_dockerfile_passes_hadolint() -> None:
    done = ran(tool("hadolint"), SERVE / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_every_package_asked_for_has_a_pinned_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [
        requirement
        for extra in ("serve", "ort", "openvino")
        for requirement in project["optional-dependencies"][extra]
    ]
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    names = {canonicalize_name(Requirement(text).name) for text in asked}
    assert names <= {canonicalize_name(name) for name in pinned}
    assert "-c constraints.txt" in DOCKERFILE


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A stub on a port of its own, and the paths it was asked for."""
    asked: list[str] = []

    class Stub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Stub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_of_the_image_asks_whether_the_server_is_alive(status: int, code: int) -> None:
    (health,) = instruction("HEALTHCHECK")
    words = json.loads(health.partition("CMD ")[2])
    assert words[0] == "python"
    with answering(status) as (port, asked):
        # A proxy that is not there: the check must not go through it.
        done = ran(sys.executable, *words[1:], KRISHI_PORT=str(port), http_proxy="http://127.0.0.1:1")
    assert (done.returncode, done.stderr) == (code, "")
    assert asked == ["/healthz"]
    assert set(asked) <= served_paths()


# Compose


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


def test_compose_accepts_the_file_and_insists_on_a_password(tmp_path: Path) -> None:
    compose = [tool("docker-compose"), "-f", str(COMPOSE), "config"]
    done = ran(*compose, GRAFANA_PASSWORD="secret", REGISTRY_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    server = yaml.safe_load(done.stdout)["services"]["server"]
    assert all("127.0.0.1" in str(port) for port in server["ports"])
    (registry,) = server["volumes"]
    assert str(tmp_path) in str(registry)
    without = ran(*compose, GRAFANA_PASSWORD="")
    assert without.returncode != 0
    assert "set GRAFANA_PASSWORD" in without.stderr


def test_prometheus_finds_the_server_in_its_container(tmp_path: Path) -> None:
    """Its start script, run here with the paths of the container moved to folders of ours."""
    prometheus = services()["prometheus"]
    (script,) = prometheus["command"]
    mounted, written = tmp_path / "etc", tmp_path / "tmp"
    for folder in (mounted, written):
        folder.mkdir()
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(SERVE / name, mounted)
    moved = script.replace("/tmp/", f"{written}/").replace("/etc/prometheus", str(mounted))
    done = ran(*prometheus["entrypoint"], moved.replace("/bin/prometheus", "echo"))
    assert done.returncode == 0, done.stderr
    config = written / "prometheus.yml"
    (job,) = yaml.safe_load(config.read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["server:8000"]}]
    checked = ran(tool("promtool"), "check", "config", config)
    assert checked.returncode == 0, checked.stderr


# Kubernetes


def manifest(kind: str) -> dict[str, Any]:
    documents = [yaml.safe_load(path.read_text()) for path in MANIFESTS]
    (found,) = [document for document in documents if document["kind"] == kind]
    return dict(found)


def pod() -> dict[str, Any]:
    found: dict[str, Any] = manifest("Deployment")["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_manifest_is_valid(path: Path, version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_probes_ask_paths_that_are_served_and_liveness_is_not_readiness() -> None:
    (container,) = pod()["containers"]
    asked = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    assert {probe: get["path"] for probe, get in asked.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert {get["path"] for get in asked.values()} <= served_paths()
    assert {get["port"] for get in asked.values()} == {port["name"] for port in container["ports"]}


def test_a_pod_is_given_longer_than_the_server_takes_to_stop() -> None:
    (container,) = pod()["containers"]
    (delay,) = [float(entry["value"]) for entry in container["env"] if entry["name"] == "KRISHI_DRAIN_DELAY"]
    assert pod()["terminationGracePeriodSeconds"] > delay + Settings().drain_timeout_s
    # The delay stands in for a preStop sleep: it must outlast two failed readiness probes.
    readiness = container["readinessProbe"]
    assert delay > readiness["periodSeconds"] * readiness["failureThreshold"]


# KServe and KEDA


def test_the_predictor_of_kserve_is_the_pod_of_the_deployment() -> None:
    """KServe's own fields aside, its schema is that of a pod, which Kubernetes' schema can check."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    predictor = yaml.safe_load(KSERVE.read_text())["spec"]["predictor"]
    own = ("minReplicas", "maxReplicas", "autoScaling", "deploymentStrategy")
    spec = {key: value for key, value in predictor.items() if key not in own}
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}, "1.37", strict=True
    )
    (mine,), (theirs,) = spec["containers"], pod()["containers"]
    for key in ("image", "resources", "securityContext", "volumeMounts"):
        assert mine[key] == theirs[key], key
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert mine[probe]["httpGet"]["path"] == theirs[probe]["httpGet"]["path"]


def test_scaling_asks_for_a_metric_that_the_server_has() -> None:
    predictor = yaml.safe_load(KSERVE.read_text())["spec"]["predictor"]
    (metric,) = predictor["autoScaling"]["metrics"]
    (trigger,) = yaml.safe_load(SCALED.read_text())["spec"]["triggers"]
    exposed = Metrics().expose().decode()
    for query in (metric["external"]["metric"]["query"], trigger["metadata"]["query"]):
        (name,) = re.findall(r"sum\((\w+)\{", query)
        assert f"# TYPE {name} gauge" in exposed
    target = yaml.safe_load(SCALED.read_text())["spec"]["scaleTargetRef"]["name"]
    assert target == manifest("Deployment")["metadata"]["name"]


# systemd


def setting(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    unit = tmp_path / UNIT.name
    # The one thing that is not here: the installation it starts.
    (started,) = setting("ExecStart")
    unit.write_text(UNIT.read_text().replace(started.split()[0], sys.executable))
    done = ran(analyze, "verify", unit)
    known_from_254 = re.compile(r"Unknown key '(RestartSteps|RestartMaxDelaySec)'")
    complaints = [line for line in done.stderr.splitlines() if not known_from_254.search(line)]
    assert (done.returncode, complaints) == (0, [])


def test_systemd_finds_little_exposed() -> None:
    version = ran(tool("systemd-analyze"), "--version").stdout
    if int(version.split()[1]) < 250:
        pytest.skip("`systemd-analyze security --offline` needs systemd 250")
    done = ran(tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", UNIT)
    assert done.returncode == 0, done.stdout


def test_the_unit_reads_the_example_of_an_environment_file(monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = setting("EnvironmentFile")
    example = (SERVE / "systemd" / "environment.example").read_text()
    assert file.removeprefix("-") in example
    lines = [line for line in example.splitlines() if line and not line.startswith("#")]
    for line in lines:
        monkeypatch.setenv(*line.split("=", 1))
    assert Settings.from_environment().registry == Path("/srv/krishi-bench/registry")
