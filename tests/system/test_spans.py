import subprocess
import sys
import time

import pytest

from workbench.system.spans import Spans


def test_a_stage_within_another_counts_for_itself_alone() -> None:
    times = iter([0.0, 1.0, 3.0, 6.0, 7.0, 9.0, 9.5])
    spans = Spans(lambda: next(times))
    with spans.span("checking"), spans.span("building"):
        pass
    with spans.span("checking"):
        pass
    assert spans.seconds == {"checking": 2.0 + 1.0 + 0.5, "building": 3.0}
    spans.add("starting", 0.25)
    assert spans.seconds["starting"] == 0.25


def test_a_stage_that_raises_counts_too() -> None:
    times = iter([0.0, 0.0, 4.0])
    spans = Spans(lambda: next(times))
    with pytest.raises(ValueError, match="it broke"), spans.span("race"):
        raise ValueError("it broke")
    assert spans.seconds == {"race": 4.0}


def test_a_process_knows_how_long_it_runs() -> None:
    ask = "import time; from workbench.system.spans import seconds_since_start; time.sleep(0.3); "
    ask += "print(seconds_since_start())"
    began = time.monotonic()
    own_s = float(subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True).stdout)
    # Linux counts in hundredths.
    assert 0.28 < own_s < time.monotonic() - began + 0.02
