"""A registry of one small model, and a server of it, shared by the tests of a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.settings import Settings
from tests.serving import Running, publish, ready


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("serve") / "registry"
    publish(root)
    return root


@pytest.fixture(scope="module")
def server(registry: Path) -> Iterator[Running]:
    with ready(Settings(registry=registry)) as server:
        yield server
