"""Settings of every test, and what a test cannot import: records as fixtures, a small disk."""

import io
import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from PIL import Image

from tests import builders
from workbench.results.records import RunInfo, TrialResult

# No deadline: a busy machine is not a defect. The same examples every time: a test fails for a change.
hypothesis.settings.register_profile("krishi-bench", deadline=None, derandomize=True)
hypothesis.settings.load_profile("krishi-bench")


@pytest.fixture(autouse=True)
def _server_logs_are_heard() -> None:
    """OpenVINO's reader silences the root logger, and a server started in this process its own, for good."""
    logging.getLogger("serve").setLevel(logging.INFO)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("serve") and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True


@pytest.fixture(scope="session")
def trial() -> Callable[..., TrialResult]:
    return builders.trial


@pytest.fixture(scope="session")
def absent_trial() -> Callable[..., TrialResult]:
    return builders.absent_trial


@pytest.fixture(scope="session")
def run_info() -> Callable[..., RunInfo]:
    return builders.run_info


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """A picture's bytes in a format of Pillow's."""

    def encode(image: Image.Image, form: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", path], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small disk did not work: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)
