"""What long work says of itself. The core reports; the command line draws."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """done of total within a stage (0 of 0: an event); what: the variant or folder at hand."""

    stage: str
    done: int
    total: int
    what: str = ""


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Report nothing."""
