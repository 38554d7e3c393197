"""The server's settings: from its environment, from arguments, and in its docs."""

import re
from pathlib import Path

import pytest

from serve.settings import Settings, variable
from workbench.errors import WorkbenchError


def settings_with(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, text in variables.items():
        monkeypatch.setenv(f"KRISHI_{name}", text)
    return Settings.from_environment()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings_with(monkeypatch, REGISTRY="/models", MODEL="leaf", ALIAS="canary", DRAIN_DELAY="2.5")
    assert (read.registry, read.model, read.alias) == (Path("/models"), "leaf", "canary")
    assert read.drain_delay_s == 2.5


def test_what_is_given_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRISHI_PIN", "1.2.0")
    monkeypatch.setenv("KRISHI_WORKERS", "2")
    given = Settings.from_environment(pin=None, queue_budget_s=3)
    assert (given.pin, given.workers, given.queue_budget_s) == (None, 2, 3.0)


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    default = Settings()
    for field in Settings.model_fields:
        monkeypatch.setenv(variable(field), "")
    assert Settings.from_environment() == default


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("PIN", "latest", "`latest` is not a version"),
        ("SHADOW", "x", "`x` is not a version"),
        ("CANARY", "1", "`1` is not a version"),
        ("ALIAS", "../x", "`../x` is not a name for an alias"),
        ("MODEL", "A B", "`A B` is not a name for a model"),
        ("WORKERS", "999", "less than or equal to 64"),
        ("WORKERS", "0", "greater than or equal to 1"),
        ("WATCH", "0", "greater than or equal to 0.01"),
        ("SAMPLE", "1.1", "less than or equal to 1"),
        ("DRAIN_DELAY", "soon", "valid number"),
        ("DRAIN_DELAY", "-1", "greater than or equal to 0"),
        ("DRAIN_DELAY", "nan", "finite number"),
        ("DRAIN_DELAY", "inf", "finite number"),
        ("KEEP_ALIVE", "-1", "greater than or equal to 0"),
        ("CORS_ORIGINS", "farm.example", "`farm.example` is not an origin as browsers send it"),
        ("ROOT_PATH", "/v2", "`/v2` begins like a path of the server itself"),
        ("PORT", "http", "valid integer"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("PORT", "-1", "greater than or equal to 0"),
        ("PORT", "\u0663", "valid integer"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_variable_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, reason: str
) -> None:
    with pytest.raises(WorkbenchError) as refused:
        settings_with(monkeypatch, **{name: text})
    assert refused.value.message.startswith(f"KRISHI_{name}={text!r}: ")
    assert re.search(reason, refused.value.message)
    field = next(field for field in Settings.model_fields if variable(field) == f"KRISHI_{name}")
    assert (refused.value.hint or "").startswith(Settings.model_fields[field].description or "-")


def test_spaces_around_the_key_are_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_with(monkeypatch, API_KEY=" our own key\n").api_key == "our own key"
    assert "our own key" not in repr(Settings())


@pytest.mark.parametrize("key", ["          ", "short", "x" * 257, "pässwörter"])
def test_a_key_that_could_not_be_sent_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    # An empty one would also look like protection and open the server.
    with pytest.raises(WorkbenchError, match=r"KRISHI_API_KEY: .*8 to 256 printable ASCII") as refused:
        settings_with(monkeypatch, API_KEY=key)
    assert key not in f"{refused.value.message} {refused.value.hint}"


def test_the_key_is_read_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("the key of the farm\n")
    assert settings_with(monkeypatch, API_KEY_FILE=str(file)).api_key == "the key of the farm"
    file.write_text("short")
    with pytest.raises(WorkbenchError, match="8 to 256 printable ASCII"):
        Settings.from_environment()
    file.unlink()
    with pytest.raises(WorkbenchError, match=r"KRISHI_API_KEY_FILE: .* cannot be read"):
        Settings.from_environment()
    with pytest.raises(WorkbenchError, match="KRISHI_API_KEY and KRISHI_API_KEY_FILE are both set"):
        settings_with(monkeypatch, API_KEY="the key of the farm")


def test_every_setting_is_described() -> None:
    # docs/serving.md shows the descriptions (tests/e2e/test_field_tables.py).
    assert all(described.description for described in Settings.model_fields.values())
