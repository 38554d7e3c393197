"""docs/tutorial.md as somebody would follow it: each file written, each command run, in the order there. The
sample has a quarter of its photos, and the run is timed in one round."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from workbench.system.child import child_environment

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"

FEWER = "ensure_sample(calib_per_class=8, val_per_class=25)"
BRIEF = ("--rounds", "1", "--turns", "1", "--time-budget", "0.1")  # the last of two time budgets counts

pytestmark = pytest.mark.e2e


def test_every_command_of_the_tutorial_works_and_the_answer_is_the_photos_class(tmp_path: Path) -> None:
    page = PAGE.read_text()
    for name, text in re.findall(r'^```python title="([^"]+)"\n(.*?)^```', page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text.replace("ensure_sample()", FEWER))
    folder, port, answers = tmp_path, str(free_port()), []
    with ExitStack() as stack:
        for line in re.findall(r"^\$ (.+)$", page.replace("8712", port), re.MULTILINE):
            match shlex.split(line):
                case ["cd", inner]:
                    folder /= inner
                case ["python", script]:
                    run(folder, script)
                case ["curl", "-F", part, url]:
                    answers.append(post(folder / part.removeprefix("file=@"), url))
                case ["krishi-bench", *words, "&"]:
                    stack.enter_context(in_background(folder, words, f"http://127.0.0.1:{port}/readyz"))
                case ["krishi-bench", *words]:
                    run(folder, "-m", "workbench", *words, *(BRIEF if words[0] == "run" else ()))
                case other:
                    raise AssertionError(f"the test does not know how to follow {other}")
    assert [answer["class_name"] for answer in answers] == ["Potato_Healthy"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=child_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def in_background(folder: Path, words: list[str], ready: str) -> Iterator[None]:
    command = [sys.executable, "-m", "workbench", *words]
    with subprocess.Popen(command, cwd=folder, env=child_environment(), stderr=subprocess.DEVNULL) as server:
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=30) as client:
                while client.get(ready).status_code == 503:  # listening, and still opening the model
                    assert server.poll() is None
                    time.sleep(0.1)
            yield
        finally:
            server.terminate()


def post(photo: Path, url: str) -> dict[str, object]:
    answer = httpx.post(url, files={"file": (photo.name, photo.read_bytes())}, timeout=30)
    answered: dict[str, object] = answer.raise_for_status().json()
    return answered


def test_the_pages_are_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Readers' browsers fetch nothing from elsewhere.
    index = (tmp_path / "site" / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?)[^"]*)"', index)
