"""Twenty networks of timm and ten of transformers, each from its checkpoint to a served photo.

    python benchmarks/zoo.py --work DIR [--out docs/zoo.md] [--only NAME...] [--limit 900]

Each network (see `zoo_networks.py`) goes the way of a user, by the commands alone: `run` with an INT8 and an
OpenVINO recipe, `promote` of the plain FP32 export, `serve`, and one photo by POST, whose class must be the
run's. What failed is a sentence in the table. Results are kept in DIR as they come: a network that is there
already is not tried again without --again. Several calls may share DIR, with other networks in --only.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
from zoo_networks import CLASSES, NAMES

from workbench.measure.records import BASELINE
from workbench.photos.dataset import scan
from workbench.results.folder import find_run
from workbench.results.records import TrialResult
from workbench.system import machine
from workbench.system.files import write_atomic
from workbench.system.packages import versions

LIBRARIES = ("torch", "timm", "transformers", "onnx", "onnxruntime", "openvino")
READY_S = 120.0
RECIPES = {
    "int8": "steps: [{use: simplify}, {use: static_int8, calibration: {method: minmax, images: 16}}]\n",
    "openvino": "runtime: {backend: openvino}\n",
}
STEPS = ("checkpoint", "export", "int8", "openvino", "served")


@dataclass
class Outcome:
    """What became of one network. steps: by name, `ok` or the sentence of its failure; absent: not reached.

    agreement: share of the photos on which a variant answers as the baseline. notes: on the export.
    """

    name: str
    side: int = 0
    parameters: int = 0
    seconds: float = 0.0
    steps: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    exporter: str = ""
    notes: list[str] = field(default_factory=list)


class StepFailed(Exception):
    pass


def main() -> None:
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    short = {name.partition(":")[2]: name for name in NAMES}
    if unknown := [name for name in options.only if name not in (*NAMES, *short)]:
        sys.exit(f"no network {', '.join(unknown)}; there are {', '.join(NAMES)}")
    names = [short.get(name, name) for name in options.only or NAMES]
    for name in names:
        kept = options.work / f"{name.replace(':', '-')}.json"
        if kept.exists() and not options.again:
            continue
        outcome = tried(name, kept.with_suffix(""), options.limit)
        write_atomic(kept, json.dumps(asdict(outcome), indent=1).encode())
        failed = [f"{step}: {said}" for step, said in outcome.steps.items() if said != "ok"]
        print(f"{name}: {'; '.join(failed) or 'ok'} ({outcome.seconds:.0f} s)", flush=True)
    found = [json.loads(path.read_bytes()) for path in sorted(options.work.glob("*.json"))]
    outcomes = sorted((Outcome(**each) for each in found), key=lambda outcome: NAMES.index(outcome.name))
    if options.out is not None:
        write_atomic(options.out, markdown(outcomes).encode())
    print(markdown(outcomes))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="from checkpoints of many kinds to a served photo")
    parser.add_argument("--work", type=Path, required=True, help="kept between calls")
    parser.add_argument("--out", type=Path, help="the Markdown page")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="such as resnet18")
    parser.add_argument("--limit", type=float, default=900.0, metavar="SECONDS", help="for one network")
    parser.add_argument("--again", action="store_true", help="try those that are kept, too")
    return parser.parse_args()


def tried(name: str, folder: Path, limit_s: float) -> Outcome:
    """One network through all steps, in a folder that is emptied before and after."""
    outcome, start = Outcome(name), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    step = "checkpoint"
    try:
        made = finished(
            [str(Path(__file__).with_name("zoo_networks.py")), name, str(folder)], folder, limit_s
        )
        outcome.side, outcome.parameters = (json.loads(made)[key] for key in ("side", "parameters"))
        for recipe, body in RECIPES.items():
            (folder / f"{recipe}.yaml").write_text(f"name: {recipe}\n{body}")
        left = limit_s - (time.monotonic() - start)
        run = ["run", *(f"{folder / recipe}.yaml" for recipe in RECIPES), "--time-budget", "1s"]
        command(*run, "--quiet", folder=folder, limit_s=left)
        outcome.steps["checkpoint"] = "ok"
        _add_trials(outcome, find_run(folder / "results", None).trials())
        step = "served"
        command("promote", "--variant", BASELINE, "--force", "zoo", folder=folder, limit_s=READY_S)
        outcome.steps["served"] = served(folder)
    except StepFailed as error:
        reason = str(error)
        if step == "checkpoint" and "baseline" in reason:
            outcome.steps["checkpoint"], step = "ok", "export"
        outcome.steps[step] = reason
    shutil.rmtree(folder, ignore_errors=True)
    outcome.seconds = time.monotonic() - start
    return outcome


def _add_trials(outcome: Outcome, trials: list[TrialResult]) -> None:
    for trial in trials:
        step = "export" if trial.variant == BASELINE else trial.variant
        outcome.steps[step] = "ok" if trial.status in ("ok", "pruned") else f"{trial.status}: {trial.reason}"
        if trial.parity is not None:
            outcome.agreement[step] = trial.parity.top1_agreement
        if trial.variant == BASELINE and trial.export is not None:
            outcome.exporter, outcome.notes = trial.export.exporter or "", list(trial.export.sentences())


def finished(words: list[str], folder: Path, limit_s: float) -> str:
    """The stdout of a Python command. Raises StepFailed with its error, or where it takes too long."""
    environment = {**os.environ, "KRISHI_CACHE": str(folder / "cache")}
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=max(1.0, limit_s))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise StepFailed(f"took longer than {limit_s:.0f} s") from None
    if process.returncode:
        raise StepFailed(_error_in(errors))
    return output


def _error_in(stderr: str) -> str:
    """From `error:` on, as the commands print it; else the last line."""
    lines = stderr.strip().splitlines() or ["it printed nothing"]
    begin = next((number for number, line in enumerate(lines) if line.startswith("error:")), len(lines) - 1)
    return " ".join(line.strip() for line in lines[begin:]).removeprefix("error: ")


def command(*words: str, folder: Path, limit_s: float) -> str:
    return finished(["-m", "workbench", *words], folder, limit_s)


def served(folder: Path) -> str:
    """`ok` where the server answers the first photo as the baseline did in the run; else a sentence."""
    photo = scan(folder / "val", CLASSES, field="data.validation").paths[0]
    with np.load(find_run(folder / "results", None).predictions(BASELINE)) as run:
        wanted = CLASSES[run["logits"][0].argmax()]
    with (folder / "serve.txt").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "workbench", "serve", "--port", "0"],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "KRISHI_CACHE": str(folder / "cache")},
        )
    try:
        url = _url(folder / "serve.txt", server)
        response = httpx.post(f"{url}/predict", files={"file": photo.read_bytes()}, timeout=60)
        if not response.is_success:
            return f"{response.status_code} {response.text}"
        answer = response.json()["class_name"]
        return "ok" if answer == wanted else f"it answers {answer}, the run said {wanted}"
    finally:
        server.terminate()
        server.wait(60)


def _url(log: Path, server: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            with suppress(httpx.TransportError):
                if httpx.get(f"{found[0]}/readyz").is_success:
                    return found[0]
        time.sleep(0.2)
    raise StepFailed(f"the server was not ready: {_error_in(log.read_text())}")


def markdown(outcomes: list[Outcome]) -> str:
    counts = {step: sum(each.steps.get(step) == "ok" for each in outcomes) for step in STEPS}
    rows = [_row(outcome) for outcome in outcomes]
    failures = [
        f"- `{outcome.name}`, {step}: {said}"
        for outcome in outcomes
        for step, said in outcome.steps.items()
        if said != "ok"
    ]
    remarks = [f"- `{outcome.name}`: {note}" for outcome in outcomes for note in outcome.notes]
    used = ", ".join(f"{name} {version}" for name, version in versions(*LIBRARIES).items())
    here = machine.collect()
    head = [
        "# Networks of timm and transformers, from the checkpoint to a served photo",
        "",
        f"Made by `python benchmarks/zoo.py` on {datetime.now(UTC):%Y-%m-%d}, on {here.cpu}, with {used}.",
        f"Weights are random (nothing is downloaded), {len(CLASSES)} classes. Exported and served in FP32: "
        f"{min(counts['export'], counts['served'])} of {len(outcomes)} tried ({len(NAMES)} are listed); "
        f"static INT8: {counts['int8']}; OpenVINO: {counts['openvino']}. "
        "Percentages are photos answered as torch does; random weights leave narrow margins, so "
        "INT8 loses more here than with trained ones.",
        "",
        "| network | pixels | parameters | exporter | export | INT8 | OpenVINO | served |",
        "| --- | ---: | ---: | --- | --- | --- | --- | --- |",
    ]
    parts = [*head, *rows]
    for title, lines in (("What failed", failures), ("What the export says", remarks)):
        if lines:
            parts += ["", f"## {title}", "", *lines]
    return "\n".join(parts) + "\n"


def _row(outcome: Outcome) -> str:
    def cell(step: str) -> str:
        share = outcome.agreement.get(step)
        said = outcome.steps.get(step, "")
        return (
            "" if not said else "no" if said != "ok" else "yes" if share is None else f"{100 * share:.0f} %"
        )

    size = f"{outcome.parameters / 1e6:.1f} M"
    cells = [f"`{outcome.name}`", str(outcome.side), size, outcome.exporter, *map(cell, STEPS[1:])]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
