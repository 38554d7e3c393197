"""Phones that are connected by adb, timed by LiteRT's own `benchmark_model`."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from workbench.system.records import Record

FOLDER = "/data/local/tmp/krishi-bench"
RUNS = 50
TIMEOUT_S = 300.0
PROPERTIES = {"model": "ro.product.model", "android": "ro.build.version.release", "chip": "ro.soc.model"}
# Of the last line of statistics, in microseconds; versions before 2024 print no percentiles.
STATISTICS = re.compile(r"count=(\d+).*?\bmin=([\d.]+) max=([\d.]+) avg=([\d.]+)(?:.*?\bmedian=([\d.]+))?")


class PhoneTiming(Record):
    """A phone, and what its own benchmark says of the model. reason: why it says nothing.

    *_us: microseconds of one call, median_us where the benchmark prints it.
    """

    serial: str
    model: str = ""
    android: str = ""
    chip: str = ""
    threads: int = 1
    calls: int = 0
    mean_us: float | None = None
    median_us: float | None = None
    min_us: float | None = None
    reason: str | None = None


class PhonesFile(Record):
    """`phones.json`. skipped: why no phone was measured."""

    schema_version: int = 1
    skipped: str | None = None
    phones: tuple[PhoneTiming, ...] = ()


def time_on_phones(model: Path, benchmark: Path | None, *, threads: int = 1) -> PhonesFile:
    """Time a `.tflite` file on every phone that adb names, with XNNPACK.

    benchmark: the program `benchmark_model` for Android. What cannot be measured is skipped, with the reason.
    """
    if (adb := shutil.which("adb")) is None:
        return PhonesFile(
            skipped="`adb` is not installed: apt install adb, and allow USB debugging on the phone"
        )
    if benchmark is None:
        return PhonesFile(
            skipped="no `benchmark_model` was named: `--benchmark-model FILE`, as LiteRT publishes it"
        )
    if not benchmark.is_file():
        return PhonesFile(skipped=f"{benchmark} is no file")
    serials = connected(_adb(adb, "devices").stdout)
    if not serials:
        return PhonesFile(
            skipped="adb sees no phone that allows it: connect one, and confirm USB debugging there"
        )
    return PhonesFile(phones=tuple(_time_on(adb, serial, model, benchmark, threads) for serial in serials))


def connected(printed: str) -> list[str]:
    """Serial numbers of the phones that `adb devices` lists as usable."""
    rows = [line.split() for line in printed.splitlines()[1:]]
    return [row[0] for row in rows if len(row) >= 2 and row[1] == "device"]


def _time_on(adb: str, serial: str, model: Path, benchmark: Path, threads: int) -> PhoneTiming:
    known = PhoneTiming(serial=serial, threads=threads)
    try:
        facts = {name: _shell(adb, serial, f"getprop {key}").strip() for name, key in PROPERTIES.items()}
        known = known.model_copy(update=facts)
        _shell(adb, serial, f"mkdir -p {FOLDER}")
        for path, name in ((benchmark, "benchmark_model"), (model, "model.tflite")):
            _checked(_adb(adb, "-s", serial, "push", str(path), f"{FOLDER}/{name}"))
        command = (
            f"chmod 755 {FOLDER}/benchmark_model; {FOLDER}/benchmark_model --graph={FOLDER}/model.tflite "
            f"--num_threads={threads} --num_runs={RUNS} --use_xnnpack=true"
        )
        return timing_of(known, _shell(adb, serial, command))
    except (OSError, subprocess.SubprocessError) as error:
        return known.model_copy(update={"reason": _reason(error)})
    finally:
        # A phone that is gone keeps the folder until the next measurement.
        with suppress(OSError, subprocess.SubprocessError):
            _adb(adb, "-s", serial, "shell", f"rm -rf {FOLDER}")


def timing_of(phone: PhoneTiming, printed: str) -> PhoneTiming:
    """The phone with the last statistics that `benchmark_model` printed."""
    if not (found := STATISTICS.findall(printed)):
        last = printed.strip().splitlines()[-1:] or ["it printed nothing"]
        return phone.model_copy(update={"reason": f"benchmark_model gave no times: {last[0]}"})
    count, least, _, mean, middle = found[-1]
    return phone.model_copy(
        update={
            "calls": int(count),
            "min_us": float(least),
            "mean_us": float(mean),
            "median_us": float(middle) if middle else None,
        }
    )


def _shell(adb: str, serial: str, command: str) -> str:
    return _checked(_adb(adb, "-s", serial, "shell", command)).stdout


def _adb(adb: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [adb, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
    )


def _checked(done: "subprocess.CompletedProcess[str]") -> "subprocess.CompletedProcess[str]":
    done.check_returncode()
    return done


def _reason(error: OSError | subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it did not answer within {error.timeout:g} s"
    said: Sequence[str] = str(getattr(error, "stderr", "") or error).strip().splitlines()
    words = said[-1] if said else "adb failed"
    gone = "not found" in words or "offline" in words or "closed" in words
    return f"it was disconnected: {words}" if gone else words
