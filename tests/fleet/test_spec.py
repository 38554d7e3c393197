"""`fleet.yaml`, read and refused."""

from pathlib import Path

import pytest

from tests.builders import error_of
from workbench.fleet.reach import worker_command
from workbench.fleet.spec import SETUP_PYTHON, load_fleet

FLEET = """
devices:
  here: {class: dev, local: true}
  pi5-a: {class: pi5, ssh: pi@10.0.0.21}
  pi5-b: {class: pi5, ssh: "ssh://pi@10.0.0.22:2222", python: ~/own env/bin/python, cache: /mnt/big disk}
"""


def write(folder: Path, text: str) -> Path:
    (folder / "fleet.yaml").write_text(text)
    return folder


def test_devices_have_classes_and_one_way_to_be_reached(tmp_path: Path) -> None:
    fleet = load_fleet(write(tmp_path, FLEET))
    assert {name: device.reach for name, device in fleet.devices.items()} == {
        "here": "local",
        "pi5-a": "ssh",
        "pi5-b": "ssh",
    }
    assert fleet.classes == ["dev", "pi5"]
    assert list(fleet.of_classes(["pi5"]).devices) == ["pi5-a", "pi5-b"]
    assert fleet.devices["pi5-a"].interpreter() == SETUP_PYTHON


def test_paths_with_blanks_reach_the_shell_of_a_device_whole(tmp_path: Path) -> None:
    command = worker_command(load_fleet(write(tmp_path, FLEET)).devices["pi5-b"])
    assert command.startswith("KRISHI_CACHE='/mnt/big disk' exec \"$HOME\"/'own env/bin/python' -P -m ")


def test_builders_are_kept_whatever_class_is_asked_for(tmp_path: Path) -> None:
    text = (
        "devices: {big: {class: x86, ssh: big, role: build}, both: {class: x86, ssh: both, role: both}, "
        "pi: {class: pi5, ssh: pi}}"
    )
    fleet = load_fleet(write(tmp_path, text))
    assert (list(fleet.measuring), list(fleet.builders)) == (["both", "pi"], ["big", "both"])
    assert fleet.classes == ["x86", "pi5"]
    pis = fleet.of_classes(["pi5"])
    assert (list(pis.measuring), list(pis.builders)) == (["pi"], ["big", "both"])
    assert worker_command(fleet.devices["big"]).endswith(" -m workbench.fleet.worker --builds")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices: {a: {class: x, local: true, role: build}}", "every device only builds"),
        ("devices: {a: {class: x, local: true, role: builds}}", "devices.a.role"),
        ("devices: {a: {class: x, local: true}, a: {class: y, local: true}}", "the key is given twice"),
        ("devices: {a: {class: x}}", "it says none of them"),
        ("devices: {a: {class: x, local: true, ssh: b}}", "it says local and ssh"),
        ("devices: {a: {local: true}}", "devices.a.class: this key is required"),
        ("devices: {A_: {class: x, local: true}}", "devices"),
        ("devices: {a: {class: x, ssh: -oProxyCommand=evil}}", "devices.a.ssh"),
        ("devices: {a: {klass: x, local: true}}", "unknown key; did you mean `class`?"),
        ("devices: {}", "devices"),
    ],
)
def test_what_cannot_be_a_fleet_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    error = error_of(lambda: load_fleet(write(tmp_path, text)))
    assert said in error.message and "fleet.yaml:1" in error.message


def test_a_missing_file_is_explained_by_an_example(tmp_path: Path) -> None:
    error = error_of(lambda: load_fleet(tmp_path))
    assert "fleet.yaml does not exist" in error.message and "class: pi5" in (error.hint or "")


def test_a_class_that_no_device_has_is_refused_with_what_was_meant(tmp_path: Path) -> None:
    fleet = load_fleet(write(tmp_path, FLEET))
    error = error_of(lambda: fleet.of_classes(["pi6"]))
    assert (error.message, error.hint) == ("no device is of the class `pi6`", "did you mean `pi5`?")
    assert "did you mean `pi5-a`" in str(error_of(lambda: fleet.named(["pi5a"])).hint)
