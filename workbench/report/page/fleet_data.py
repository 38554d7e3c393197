"""What a page shows of a fleet's run, read from its folder."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from workbench.fleet.matrix import DeviceResults, Matrix, build_matrix, results_of
from workbench.fleet.records import FleetFolder, FleetRun, FleetStatus
from workbench.results.verdict import Comparison, compare


@dataclass(frozen=True)
class FleetData:
    """beside: the folder that the page will lie in. number: of the run on its page; part of the ids there."""

    folder: FleetFolder
    beside: Path
    number: int = 1

    @cached_property
    def status(self) -> FleetStatus:
        return self.folder.status()

    @property
    def info(self) -> FleetRun:
        return self.status.run

    @cached_property
    def results(self) -> dict[str, list[DeviceResults]]:
        """By class, for those with a device that was measured to the end."""
        return {name: found for name, found in results_of(self.folder, self.status).items() if found}

    @property
    def classes(self) -> list[str]:
        return list(self.results)

    @cached_property
    def matrix(self) -> Matrix:
        return build_matrix(self.info, {name: self.results.get(name, []) for name in self.info.classes})

    @cached_property
    def comparisons(self) -> dict[str, Comparison]:
        """By class, of its first device."""
        firsts = {name: found[0] for name, found in self.results.items()}
        return {name: compare(first.info, list(first.trials.values())) for name, first in firsts.items()}

    def page_of(self, device: str) -> str | None:
        """The address of the device's own page from this one; None where there is none."""
        path = self.folder.path / "devices" / device / "report.html"
        return quote(os.path.relpath(path, self.beside)) if path.is_file() else None

    def card_id(self, variant: str) -> str:
        """The id of the variant's card."""
        return f"run{self.number}-variant{list(self.matrix.cells).index(variant) + 1}"
