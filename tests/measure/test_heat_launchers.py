"""A heat's sessions of one runtime are forked by one process, which no thread was started in."""

from pathlib import Path

import numpy as np
import psutil
import pytest

from workbench.backends import SETTINGS
from workbench.backends.null import NullRuntime, null_artifact
from workbench.measure.heat_launchers import HeatLaunchers
from workbench.measure.worker import Worker
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Images
from workbench.system.child import Child, one_call
from workbench.system.launcher import Launcher, available

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not available(), reason="this system cannot wait for another process's children"),
]
SIDE = 8


def nothing() -> None:
    """What the child is asked to do."""


def test_no_library_that_is_imported_before_a_fork_starts_a_thread(tmp_path: Path) -> None:
    modules = sorted({module for settings in SETTINGS.values() for module in settings.FORKABLE})
    log = tmp_path / "log.txt"
    with (
        Launcher(log=log) as launcher,
        Child(
            one_call, nothing, (), log=log, label="it", launcher=launcher, imports=["numpy", *modules]
        ) as child,
    ):
        child.ready(120)
        assert psutil.Process(launcher.pid).num_threads() == 1


@pytest.mark.parametrize("ahead", [1, 3], ids=["one at a time", "three started at once"])
def test_sessions_of_a_heat_have_one_parent_and_those_of_the_next_another(tmp_path: Path, ahead: int) -> None:
    contract = Preprocess(resize=SIDE, crop=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    np.save(tmp_path / "photos.npy", np.zeros((8, SIDE, SIDE, 3), dtype=np.uint8))
    images = Images(tmp_path / "photos.npy", (0,) * 8, contract, digest="zeros")
    artifact = null_artifact(tmp_path, (0, 3, SIDE, SIDE), classes=10)
    runtime, log = NullRuntime(), tmp_path / "log.txt"
    parents, before = [], psutil.Process().children()
    with HeatLaunchers([runtime], log, ahead=ahead) as launchers:
        for _ in range(2):
            with launchers.heat():
                for _ in range(2):
                    with Worker(artifact, runtime, images, log=log, launcher=launchers.of(runtime)) as worker:
                        worker.ready()
                        parents.append(psutil.Process(worker.pid).ppid())
            assert not psutil.pid_exists(parents[-1])
    assert parents[0] == parents[1] != parents[2] == parents[3]
    assert psutil.Process().children() == before


def test_beside_one_on_a_gpu_each_is_started_alone(tmp_path: Path) -> None:
    runtime = SETTINGS["onnxruntime"].model_validate({"backend": "onnxruntime", "device": "cuda"})
    with (
        HeatLaunchers([NullRuntime(), runtime], tmp_path / "log.txt", ahead=2) as launchers,
        launchers.heat(),
    ):
        assert launchers.of(NullRuntime()) is None


def test_several_heats_are_started_at_once_and_nothing_for_what_was_dropped(tmp_path: Path) -> None:
    before, counts = len(psutil.Process().children()), []
    dropped = SETTINGS["onnxruntime"].model_validate({"backend": "onnxruntime"})
    with HeatLaunchers([NullRuntime(), dropped], tmp_path / "log.txt", ahead=2) as launchers:
        for _ in range(3):
            with launchers.heat():
                launchers.of(NullRuntime())
                counts.append(len(psutil.Process().children()) - before)
    # Two runtimes in each of two heats; those of the second are left; two heats of one runtime.
    assert counts == [4, 2, 2]


def test_one_that_died_while_it_waited_is_started_again(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with HeatLaunchers([NullRuntime()], log, ahead=2) as launchers:
        with launchers.heat():
            used = launchers.of(NullRuntime())
            (waiting,) = {child.pid for child in psutil.Process().children()} - {used and used.pid}
            psutil.Process(waiting).kill()
        psutil.wait_procs([psutil.Process(waiting)], timeout=10)
        with (
            launchers.heat(),
            Child(one_call, nothing, (), log=log, label="it", launcher=launchers.of(NullRuntime())) as child,
        ):
            child.ready(120)
