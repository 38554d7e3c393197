"""Where the time of a run went, in words."""

from collections.abc import Mapping

from workbench.system.spans import Stage

TITLE = "Where the time went"
STAGES: dict[Stage, str] = {
    "starting": "starting the command",
    "reading": "reading the checkpoint and the photos",
    "building": "exporting and building",
    "source_model": "running the source model",
    "checking": "checking the answers of each variant",
    "sanity_look": "looking at the network and its photos",
    "advice": "the advice",
    "searching": "searching",
    "waiting": "waiting for other runs to finish timing",
    "race": "timing all variants",
    "final": "timing the finalists",
    "extras": "throughput, whole path, and saving what was timed",
    "report": "writing report.html",
}
LEAST_S = 0.05  # stages below are left out


def lines(seconds: Mapping[Stage, float]) -> list[str]:
    """`timing the finalists: 3.2 s (41 %)` for each stage in order, and last all of them."""
    total = sum(seconds.values())
    shown = [(what, spent) for stage, what in STAGES.items() if (spent := seconds.get(stage, 0.0)) >= LEAST_S]
    return [
        *(f"{what}: {spent:.1f} s ({100 * spent / total:.0f} %)" for what, spent in shown),
        f"in all: {total:.1f} s",
    ]


def text(seconds: Mapping[Stage, float]) -> str:
    return "\n  ".join([TITLE, *lines(seconds)])
