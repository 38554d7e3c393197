"""What `doctor` finds in a processor's description, and how it says it."""

import json
from dataclasses import replace

from tests.builders import MACHINE
from workbench.measure.records import Conditions
from workbench.report.doctor import answer, clock_quality
from workbench.report.doctor import text as text_of
from workbench.run.doctor import Clock, Diagnosis
from workbench.system.nvidia import NO_DRIVER
from workbench.system.nvidia_check import Chain, Link, chain, this_host

DIAGNOSIS = Diagnosis(
    machine=MACHINE.model_copy(update={"features": ("avx2", "avx_vnni")}),
    conditions=Conditions(affinity=(0, 1, 2, 3), quota=1.5, governor="unknown", turbo="off"),
    usable_cores=1,
    runtimes={"onnxruntime cpu": None, "torch cuda": "torch sees no CUDA device"},
    nvidia=Chain(
        (
            Link("NVIDIA driver", "for everything", "ok", "580.65.06"),
            Link("cuBLAS", "for onnxruntime", "broken", "it is not here", "pip install it"),
            Link("cuDNN 9", "for onnxruntime", "not looked at"),
        )
    ),
    clock=Clock(
        rounds=8, tries=12, noise_floor=0.0123, detectable=0.0051, disturbed=("somebody was busy",) * 10
    ),
    photos={"data.validation": "80 photos; passed over: 2 of macOS"},
)


def test_a_diagnosis_reads_like_this() -> None:
    assert text_of(DIAGNOSIS) == (
        f"machine   Test CPU @ 2.00GHz (x86_64), 8 GiB, Linux 6.1; "
        f"fingerprint {DIAGNOSIS.machine.fingerprint}\n"
        "cores     1 usable (affinity 4, container quota 1.5 processors); governor unknown, turbo off\n"
        "gpus      none that NVML can see\n"
        "features  avx2 (256-bit vectors), avx_vnni (INT8 dot products)\n"
        "without   fma, f16c, avx512f, avx512bw, avx512_vnni, avx512_bf16, avx512_fp16, amx_tile, amx_int8, "
        "amx_bf16, asimd, asimddp, i8mm, asimdhp, fphp, bf16, sve\n"
        "runtimes\n"
        "  onnxruntime cpu          runs here\n"
        "  torch cuda               torch sees no CUDA device\n"
        "nvidia    first broken link: cuBLAS (for onnxruntime): it is not here: pip install it\n"
        "  NVIDIA driver            580.65.06\n"
        "  cuBLAS                   it is not here: pip install it\n"
        "  cuDNN 9                  not looked at\n"
        "clock     two copies of the same thing differ by up to 1.2 % (8 rounds); "
        "20 rounds would find differences from 0.5 % up\n"
        "          10 of 12 rounds (repeats counted) were disturbed: somebody was busy\n"
        "photos    data.validation: 80 photos; passed over: 2 of macOS"
    )


def test_disturbed_rounds_are_counted_among_all_that_were_tried() -> None:
    clock = replace(DIAGNOSIS.clock, tries=8, disturbed=("somebody was busy",) * 2)
    assert "\n          2 of 8 rounds were disturbed: " in text_of(replace(DIAGNOSIS, clock=clock))


def test_what_all_runtimes_lack_is_said_once() -> None:
    found = chain(replace(this_host(), gpu=NO_DRIVER))
    text = text_of(replace(DIAGNOSIS, runtimes={"torch cuda": NO_DRIVER}, nvidia=found))
    assert text.count("no NVIDIA driver is here") == 1
    assert "  torch cuda               no: see `nvidia` below\n" in text


def test_a_clock_nobody_had_time_to_try_is_not_said_to_be_good() -> None:
    clock = Clock(rounds=3, tries=3, noise_floor=None, detectable=None, disturbed=())
    assert clock_quality(clock) == "3 rounds in the time there was: too few to say how good it is"


def test_the_facts_are_json_and_hold_what_the_text_says() -> None:
    facts = json.loads(json.dumps(answer(DIAGNOSIS), allow_nan=False))
    assert set(facts) == {
        "machine", "fingerprint", "features", "conditions", "usable_cores", "runtimes", "nvidia", "clock",
        "photos", "power",
    }  # fmt: skip
    assert facts["conditions"] == {
        "affinity": [0, 1, 2, 3],
        "quota": 1.5,
        "governor": "unknown",
        "turbo": "off",
        "gpu": None,
    }
    assert facts["clock"]["noise_floor"] == 0.0123
    assert facts["runtimes"]["torch cuda"] == "torch sees no CUDA device"
    assert facts["nvidia"]["first_broken"] == "cuBLAS"
    assert [link["state"] for link in facts["nvidia"]["links"]] == ["ok", "broken", "not looked at"]
