"""Side by side with other tools: the same ONNX file, photos, machine and measuring engine.

    python benchmarks/peers.py --workspaces DIR... --minutes 10 --peer-env VENV --out docs/measured-peers.md

For each workspace, other tools quantise its FP32 ONNX file with its calibration photos (see
`peer_quantisers.py`; Olive and optimum-onnx in an environment of their own), and `krishi-bench tune` has its
minutes. Then one session judges everybody: top-1 and the paired drop on the validation photos, certified on
the photos that choose nothing, and the speed against FP32 onnxruntime. Ours and the fastest of the others
that meets the budget are then timed once more in fresh rounds.

A tool that fails is a row with the reason. Each model's results are kept in the JSON file beside the table as
soon as they are there; a model that is in it already is not measured again without --again.
"""

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from peers_arena import FP32, OURS, Arena, calibration_file, opened, say
from peers_judge import evaluate, noise_floor, timed
from peers_makers import PEERS, from_peer, from_us, peer_libraries, search
from peers_table import Model, Results, Row, markdown, verdict
from pydantic import ValidationError

from workbench.errors import WorkbenchError
from workbench.measure.latency import Measured, log_ratios
from workbench.report.verdict import none_held_out
from workbench.system import machine
from workbench.system.files import write_atomic
from workbench.system.packages import versions
from workbench.workspace.workspace import load

LIBRARIES = ("onnxruntime", "openvino", "nncf", "torch", "onnx")


def main() -> None:
    options = arguments()
    kept = options.out.with_suffix(".json")
    found = read(kept, f"python benchmarks/peers.py --workspaces … --minutes {options.minutes:g}")
    for folder in options.workspaces:
        name = load(folder / "krishi.yaml").name
        if not options.again and any(model.name == name for model in found.models):
            say(f"{name}: kept from before; --again measures it again")
            continue
        say(f"{name}:")
        try:
            model = compared(folder, options)
        except WorkbenchError as error:
            say(f"{name}: {error.message}" + (f"\n  hint: {error.hint}" if error.hint else ""))
            continue
        say(f"{name}: {verdict(model)}")
        found = found.with_model(model)
        write_atomic(kept, found.model_dump_json(indent=1).encode() + b"\n")
        write_atomic(options.out, markdown(found).encode())
    print(markdown(found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="side by side with other tools")
    parser.add_argument("--workspaces", type=Path, nargs="+", required=True, help="folders of krishi.yaml")
    parser.add_argument("--minutes", type=float, default=10.0, help="that tune may take per model")
    parser.add_argument("--out", type=Path, required=True, help="Markdown; the JSON lands beside it")
    parser.add_argument("--work", type=Path, default=Path("peers-work"), help="artifacts and logs")
    parser.add_argument("--peer-env", type=Path, help="virtual environment with olive-ai and optimum-onnx")
    parser.add_argument("--only", nargs="+", choices=[peer.quantiser for peer in PEERS], help="these peers")
    parser.add_argument(
        "--ours",
        choices=("tune", "run", "latest"),
        default="tune",
        help="run: the shipped recipes instead; latest: the run that is there already",
    )
    parser.add_argument("--timing-budget", type=float, default=400.0, help="seconds per model")
    parser.add_argument("--peer-timeout", type=float, default=1800.0, help="seconds per quantiser")
    parser.add_argument("--again", action="store_true", help="measure models that are in the JSON already")
    return parser.parse_args()


def read(path: Path, command: str) -> Results:
    """What is there of an earlier call. Raises SystemExit where it is of another version of this file."""
    if not path.exists():
        return Results(command=command)
    try:
        return Results.model_validate_json(path.read_bytes()).model_copy(update={"command": command})
    except ValidationError as error:
        raise SystemExit(
            f"{path} is not of this version; move it away: {error.errors()[0]['msg']}"
        ) from error


def compared(folder: Path, options: argparse.Namespace) -> Model:
    """Make everybody's artifact and judge them. Raises WorkbenchError where the workspace cannot be used."""
    arena = opened(folder, options.work)
    photos = calibration_file(arena)
    for peer in PEERS:
        if options.only and peer.quantiser not in options.only:
            continue
        try:
            arena.entries[peer.name] = from_peer(arena, peer, photos, options.peer_env, options.peer_timeout)
        except WorkbenchError as error:
            arena.fail(peer.name, "peer", error)
    tune_s = None
    try:
        tune_s = search(folder, options.ours, options.minutes)
        arena.entries[OURS] = from_us(arena)
    except WorkbenchError as error:
        arena.fail(OURS, "ours", error)
    evaluate(arena)
    race, duel, against = timed(arena, options.timing_budget)
    return as_model(arena, race, duel, against, tune_s)


def as_model(arena: Arena, race: Measured, duel: Measured, against: str, tune_s: float | None) -> Model:
    prepared, here = arena.prepared, machine.collect()
    ratios = log_ratios(duel, against).get(OURS, {}) if against in arena.entries else {}
    same = against == FP32 and OURS in arena.entries and (
        arena.entries[OURS].artifact.digest == arena.entries[FP32].artifact.digest
    )  # fmt: skip
    return Model(
        name=prepared.workspace.name,
        source=arena.entries[FP32].artifact.digest,
        photos=len(prepared.validation),
        certifying=len(arena.parts.certification),
        uncertified=arena.parts.uncertified and none_held_out(arena.parts.uncertified),
        calibrating=len(prepared.calibration or ()),
        max_drop=arena.max_drop,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        cpu=here.cpu,
        cores=here.cores,
        libraries=versions("krishi-bench", *LIBRARIES),
        peer_libraries=peer_libraries(arena.folder),
        rows=ordered(arena.rows),
        against=against,
        duel_log_ratios=tuple(ratios.values()),
        noise_floor=noise_floor(race, duel),
        disturbed_rounds=len(race.unused) + len(duel.unused),
        tune_s=tune_s,
        notes=("Ours is the FP32 file itself: nothing better was found.",) if same else (),
    )


def ordered(rows: Mapping[str, Row]) -> tuple[Row, ...]:
    names = [FP32, *(peer.name for peer in PEERS), OURS]
    return tuple(rows[name] for name in names if name in rows)


if __name__ == "__main__":
    main()
