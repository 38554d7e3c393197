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
from serve.settings import Settings, variable

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "serve"
DOCKERFILE = (SERVE / "Dockerfile").read_text()
COMPOSE = SERVE / "docker-compose.yml"
UNIT = SERVE / "systemd" / "krishi-bench.service"
MANIFESTS = sorted((SERVE / "kubernetes").glob("*.yaml"))
DEPLOYMENT_FILES = [
    SERVE / "Dockerfile",
    COMPOSE,
    UNIT,
    SERVE / "systemd" / "environment.example",
    *MANIFESTS,
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


def needed_to_stop(drain_delay_s: float) -> float:
    return drain_delay_s + Settings().drain_timeout_s


# All of them


@pytest.mark.parametrize("file", DEPLOYMENT_FILES, ids=lambda path: path.name)
def test_every_variable_of_ours_is_one_the_server_reads(file: Path) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "workbench").rglob("*.py"))
    known = {variable(field) for field in Settings.model_fields}
    known |= set(re.findall(r"\"(KRISHI_[A-Z_]+)\"", sources))
    named = set(re.findall(r"\bKRISHI_[A-Z_]+\b", file.read_text()))
    assert named <= known


@pytest.mark.parametrize("file", [SERVE / "Dockerfile", UNIT], ids=lambda path: path.name)
def test_the_runtime_is_told_not_to_report_to_its_maker(file: Path) -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in file.read_text()


# The image


def instruction(name: str) -> list[str]:
    """The arguments of every such instruction, continued lines joined."""
    lines = re.sub(r"\\\n", "", DOCKERFILE).splitlines()
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def pattern(text: str) -> re.Pattern[str]:
    """A .dockerignore pattern: it covers what it matches and everything below."""
    text = re.escape(text).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
    return re.compile(f"{text}(/.*)?$")


def reaches_the_builder(path: str) -> bool:
    """Whether .dockerignore lets a file through: its last pattern that matches decides."""
    lines = (SERVE / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    matching = [rule for rule in rules if pattern(rule.removeprefix("!")).match(path)]
    return not matching or matching[-1].startswith("!")


def test_the_dockerfile_passes_hadolint() -> None:
    done = ran(tool("hadolint"), SERVE / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_builder_gets_what_the_wheel_needs() -> None:
    folders = [path for folder in ("serve", "workbench", "recipes") for path in (ROOT / folder).rglob("*")]
    modules = [
        path.relative_to(ROOT).as_posix() for path in folders if path.suffix in (".py", ".yaml", ".html")
    ]
    modules = [path for path in modules if "serve/kubernetes" not in path]
    copied = [word for line in instruction("COPY") if "--from" not in line for word in line.split()[:-1]]
    assert {"pyproject.toml", "README.md", "LICENSE", "constraints.txt"} <= set(copied)
    assert all(reaches_the_builder(path) for path in [*modules, *copied])


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".env",
        "serve/.env",
        "registry/leaf/1.0.0/model.onnx",
        "results/x.json",
        "tests/serving.py",
        "docs/serving.md",
        "serve/Dockerfile",
        "serve/docker-compose.yml",
        "serve/kubernetes/deployment.yaml",
        "serve/__pycache__/app.cpython-311.pyc",
    ],
)
def test_the_builder_gets_nothing_else(path: str) -> None:
    assert not reaches_the_builder(path)


def test_the_base_image_is_pinned_to_a_slim_python_that_the_package_supports() -> None:
    (base,) = [line.removeprefix("BASE=") for line in instruction("ARG") if line.startswith("BASE=")]
    version = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in (ROOT / "pyproject.toml").read_text()
    assert [line.split()[0] for line in instruction("FROM")] == ["${BASE}", "${BASE}"]


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


def test_the_image_runs_as_a_number_that_is_not_root_and_gets_its_signals() -> None:
    (user,) = instruction("USER")
    uid, gid = user.split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert instruction("STOPSIGNAL") == ["SIGTERM"]
    (command,) = instruction("CMD")
    assert json.loads(command) == ["python", "-m", "serve"]


def test_the_port_of_the_image_is_the_one_the_server_listens_on() -> None:
    assert instruction("EXPOSE") == ["8000"]
    assert "KRISHI_PORT=8000" in DOCKERFILE
    assert "KRISHI_HOST=0.0.0.0" in DOCKERFILE


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


@pytest.mark.parametrize("name", ["server", "prometheus", "grafana"])
def test_every_service_is_locked_up_and_limited(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "cpus", "pids_limit", "restart", "tmpfs"} <= set(service)
    assert all(port.startswith("${LISTEN:-127.0.0.1}:") for port in service["ports"])
    assert name == "server" or "healthcheck" in service


def test_every_file_that_compose_mounts_is_in_the_checkout() -> None:
    mounts = [mount for service in services().values() for mount in service["volumes"]]
    sources = [mount.partition(":")[0] for mount in mounts if isinstance(mount, str)]
    files = [source for source in sources if source.startswith("./")]
    assert len(files) == 4
    for source in files:
        assert (SERVE / source).exists(), source
    assert all(mount["read_only"] for mount in mounts if not isinstance(mount, str))


def test_grafana_looks_where_compose_puts_its_files() -> None:
    provisioning = SERVE / "grafana" / "provisioning"
    (source,) = [yaml.safe_load(path.read_text()) for path in (provisioning / "datasources").iterdir()]
    assert [entry["url"] for entry in source["datasources"]] == ["http://prometheus:9090"]
    (boards,) = [yaml.safe_load(path.read_text()) for path in (provisioning / "dashboards").iterdir()]
    (folder,) = [provider["options"]["path"] for provider in boards["providers"]]
    assert f"./grafana/dashboard.json:{folder}/dashboard.json:ro" in services()["grafana"]["volumes"]


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


def test_compose_waits_longer_than_the_server_takes_to_stop() -> None:
    server = services()["server"]
    grace = float(server["stop_grace_period"].removesuffix("s"))
    assert grace > needed_to_stop(float(server["environment"]["KRISHI_DRAIN_DELAY"]))


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
    assert pod()["terminationGracePeriodSeconds"] > needed_to_stop(delay)
    # The delay stands in for a preStop sleep: it must outlast two failed readiness probes.
    readiness = container["readinessProbe"]
    assert delay > readiness["periodSeconds"] * readiness["failureThreshold"]


def test_a_pod_meets_the_restricted_profile_that_its_namespace_demands() -> None:
    assert manifest("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    (container,) = pod()["containers"]
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["runAsUser"] == int(instruction("USER")[0].partition(":")[0])
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} == set(container["resources"])


def test_the_registry_is_read_only_and_tmp_is_writable() -> None:
    (container,) = pod()["containers"]
    registry, tmp = container["volumeMounts"]
    assert (registry["mountPath"], registry["readOnly"], tmp["mountPath"]) == ("/registry", True, "/tmp")
    claims = [volume["persistentVolumeClaim"] for volume in pod()["volumes"] if "emptyDir" not in volume]
    name = manifest("PersistentVolumeClaim")["metadata"]["name"]
    assert claims == [{"claimName": name, "readOnly": True}]


def test_the_manifests_speak_of_the_same_pods() -> None:
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert manifest("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    scaled = manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"]
    assert scaled == manifest("Deployment")["metadata"]["name"]
    namespaces = {yaml.safe_load(path.read_text())["metadata"].get("namespace") for path in MANIFESTS}
    assert namespaces == {None, manifest("Namespace")["metadata"]["name"]}


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


def test_the_unit_starts_again_and_stops_in_time() -> None:
    assert setting("Restart") == ["on-failure"]
    assert setting("StartLimitIntervalSec") == ["0"]
    assert setting("KillSignal") == ["SIGTERM"]
    assert setting("ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert setting("ExecStart")[0].endswith("python -m serve")
    assert float(setting("TimeoutStopSec")[0]) > needed_to_stop(Settings().drain_delay_s)
    assert setting("DynamicUser") == ["yes"]


def test_the_unit_reads_the_example_of_an_environment_file(monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = setting("EnvironmentFile")
    example = (SERVE / "systemd" / "environment.example").read_text()
    assert file.removeprefix("-") in example
    lines = [line for line in example.splitlines() if line and not line.startswith("#")]
    for line in lines:
        monkeypatch.setenv(*line.split("=", 1))
    assert Settings.from_environment().registry == Path("/srv/krishi-bench/registry")
