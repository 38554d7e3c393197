"""How long a variant's turns are, and how many there are in a round."""

import math
from collections.abc import Mapping
from statistics import median

# Of hot calls in a turn: long against the switch between processes, short against the ups and downs of a
# host's speed. Bursts of 5 ms spread the ratios of rounds by 1.6 times as much (docs/measuring.md).
BURST_NS = 2e6
BURST_CALLS = (1, 20)  # and within these bounds
FEWEST_TURNS = 4  # of a round, where there is no time for more
TURNS_SHARE = 0.25  # of the time that opening the sessions took, may be spent on turns in any case
TURNS_NS = 5e7  # of hot calls in a round, per variant
TURNS_CALLS = 110  # at least: six rounds of them bound p99; where they take no longer than is allowed


def plan_turns(
    typical_ns: Mapping[str, float], *, least: int, most: int, longest_s: float, left_s: float
) -> tuple[dict[str, int], int]:
    """The hot calls of a burst of each session, and the turns, from `least` to `most`.

    typical_ns: of a call of each. longest_s: of a variant's hot calls, for the sake of percentiles.
    left_s: turns get fewer to fit into it, down to FEWEST_TURNS, and then bursts get shorter.
    """
    if not typical_ns:
        return {}, 0
    calls = {name: _bounded(BURST_NS / call_ns, *BURST_CALLS) for name, call_ns in typical_ns.items()}
    # The middle variant decides.
    turns = median(_turns(calls[name], call_ns, longest_s * 1e9) for name, call_ns in typical_ns.items())
    turn_s = sum((1 + calls[name]) * call_ns for name, call_ns in typical_ns.items()) / 1e9
    fitting = max(0.0, left_s) / turn_s
    if fitting < FEWEST_TURNS:
        calls = {name: max(1, int(number * fitting / FEWEST_TURNS)) for name, number in calls.items()}
    return calls, max(min(FEWEST_TURNS, most), min(_bounded(turns, least, most), int(fitting)))


def _turns(calls: int, call_ns: float, longest_ns: float) -> float:
    """As many of these bursts as TURNS_NS and TURNS_CALLS ask for."""
    burst_ns = calls * call_ns
    return max(TURNS_NS / burst_ns, min(TURNS_CALLS / calls, longest_ns / burst_ns))


def _bounded(number: float, least: int, most: int) -> int:
    return min(max(math.ceil(number), least), most)
