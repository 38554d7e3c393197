"""`fleet up` on a device whose Python or Ray is another: refused with both, before anything is sent."""

import platform
from pathlib import Path

import pytest

from workbench.fleet.openssh import SSH_VARIABLE
from workbench.fleet.ray_cluster import _start_raylet
from workbench.fleet.spec import DeviceSettings

HERE = platform.python_version()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("3.9.1 2.60.0", "it has Python 3.9.1 and Ray 2.60.0, this machine Python"),
        (f"{HERE} 2.1.0", f"it has Python {HERE} and Ray 2.1.0, this machine Python {HERE} and Ray"),
        (f"{HERE} none", f"it has Python {HERE} and Ray none"),
    ],
)
def test_a_device_with_another_python_or_ray_is_refused_with_both_versions(
    answer: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = {"ssh": 'for command; do :; done\nexec sh -c "$command"', "python": f"echo {answer}"}
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv(SSH_VARIABLE, str(tmp_path / "ssh"))
    given = {"class": "pi5", "ray": "pi@board", "python": str(tmp_path / "python")}
    told = _start_raylet("pi5-a", DeviceSettings.model_validate(given), "10.0.0.1:6389", tmp_path)
    assert told.startswith(f"was not started: {said}")
    assert "or reach it by `ssh`" in told
