"""The base of every record that is written to a file."""

from pydantic import ConfigDict

from workbench.system.removed import Compatible


class Record(Compatible):
    model_config = ConfigDict(frozen=True, extra="forbid")
