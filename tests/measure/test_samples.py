"""Raw samples on disk: everything can be worked out again from them."""

from pathlib import Path

import pytest

from workbench.errors import WorkbenchError
from workbench.measure import samples
from workbench.measure.latency import Measured, Sample, log_ratios, summarize

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def measured(*, batch_sizes: dict[str, int] | None = None, scale: int = 1) -> Measured:
    """Three rounds of three turns, the second of which was repeated; no two times alike."""
    made = Measured(batch_sizes or {}, unused={1})
    for number in range(3):
        for turn in range(3):
            for place, name in enumerate(("baseline", "a", "b")):
                made.samples += [
                    Sample(
                        name, number, 2 - place, turn, place, call, scale * (1000 + 97 * len(made.samples))
                    )
                    for call in range(4)
                ]
    return made


def test_what_was_saved_gives_the_same_ratios_and_the_same_summaries(tmp_path: Path) -> None:
    sessions = {"race": measured(batch_sizes={"b": 4}), "final": measured(batch_sizes={"b": 4}, scale=7)}
    samples.save(sessions, tmp_path / "latency.parquet")
    loaded = samples.load(tmp_path / "latency.parquet", {"b": 4})
    assert list(loaded) == ["race", "final"]
    for name, session in sessions.items():
        assert loaded[name].samples == session.samples
        assert loaded[name].unused == session.unused
        assert log_ratios(loaded[name], "baseline") == log_ratios(session, "baseline")
        for variant in ("baseline", "a", "b"):
            assert summarize(loaded[name], variant, "baseline", confirmed=True) == summarize(
                session, variant, "baseline", confirmed=True
            )


def test_samples_of_repeated_rounds_are_kept_and_marked(tmp_path: Path) -> None:
    samples.save({"race": measured()}, tmp_path / "latency.parquet")
    table = pq.read_table(tmp_path / "latency.parquet").to_pydict()
    assert set(table) == {
        "session", "variant", "round", "order", "turn", "place", "call", "time_ns", "heat", "used",
    }  # fmt: skip
    assert {(number, used) for number, used in zip(table["round"], table["used"], strict=True)} == {
        (0, True),
        (1, False),
        (2, True),
    }


def test_the_file_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for session in (measured(), measured(scale=2)):
        samples.save({"race": session}, tmp_path / "latency.parquet")
        assert [path.name for path in tmp_path.iterdir()] == ["latency.parquet"]
        assert samples.load(tmp_path / "latency.parquet", {})["race"].samples == session.samples


def test_a_file_from_before_there_were_heats_is_one_heat(tmp_path: Path) -> None:
    path = tmp_path / "latency.parquet"
    samples.save({"race": measured()}, path)
    pq.write_table(pq.read_table(path).drop_columns(["heat"]), path)
    assert samples.load(path, {})["race"].samples == measured().samples


def test_a_session_without_samples_is_no_session(tmp_path: Path) -> None:
    samples.save({"race": Measured()}, tmp_path / "latency.parquet")
    assert samples.load(tmp_path / "latency.parquet", {}) == {}


def test_a_run_without_samples_says_so(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="this run kept no raw samples"):
        samples.load(tmp_path / "latency.parquet", {})


def test_a_damaged_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "latency.parquet"
    samples.save({"race": measured()}, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WorkbenchError, match=r"latency\.parquet cannot be read: "):
        samples.load(path, {})
    pq.write_table(pa.table({"variant": ["a"]}), path)
    with pytest.raises(WorkbenchError, match=r"latency\.parquet cannot be read: "):
        samples.load(path, {})
