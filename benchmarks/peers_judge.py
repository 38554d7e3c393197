"""The same judge for all: accuracy on the same photos, and speed in the same session."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peers_arena import FP32, OURS, Arena, Entry, say
from peers_table import Row, fastest_within

from workbench.errors import WorkbenchError
from workbench.measure.accuracy import accuracy
from workbench.measure.host_watch import HostWatch
from workbench.measure.latency import Lineup, Measured, Plan, log_ratios, measure, summarize
from workbench.measure.stats import Ratio
from workbench.measure.worker import Worker
from workbench.report.verdict import ENDS
from workbench.system import machine
from workbench.system.child import ChildError
from workbench.system.files import exclusive
from workbench.system.progress import silent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TWIN = f"{FP32} (again)"
DUEL_SHARE = 0.4  # of the timing budget


def evaluate(arena: Arena) -> None:
    """Top-1 on all photos, losses and gains against the baseline on those that certify."""
    labels = arena.prepared.job.photos.labels
    certifying = list(arena.parts.certification or arena.parts.selection)
    reference: NDArray[np.float32] | None = None
    for name, entry in list(arena.entries.items()):
        say(f"  evaluating {name} …")
        row = Row(name=name, maker=entry.maker, runs_on=entry.runs_on, make_s=entry.make_s,
                  size_bytes=entry.artifact.info.total_bytes)  # fmt: skip
        arena.rows[name] = row
        try:
            logits = answers(entry, arena.folder / "workers.txt")
        except ChildError as error:
            if name == FP32:
                raise
            arena.fail(name, entry.maker, error)
            continue
        reference = logits if reference is None else reference
        whole = accuracy(logits, reference, labels)
        part = accuracy(logits[certifying], reference[certifying], [labels[photo] for photo in certifying])
        counts = {"losses": part.losses, "gains": part.gains, "certifying": part.images}
        arena.rows[name] = row.model_copy(update={"top1": whole.top1, **counts})


def answers(entry: Entry, log: Path) -> "NDArray[np.float32]":
    with Worker(entry.artifact, entry.runtime, entry.images, log=log) as worker:
        worker.ready()
        logits: NDArray[np.float32] = worker.evaluate(lambda *_: None)
        return logits


def timed(arena: Arena, budget_s: float) -> tuple[Measured, Measured, str]:
    """Everybody in one session; then, in fresh rounds, ours and the best of the others. Fills the rows."""
    lock = arena.prepared.job.cache / "timing.lock"
    with exclusive(lock, lambda: say("  waiting for another run on this machine to finish timing")):
        race = session(arena, list(arena.entries), Plan(budget_s=budget_s * (1 - DUEL_SHARE)))
        note_speeds(arena, race, confirmed=False)
        against = fastest_within(list(arena.rows.values()), arena.max_drop).name
        names = [name for name in dict.fromkeys((FP32, against, OURS)) if name in arena.entries]
        duel = session(arena, names, Plan(budget_s=budget_s * DUEL_SHARE, seed=1))
        note_speeds(arena, duel, confirmed=True)
    return race, duel, against


def session(arena: Arena, names: Sequence[str], plan: Plan) -> Measured:
    entries = {name: arena.entries[name] for name in names}
    entries[TWIN] = entries[FP32]
    cpus = machine.available_cpus()[-max(entry.runtime.intra_threads for entry in entries.values()) :]

    def launch(name: str) -> Worker:
        entry = entries[name]
        return Worker(
            entry.artifact, entry.runtime, entry.images, log=arena.folder / "workers.txt", cpus=cpus
        )

    batch_sizes = {name: e.runtime.batch for name, e in entries.items() if e.runtime.batch > 1}
    lineup = Lineup(list(entries), FP32, TWIN, batch_sizes=batch_sizes)
    measured = measure(lineup, launch, plan, watch=HostWatch(cpus), report=silent)
    ended = measured.ended and ENDS[measured.ended]
    say(f"  timed {len(names)} artifacts in {measured.rounds} rounds: {ended}")
    if (reason := measured.failed.get(FP32)) is not None:
        raise WorkbenchError(f"the FP32 baseline failed while it was timed: {reason}")
    return measured


def note_speeds(arena: Arena, measured: Measured, *, confirmed: bool) -> None:
    for name, reason in measured.failed.items():
        if name in arena.entries:
            arena.fail(name, arena.entries[name].maker, WorkbenchError(f"while timing: {reason}"))
    for name in arena.entries:
        if (latency := summarize(measured, name, FP32, confirmed=confirmed)) is not None:
            update = {
                "p50_ns": latency.p50_ns / latency.batch_size,
                "round_log_ratios": latency.round_log_ratios,
                "confirmed": confirmed,
            }
            arena.rows[name] = arena.rows[name].model_copy(update=update)


def noise_floor(*sessions: Measured) -> float | None:
    bounds = [Ratio(tuple(log_ratios(one, FP32).get(TWIN, {}).values())).log_interval for one in sessions]
    known = [math.expm1(max(abs(low), abs(high))) for low, high in filter(None, bounds)]
    return max(known, default=None)
