"""What the measuring engine adds to what it measures, on a model of about a millisecond."""

import math
import statistics
import sys
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

sys.path.insert(0, str(Path(__file__).parent))
import aa

from workbench.backends.ort import backend as ort
from workbench.measure.latency import BURST_NS
from workbench.measure.worker import Worker

PAIRS = 200


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> aa.Bench:
    return aa.prepare(tmp_path_factory.mktemp("bench"))


def test_time_not_spent_inside_a_warm_session(benchmark: BenchmarkFixture, bench: aa.Bench) -> None:
    def share() -> float:
        with bench.launch(aa.A) as worker:
            worker.ready()
            calls = math.ceil(BURST_NS / worker.warm_up().typical_ns)
            started, inside = time.perf_counter_ns(), 0
            for _ in range(PAIRS):
                inside += sum(worker.burst(1 + calls))
            return 1 - inside / (time.perf_counter_ns() - started)

    outside = benchmark.pedantic(share, rounds=1)
    print(f"\nnot spent inside sessions: {100 * outside:.2f} % (target: at most 5 %)")


def test_a_workers_reading_against_a_bare_loop(benchmark: BenchmarkFixture, bench: aa.Bench) -> None:
    """The same file in this process, called in turn with the worker's, on the same processor."""

    def ratio() -> float:
        import os

        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, bench.cpus)
        try:
            with bench.launch(aa.A) as worker, ort.session(bench.artifacts[aa.A], aa.OrtRuntime()) as session:
                worker.ready()
                worker.warm_up()
                photo = next(bench.images.rows([0]))
                return statistics.median(_pair(worker, session.infer, photo) for _ in range(PAIRS))
        finally:
            os.sched_setaffinity(0, allowed)

    found = benchmark.pedantic(ratio, rounds=1)
    print(f"\nworker's reading over a bare loop's: {found:.4f} (target: within 2 % of 1)")


def _pair(worker: Worker, infer: aa.Callable[..., object], photo: object) -> float:
    (_, *theirs) = worker.burst(6)
    infer(photo)
    ours = [aa.timed(lambda: infer(photo)) for _ in range(5)]
    return statistics.median(theirs) / statistics.median(ours)
