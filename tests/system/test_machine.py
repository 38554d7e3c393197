"""What this computer is, and when two are the same."""

import os
import platform
import re
from pathlib import Path

import pytest

from workbench.system.machine import (
    Machine,
    available_cpus,
    collect,
    free_memory_bytes,
    read_cpuinfo,
    usable_cores,
)

X86 = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu vme avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8
vmx flags\t: vnmi avx_vnni
bugs\t\t: spectre_v1 asimddp
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes fphp asimdhp cpuid asimddp i8mm bf16
CPU implementer\t: 0x41
"""


@pytest.mark.parametrize(
    ("text", "model", "names"),
    [
        (
            X86,
            "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"},
        ),
        (ARM, None, {"asimd", "fphp", "asimddp", "asimdhp", "i8mm", "bf16"}),
        ("", None, set()),
        ("flags : avx2extended not_avx2\n", None, set()),
        ("flags : avx2 fma\nflags : avx2\n", None, {"avx2"}),
    ],
)
def test_features_are_whole_words_of_the_lines_of_all_processors(
    tmp_path: Path, text: str, model: str | None, names: set[str]
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    found, features = read_cpuinfo(path)
    assert found == (model or platform.processor() or "unknown")
    assert set(features) == names


def test_a_system_without_that_file_shows_no_features(tmp_path: Path) -> None:
    assert read_cpuinfo(tmp_path / "missing")[1] == ()


MACHINE = Machine(
    cpu="Test CPU @ 2.00GHz",
    architecture="x86_64",
    cores=4,
    memory_bytes=8 * 2**30,
    gpus=("Card",),
    system="Linux 6.1",
    python="3.12.1",
)


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": "Another CPU"},
        {"architecture": "aarch64"},
        {"cores": 2},
        {"memory_bytes": 16 * 2**30},
        {"gpus": ()},
        {"gpus": ("Card", "Card")},
    ],
)
def test_other_hardware_is_another_machine(change: dict[str, object]) -> None:
    assert MACHINE.model_copy(update=change).fingerprint != MACHINE.fingerprint


@pytest.mark.parametrize(
    "change", [{"system": "Linux 7.0"}, {"python": "3.14.0"}, {"memory_bytes": 8 * 2**30 - 40_000_000}]
)
def test_an_update_or_a_few_megabytes_kept_by_the_kernel_do_not_make_another_machine(
    change: dict[str, object],
) -> None:
    assert MACHINE.model_copy(update=change).fingerprint == MACHINE.fingerprint


def test_a_fingerprint_is_twelve_hex_digits_and_is_kept_when_saved() -> None:
    assert re.fullmatch("[0-9a-f]{12}", MACHINE.fingerprint)
    assert Machine.model_validate_json(MACHINE.model_dump_json()).fingerprint == MACHINE.fingerprint


def test_this_machine_is_described_and_is_always_the_same() -> None:
    here = collect()
    assert here.cpu
    assert here.memory_bytes > 2**28
    assert here.cores == len(available_cpus()) >= 1
    assert here.fingerprint == collect().fingerprint


def test_only_the_processors_this_process_may_use_count() -> None:
    cpus = available_cpus()
    assert list(cpus) == sorted(set(cpus))
    assert len(cpus) <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("junk", 4)]
)
def test_a_container_has_the_cores_it_may_use(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    path = tmp_path / "cpu.max"
    path.write_text(quota)
    assert usable_cores(path) == cores
    assert usable_cores(tmp_path / "absent") == 4


def test_a_container_has_the_memory_that_its_limit_leaves(tmp_path: Path) -> None:
    def container(limit: str) -> int:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        return free_memory_bytes(tmp_path)

    (tmp_path / "memory.current").write_text("30000000\n")
    (tmp_path / "memory.stat").write_text("anon 12\ninactive_file 10000000\n")
    assert container("50000000") == 30_000_000
    assert container("10000000") == 0
    assert container("max") > 50_000_000
    assert free_memory_bytes(tmp_path / "absent") > 50_000_000
