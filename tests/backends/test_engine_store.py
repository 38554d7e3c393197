"""Engines are kept for this user and this machine alone; what does not fit is built again, never opened."""

import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the networks are ONNX files")
pytest.importorskip("onnxruntime", reason="the pretended engine computes through it")

from tests.nvidia.fake_world import World
from tests.nvidia.machine import GPU, SIDE, network, pretend
from workbench.backends import RUNTIME, TensorrtRuntime
from workbench.backends.artifact import Artifact
from workbench.backends.base import Engine
from workbench.backends.gpu import engine_store
from workbench.backends.tensorrt import backend
from workbench.errors import WorkbenchError
from workbench.system import nvidia

BINDING = "NVIDIA Test GPU (compute capability 9.0), driver 580.65.06 for CUDA 13.0, TensorRT 11.4.0.106"
PHOTO = np.ones((1, 3, SIDE, SIDE), np.float32)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return pretend(monkeypatch, "tensorrt-11.4", tmp_path)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return network(tmp_path / "model")


def engine_of(artifact: Artifact, **fields: Any) -> Engine:
    runtime = RUNTIME.validate_python({"backend": "tensorrt", "device": "cuda", **fields})
    with backend.session(artifact, runtime) as session:
        session.infer(PHOTO)
        assert session.engine is not None
        return session.engine


def place(tmp_path: Path) -> Path:
    """The folder of the one engine that is kept."""
    (found,) = (tmp_path / "cache" / "engines").glob("*/engine.plan")
    return found.parent


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def test_the_second_start_finds_what_the_first_has_built(
    world: World, artifact: Artifact, tmp_path: Path
) -> None:
    first, second = engine_of(artifact), engine_of(artifact)
    assert len(world.built) == 1
    assert first.build_s is not None
    assert second.build_s is None
    assert (
        (first.bound_to, first.size_bytes)
        == (second.bound_to, second.size_bytes)
        == (BINDING, first.size_bytes)
    )
    kept = place(tmp_path)
    assert first.size_bytes == (kept / "engine.plan").stat().st_size
    assert stat.S_IMODE(kept.stat().st_mode) == stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    for name in ("engine.plan", "engine.json"):
        assert stat.S_IMODE((kept / name).stat().st_mode) == 0o600
    assert not list(kept.glob(".*"))


def test_preparing_builds_so_that_opening_only_reads(world: World, artifact: Artifact) -> None:
    runtime = TensorrtRuntime(device="cuda")
    backend.prepare(artifact, runtime)
    assert (len(world.built), world.deserialized) == (1, 0)
    backend.prepare(artifact, runtime)
    assert engine_of(artifact).build_s is None
    assert (len(world.built), world.deserialized) == (1, 1)


def other_gpu(monkeypatch: pytest.MonkeyPatch, world: World, tmp_path: Path) -> None:
    monkeypatch.setattr(nvidia, "gpu", lambda: nvidia.Gpu("NVIDIA Other GPU", GPU.capability, GPU.cuda))


def other_capability(monkeypatch: pytest.MonkeyPatch, world: World, tmp_path: Path) -> None:
    monkeypatch.setattr(nvidia, "gpu", lambda: nvidia.Gpu(GPU.name, "8.9", GPU.cuda))


def other_driver(monkeypatch: pytest.MonkeyPatch, world: World, tmp_path: Path) -> None:
    (tmp_path / "driver").write_text("581.00\n")


def other_tensorrt(monkeypatch: pytest.MonkeyPatch, world: World, tmp_path: Path) -> None:
    import tensorrt

    monkeypatch.setattr(tensorrt, "__version__", "11.4.1.7")


@pytest.mark.parametrize("change", [other_gpu, other_capability, other_driver, other_tensorrt])
def test_an_engine_of_another_machine_is_not_opened(
    world: World,
    artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: Callable[[pytest.MonkeyPatch, World, Path], None],
) -> None:
    backend.prepare(artifact, TensorrtRuntime(device="cuda"))
    first = (place(tmp_path) / "engine.plan").read_bytes()
    change(monkeypatch, world, tmp_path)
    forbid(first, monkeypatch)
    assert engine_of(artifact).build_s is not None
    assert len(world.built) == 2


def forbid(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make opening `data` a failure. No two engines are built alike."""
    from tests.nvidia import fake_engine

    real = fake_engine.Runtime.deserialize_cuda_engine

    def deserialize(self: Any, serialized: bytes) -> Any:
        assert serialized != data, "an engine that does not fit was opened"
        return real(self, serialized)

    monkeypatch.setattr(fake_engine.Runtime, "deserialize_cuda_engine", deserialize)


def spoil_bytes(kept: Path) -> None:
    with (kept / "engine.plan").open("ab") as file:
        file.write(b"more")


def spoil_both(kept: Path) -> None:
    spoil_bytes(kept)
    rewrite(kept / "engine.json", lambda held: held.update(bound_to="elsewhere"))


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_bytes,
        spoil_both,
        lambda kept: (kept / "engine.plan").chmod(0o644),
        lambda kept: (kept / "engine.plan").chmod(0o620),
        lambda kept: (kept / "engine.json").chmod(0o666),
        lambda kept: (kept / "engine.json").unlink(),
        lambda kept: (kept / "engine.json").write_text("{"),
        lambda kept: rewrite(kept / "engine.json", lambda held: held.update(bound_to="elsewhere")),
        lambda kept: rewrite(kept / "engine.json", lambda held: held.update(sha256="0" * 64)),
        lambda kept: rewrite(kept / "engine.json", lambda held: held.update(trusted=True)),
        lambda kept: ((kept / "engine.plan").rename(kept / "x"), (kept / "engine.plan").symlink_to("x")),
    ],
)
def test_an_engine_that_was_touched_is_built_again_and_never_opened(
    world: World,
    artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], object],
) -> None:
    backend.prepare(artifact, TensorrtRuntime(device="cuda"))
    spoil(place(tmp_path))
    found = (place(tmp_path) / "engine.plan").read_bytes()
    forbid(found, monkeypatch)
    assert engine_of(artifact).build_s is not None
    assert len(world.built) == 2
    assert engine_of(artifact).build_s is None


def test_an_engine_of_another_user_is_not_opened(
    world: World, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file to another user takes root")
    backend.prepare(artifact, TensorrtRuntime(device="cuda"))
    os.chown(place(tmp_path) / "engine.plan", 65534, 65534)
    forbid((place(tmp_path) / "engine.plan").read_bytes(), monkeypatch)
    assert engine_of(artifact).build_s is not None
    os.chown(place(tmp_path), 65534, 65534)
    with pytest.raises(WorkbenchError, match=r"belongs to another user \(id 65534\): an engine is code"):
        engine_of(artifact)


def test_an_engine_of_this_user_that_tensorrt_refuses_is_built_again(
    world: World, artifact: Artifact, tmp_path: Path
) -> None:
    backend.prepare(artifact, TensorrtRuntime(device="cuda"))
    engine_store.keep(place(tmp_path), b"not an engine any more", binding=BINDING, build_s=1.0)
    assert engine_of(artifact).build_s is not None
    assert (len(world.built), world.deserialized) == (2, 2)


def test_a_good_engine_is_not_built_again_because_the_gpu_is_full(
    world: World, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.nvidia import fake_engine

    def full(self: Any, serialized: bytes) -> None:
        error = world.enums["ILogger.Severity"]["ERROR"]
        self._logger.log(
            error, "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"
        )

    backend.prepare(artifact, TensorrtRuntime(device="cuda"))
    with monkeypatch.context() as patched:
        patched.setattr(fake_engine.Runtime, "deserialize_cuda_engine", full)
        with pytest.raises(WorkbenchError, match="out of memory") as caught:
            engine_of(artifact)
    assert "the GPU's memory is full" in (caught.value.hint or "")
    assert len(world.built) == 1
    assert engine_of(artifact).build_s is None


def test_what_decides_an_engine_decides_where_it_is_kept(
    world: World, artifact: Artifact, tmp_path: Path
) -> None:
    other = network(tmp_path / "other", batch=2)
    for fields in ({}, {"max_batch": 8}, {"precision": "tf32"}):
        assert engine_of(artifact, **fields).build_s is not None
    assert engine_of(other).build_s is not None
    assert engine_of(artifact, cuda_graph=True).build_s is None  # how it is called is not in the engine
    assert len(list((tmp_path / "cache" / "engines").glob("*/engine.plan"))) == 4


def test_of_two_that_start_at_once_one_builds(
    world: World, artifact: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    backend.prepare(artifact, TensorrtRuntime(device="cuda", max_batch=2))  # imports are done
    found: list[Engine] = []
    threads = [threading.Thread(target=lambda: found.append(engine_of(artifact))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(world.built) == 2
    assert sorted(engine.build_s is None for engine in found) == [False, True, True, True]


def test_a_damaged_network_is_refused_though_its_engine_is_kept(world: World, artifact: Artifact) -> None:
    engine_of(artifact)
    artifact.path.write_bytes(artifact.path.read_bytes() + b"\0")
    with pytest.raises(WorkbenchError, match="its sha256 differs"):
        engine_of(artifact)


def test_timings_help_the_next_build_where_they_fit(world: World, artifact: Artifact, tmp_path: Path) -> None:
    engine_of(artifact)
    (kept,) = (tmp_path / "cache" / "engines" / "timing").glob("*/timings")
    assert kept.read_bytes() == b"timings of this GPU"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    engine_of(artifact, max_batch=4)
    for held in (b"damaged", b"timings of another GPU"):
        kept.write_bytes(held)
        engine_of(artifact, max_batch=5 + len(held))
    kept.chmod(0o666)
    engine_of(artifact, max_batch=6)
    assert [built["timings"] for built in world.built] == ["", "timings of this GPU", "", "", ""]


@pytest.mark.parametrize("which", ["root", "folder"])
def test_a_folder_that_is_a_link_or_open_to_others_is_refused(
    world: World, artifact: Artifact, tmp_path: Path, which: str
) -> None:
    engine_of(artifact)
    folder = place(tmp_path) if which == "folder" else place(tmp_path).parent
    folder.chmod(0o755)
    with pytest.raises(WorkbenchError, match="is open to other users"):
        engine_of(artifact)
    folder.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkbenchError, match="is a link: engines are opened from a real folder"):
        engine_of(artifact)
    folder.unlink()
    folder.write_text("")
    with pytest.raises(WorkbenchError, match="is not a folder"):
        engine_of(artifact)


def test_where_nothing_can_be_kept_engines_still_run(
    world: World, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KRISHI_CACHE", "/proc/nowhere")
    assert engine_of(artifact).build_s is not None
    assert engine_of(artifact).build_s is not None
    assert "it is built at every start" in capsys.readouterr().err


def test_a_full_disk_costs_the_next_start_and_nothing_else(
    world: World, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, small_disk: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (small_disk / "filler").write_bytes(b"x" * 60_000)
    monkeypatch.setenv("KRISHI_CACHE", str(small_disk))
    assert engine_of(artifact).build_s is not None
    assert "No space left on device: the engine is not kept" in capsys.readouterr().err
    assert not list(small_disk.glob("engines/*/.*"))


def test_what_others_keep_has_a_folder_by_what_decides_it(world: World) -> None:
    binding = engine_store.bound_to("onnxruntime 1.32.0")
    assert binding.endswith("driver 580.65.06 for CUDA 13.0, onnxruntime 1.32.0")
    one, same, other = (engine_store.folder(("ort", key, binding)) for key in ("a", "a", "b"))
    assert one == same != other
    assert stat.S_IMODE(one.stat().st_mode) == 0o700


def test_the_binding_names_the_cuda_of_a_driver_that_hides_its_version(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "driver").unlink()
    assert "driver for CUDA 13.0, TensorRT 1" in engine_store.bound_to("TensorRT 1")
    monkeypatch.setattr(nvidia, "gpu", lambda: nvidia.NO_GPU)
    with pytest.raises(WorkbenchError, match="shows no GPU"):
        engine_store.bound_to("TensorRT 1")


def test_engines_are_not_kept_in_a_folder_that_another_user_can_exchange(
    world: World, artifact: Artifact, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a folder to another user takes root")
    backend.prepare(artifact, TensorrtRuntime(device="cuda"))
    os.chown(tmp_path / "cache", 65534, 65534)
    with pytest.raises(WorkbenchError, match=r"cache belongs to another user \(id 65534\)") as caught:
        engine_of(artifact)
    assert "KRISHI_CACHE" in (caught.value.hint or "")


@pytest.mark.parametrize(("precision", "here"), [("tf32", "0"), ("f32", "1"), (None, "1")])
def test_no_engine_is_kept_under_a_precision_that_the_environment_overrides(
    world: World,
    artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str | None,
    here: str,
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", here)
    with pytest.raises(WorkbenchError, match=r"TF32 is switched o(n|ff) for this whole process"):
        engine_of(artifact, precision=precision)
    assert not list(tmp_path.rglob("*.plan"))


def test_an_engine_that_nobody_opened_for_long_goes_when_another_comes(
    world: World, artifact: Artifact, tmp_path: Path
) -> None:
    engine_of(artifact)
    (old,) = (record.parent for record in tmp_path.rglob(engine_store.RECORD))
    long_ago = time.time() - engine_store.FORGET_S - 60
    os.utime(old, (long_ago, long_ago))
    engine_of(artifact)  # opened: it is in use
    engine_of(artifact, precision="tf32")
    assert old.is_dir()
    os.utime(old, (long_ago, long_ago))
    engine_of(artifact, max_batch=2)
    assert not old.exists()
    assert len(list(tmp_path.rglob(engine_store.RECORD))) == 2
    assert list((old.parent / engine_store.TIMING_FOLDER).iterdir())
