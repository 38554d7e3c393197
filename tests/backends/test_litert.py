"""LiteRT with files of a few kilobytes: answers, threads, INT8 ends, the audit, and what is no such file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests import edge
from tests.builders import error_of
from workbench.backends import LitertRuntime
from workbench.backends.artifact import Artifact
from workbench.backends.litert import backend
from workbench.backends.litert.interpreter import End, Interpreter, stored

pytest.importorskip("ai_edge_litert", reason="it opens the files")

RUNTIME = LitertRuntime(threads=1)
FILES: list[edge.File] = ["float", "int8", "int8-ends"]


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return edge.artifact(tmp_path)


def answers(artifact: Artifact, runtime: LitertRuntime = RUNTIME) -> NDArray[np.float32]:
    with backend.session(artifact, runtime) as session:
        return session.infer(edge.PHOTOS)


def test_a_float_file_gives_the_logits_of_torch(artifact: Artifact) -> None:
    np.testing.assert_allclose(answers(artifact), edge.logits(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_read_back(name: edge.File, tmp_path: Path) -> None:
    info = edge.artifact(tmp_path, name).info
    assert (info.format, info.input_shape, info.classes) == ("tflite", (1, 3, edge.SIDE, edge.SIDE), 5)
    assert info.precision == ("fp32" if name == "float" else "int8")


@pytest.mark.parametrize("name", ["int8", "int8-ends"])
def test_int8_is_close_with_ends_in_float_and_in_int8(name: edge.File, tmp_path: Path) -> None:
    got, expected = answers(edge.artifact(tmp_path, name)), edge.logits()
    assert got.dtype == np.float32
    assert (got.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert np.abs(got - expected).max() < 0.15 * np.ptp(expected)
    given = Interpreter((tmp_path / "model.tflite").read_bytes(), "it", threads=1).taken
    assert given.dtype == ("int8" if name == "int8-ends" else "float32")


def test_values_are_rounded_and_cut_at_the_limits_of_the_end() -> None:
    end = End(0, (1,), "int8", scale=0.5, zero=3)
    given = np.array([0.0, 0.26, -0.26, 1000.0, -1000.0], np.float32)
    assert stored(given, end).tolist() == [3, 4, 2, 127, -128]


def test_several_threads_may_call_at_once(artifact: Artifact) -> None:
    with backend.session(artifact, RUNTIME) as session, ThreadPoolExecutor(4) as pool:
        rows = [edge.PHOTOS[row : row + 1] for row in range(4)] * 8
        got = np.concatenate(list(pool.map(session.infer, rows)))
    np.testing.assert_allclose(got, np.tile(edge.logits(), (8, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_is_read_back(artifact: Artifact, threads: int) -> None:
    with backend.session(artifact, LitertRuntime(threads=threads)) as session:
        assert (session.threads, session.device, session.provider) == (threads, "cpu", "XNNPACK")
        assert session.version


def test_the_audit_counts_what_the_delegate_took(artifact: Artifact, tmp_path: Path) -> None:
    audit = backend.audit(artifact, RUNTIME, edge.PHOTOS[:1])
    assert audit.delegation is not None
    assert audit.macs == audit.delegation.macs == 8 * 8 * 8 * (27 + 9) + 8 * 8 * 16 * 8 + 16 * 5
    assert (audit.delegation.whole, audit.computes, audit.runtime_bytes) != (False, "fp32", None)
    assert audit.verdict.startswith("fp32 for all multiplications; XNNPACK runs")
    (tmp_path / "int8").mkdir()
    cut = backend.audit(edge.artifact(tmp_path / "int8", "int8"), RUNTIME, edge.PHOTOS[:1])
    assert cut.computes == "int8"
    assert cut.delegation is not None
    assert cut.delegation.outside == {"HARD_SWISH": 2}
    assert cut.delegation.partitions == 3


def test_a_network_in_pieces_fails_where_one_piece_is_required(tmp_path: Path) -> None:
    required = LitertRuntime(threads=1, full_delegation="required")
    cut = edge.artifact(tmp_path, "int8")
    message = error_of(lambda: backend.audit(cut, required, edge.PHOTOS[:1])).message
    assert "in 3 partitions; outside: HARD_SWISH (2)" in message


def test_another_size_of_photo_is_refused_with_both_shapes(artifact: Artifact) -> None:
    with backend.session(artifact, RUNTIME) as session:
        large = np.zeros((1, 3, 32, 32), np.float32)
        assert "(1, 16, 16, 3)" in error_of(lambda: session.infer(large)).message


@pytest.mark.parametrize("data", [b"TFL9" * 64, b"", b"\x1c\0\0\0TFL3" + b"\xff" * 64])
def test_a_file_with_a_wrong_schema_is_refused(data: bytes) -> None:
    error = error_of(lambda: Interpreter(data, "leaf.tflite", threads=1))
    assert error.message.startswith("LiteRT cannot open leaf.tflite: ")
    assert error.hint
