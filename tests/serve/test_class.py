"""A server of a class of devices: which alias it follows."""

from pathlib import Path

import pytest

from serve.settings import Settings
from tests.serving import publish, ready, wait_for

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("device_class", "version"), [("pi5", "1.0.1"), ("x86", "1.0.0")])
def test_a_server_follows_its_class_and_else_the_alias_of_all(
    tmp_path: Path, device_class: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path)
    publish(tmp_path, version="1.0.1", seed=8, alias="production@pi5")
    monkeypatch.setenv("KRISHI_CLASS", device_class)
    with ready(Settings.from_environment(registry=tmp_path)) as server:
        assert server.client.get("/readyz").json()["version"] == version


def test_a_class_that_gets_an_alias_of_its_own_is_followed_at_once(tmp_path: Path) -> None:
    publish(tmp_path)
    settings = Settings.from_environment(registry=tmp_path, device_class="pi5", watch_s=0.05)
    with ready(settings) as server:
        assert server.client.get("/readyz").json()["version"] == "1.0.0"
        publish(tmp_path, version="1.0.1", seed=8, alias="production@pi5")
        wait_for(lambda: server.client.get("/readyz").json()["version"] == "1.0.1")
