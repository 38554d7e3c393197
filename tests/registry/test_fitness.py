"""A version published for a class of devices, its alias, and the processors that may serve it."""

from pathlib import Path

import pytest

from tests.builders import MACHINE, draft, error_of
from tests.versions import publish
from workbench.registry.fitness import check_processor
from workbench.registry.manifest import MeasuredOn, check_alias
from workbench.registry.store import Registry

PI5 = MeasuredOn(
    device_class="pi5",
    device="pi5-a",
    run_id="20260102-030405/devices/pi5-a",
    machine=MACHINE.model_copy(update={"architecture": "aarch64"}),
    libraries={},
)


def test_a_version_for_a_class_is_refused_by_another_architecture() -> None:
    manifest = draft(measured_on=(PI5,))
    check_processor(manifest, PI5.machine)
    error = error_of(lambda: check_processor(manifest, MACHINE))
    assert error.message.endswith("published for pi5 (aarch64), and this processor is x86_64")
    check_processor(draft(), MACHINE)  # a version for all machines


def test_a_class_has_an_alias_of_its_own_and_else_that_of_all(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for version, alias in (("1.0.0", "production"), ("1.0.1", "production@pi5")):
        publish(registry, version)
        registry.point("leaf", alias, version, reason="test", expected=None)
    for device_class, version in (("pi5", "1.0.1"), ("x86", "1.0.0"), (None, "1.0.0")):
        alias = registry.alias_of("leaf", "production", device_class)
        assert registry.resolve("leaf", alias).version == version
    assert registry.verify() == []


@pytest.mark.parametrize("alias", ["production@", "@pi5", "a@b@c", "Production@pi5", "a@../b"])
def test_what_is_no_alias_of_a_class_is_refused(alias: str) -> None:
    assert "is not a name for" in error_of(lambda: check_alias(alias)).message
