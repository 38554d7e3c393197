"""What another version of a runtime costs: who is compared with whom, and how it is said."""

import math

from tests.builders import run_info, trial
from workbench.backends import OpenvinoRuntime, OrtRuntime
from workbench.measure.pairs import VariantPair
from workbench.report.upgrades import costs, upgrades
from workbench.results.records import Upgrade
from workbench.results.versions import by_version, siblings

FILE, OTHER = "a" * 64, "b" * 64
TRIALS = [
    trial("v[version=1.26.0]", runtime_version="1.26.0", build_digest=FILE),
    trial("v[version=1.9.0]", runtime_version="1.9.0", build_digest=FILE),
    trial("v[version=1.32.0]", runtime_version="1.32.0", build_digest=FILE),
    trial("baseline", runtime_version="1.32.0", build_digest=FILE),
    trial("int8[version=1.26.0]", runtime_version="1.26.0", build_digest=OTHER),
    trial("other threads", runtime_version="1.26.0", build_digest=FILE),
    trial("openvino", runtime_version="2026.4.1", build_digest=FILE),
    trial("of an older run", build_digest=FILE),
]
RUNTIMES = {
    "v[version=1.26.0]": OrtRuntime(version="1.26.0", threads=1),
    "v[version=1.9.0]": OrtRuntime(version="1.9.0", threads=1, precision="f32"),
    "v[version=1.32.0]": OrtRuntime(version="1.32.0", threads=1),
    "baseline": OrtRuntime(),
    "int8[version=1.26.0]": OrtRuntime(version="1.26.0"),
    "other threads": OrtRuntime(version="1.26.0", threads=2),
    "openvino": OpenvinoRuntime(),
    "of an older run": OrtRuntime(),
}


def upgrade(older: str, newer: str, ratio: float, spread: float = 0.002) -> Upgrade:
    """ratio: time in the newer over time in the older, in six rounds."""
    ratios = tuple(math.log(ratio) + spread * k for k in (-2, -1, 0, 0, 1, 2))
    pair = VariantPair(one=newer, other=older, session="race", log_ratios=ratios)
    return Upgrade(backend="onnxruntime", older=older, newer=newer, pair=pair)


def test_versions_of_one_build_with_one_setting_are_compared_oldest_first() -> None:
    (group,) = by_version(TRIALS, RUNTIMES)
    assert {version: found.variant for version, found in group.items()} == {
        "1.9.0": "v[version=1.9.0]",
        "1.26.0": "v[version=1.26.0]",
        "1.32.0": "baseline",
    }
    assert siblings(TRIALS, RUNTIMES) == {"v[version=1.9.0]", "v[version=1.26.0]", "baseline"}


def test_the_cost_of_an_upgrade_is_said_with_its_interval_and_noise_is_said_to_be_noise() -> None:
    info = run_info(
        noise_floor=0.01,
        upgrades=(
            upgrade("1.26.0", "1.32.0", 1.08),
            upgrade("1.27.0", "1.32.0", 1 / 1.05),
            upgrade("1.30.0", "1.32.0", 1.004),
            upgrade("1.31.0", "1.32.0", 1.03, spread=0.05),
        ),
    )
    numbers = costs(info)
    assert [(round(cost.ratio, 3), cost.seen) for cost in numbers] == [
        (1.08, True),
        (0.952, True),
        (1.004, False),
        (1.03, False),
    ]
    assert all(cost.interval and cost.interval[0] < cost.ratio < cost.interval[1] for cost in numbers)
    dearer, pays, below_the_floor, uncertain = upgrades(info)
    assert dearer.startswith("upgrading onnxruntime from 1.26.0 to 1.32.0 costs 8.0 % [7.")
    assert pays.startswith("onnxruntime 1.27.0 takes 5.0 % [4.")
    assert pays.endswith("] longer than 1.32.0: upgrading pays")
    assert below_the_floor.startswith(
        "onnxruntime 1.30.0 and 1.32.0: no difference beyond the noise (0.4 % ["
    )
    assert uncertain.startswith("onnxruntime 1.31.0 and 1.32.0: no difference beyond the noise (3.0 % [")
