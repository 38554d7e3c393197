"""What the machine says of itself, read from folders that look like the kernel's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from workbench.measure.host_watch import HostWatch, conditions
from workbench.measure.records import Environment
from workbench.system.machine import available_cpus

PROBE_S = 0.01
ROUND_S = 2.0


def ticking(*probes_s: float) -> Iterator[float]:
    """The times a watch reads: around its probe, then at the start and the end of each round of 2 s.

    probes_s: how long the fixed loop takes before and after each round.
    """
    now = 100.0
    for before, after in zip(probes_s[::2], probes_s[1::2], strict=True):
        yield now
        yield now + before
        yield now + before
        now += before + ROUND_S
        yield now
        yield now
        now += after
        yield now


def write(proc: Path, *, steal: int = 0, ticks: int = 0, waited_us: int = 0) -> None:
    """The kernel's counters: user time is what is left of `ticks`."""
    (proc / "pressure").mkdir(parents=True, exist_ok=True)
    (proc / "stat").write_text(
        f"cpu  {1000 + ticks - steal} 0 0 0 0 0 0 {steal} 77 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
    )
    (proc / "pressure" / "cpu").write_text(
        f"some avg10=0.00 avg60=0.00 avg300=0.00 total={waited_us}\nfull avg10=0.00 total=999999999\n"
    )


def watched(proc: Path, probes_s: tuple[float, float] = (PROBE_S, PROBE_S), **after: int) -> Environment:
    """One round over which the counters grow to these."""
    write(proc)
    clock = ticking(*probes_s)
    watch = HostWatch(available_cpus()[-1:], proc=proc, clock=lambda: next(clock))
    watch.begin()
    write(proc, **after)
    return watch.end()


def test_a_quiet_round_is_not_disturbed(tmp_path: Path) -> None:
    got = watched(tmp_path, ticks=400, steal=4, waited_us=200_000)
    assert got.seconds == pytest.approx(ROUND_S)
    assert got.steal == pytest.approx(0.01)
    assert got.pressure == pytest.approx(0.1)
    assert got.spin_s == pytest.approx(PROBE_S)
    assert got.disturbed is None


@pytest.mark.parametrize(
    ("after", "why"),
    [
        ({"ticks": 400, "steal": 40}, "the hypervisor took 10 % of the processors"),
        ({"ticks": 400, "waited_us": 900_000}, "processes waited for a processor 45 % of the time"),
        (
            {"ticks": 400, "steal": 40, "waited_us": 900_000},
            "the hypervisor took 10 % of the processors; processes waited for a processor 45 % of the time",
        ),
    ],
)
def test_a_disturbed_round_says_by_what(tmp_path: Path, after: dict[str, int], why: str) -> None:
    assert watched(tmp_path, **after).disturbed == why


@pytest.mark.parametrize("probes_s", [(PROBE_S, 5 * PROBE_S), (5 * PROBE_S, PROBE_S)])
def test_a_loop_that_takes_four_times_its_shortest_time_disturbs_a_round(
    tmp_path: Path, probes_s: tuple[float, float]
) -> None:
    """A neighbour that slows all down by less cancels."""
    write(tmp_path)
    clock = ticking(3.9 * PROBE_S, PROBE_S, *probes_s, PROBE_S, 3.9 * PROBE_S)
    watch = HostWatch(available_cpus(), proc=tmp_path, clock=lambda: next(clock))
    rounds = []
    for _ in range(3):
        watch.begin()
        rounds.append(watch.end())
    assert [found.disturbed for found in rounds] == [
        None,
        "a fixed loop took 5.00 times its shortest time",
        None,
    ]
    assert rounds[1].spin_s == pytest.approx(5 * PROBE_S)


def test_the_first_round_may_be_disturbed(tmp_path: Path) -> None:
    assert (
        watched(tmp_path, (PROBE_S, 6 * PROBE_S)).disturbed
        == "a fixed loop took 6.00 times its shortest time"
    )


def test_what_this_system_does_not_count_is_unknown_and_disturbs_nothing(tmp_path: Path) -> None:
    watch = HostWatch(available_cpus(), proc=tmp_path / "none")
    watch.begin()
    got = watch.end()
    assert (got.steal, got.pressure) == (None, None)
    assert got.spin_s > 0
    assert got.seconds > 0


def test_a_kernel_without_steal_time_has_none(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 0 0 0\n")
    watch = HostWatch(available_cpus(), proc=tmp_path)
    watch.begin()
    assert watch.end().steal is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_watching_leaves_this_process_on_the_processors_it_had(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    watched(tmp_path)
    assert os.sched_getaffinity(0) == before


def test_conditions_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    got = conditions(sys=tmp_path)
    assert (got.governor, got.turbo, got.quota) == ("unknown", "unknown", None)
    assert got.affinity == available_cpus()


@pytest.mark.parametrize(
    ("file", "text", "turbo"),
    [
        ("cpufreq/boost", "1\n", "on"),
        ("cpufreq/boost", "0\n", "off"),
        ("intel_pstate/no_turbo", "0\n", "on"),
        ("intel_pstate/no_turbo", "1\n", "off"),
        ("intel_pstate/no_turbo", "?\n", "unknown"),
    ],
)
def test_turbo_and_governor_are_read_from_the_files_of_either_driver(
    tmp_path: Path, file: str, text: str, turbo: str
) -> None:
    path = tmp_path / "devices" / "system" / "cpu" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (path.parent.parent / "cpu0" / "cpufreq").mkdir(parents=True)
    (path.parent.parent / "cpu0" / "cpufreq" / "scaling_governor").write_text("powersave\n")
    got = conditions(sys=tmp_path)
    assert (got.turbo, got.governor) == (turbo, "powersave")


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000\n", 0.5), ("", None)]
)
def test_a_containers_quota_is_in_processors(tmp_path: Path, text: str, quota: float | None) -> None:
    folder = tmp_path / "fs" / "cgroup"
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text(text)
    assert conditions(sys=tmp_path).quota == quota
