"""Worker processes that answer stressed photos, and the photos that are stressed for them."""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from workbench.backends.artifact import Artifact, ArtifactCache
from workbench.errors import WorkbenchError
from workbench.measure.worker import Worker
from workbench.photos.contract import ImageError
from workbench.photos.dataset import Images
from workbench.photos.preprocess import crop_pixels
from workbench.photos.stress import apply_stresses
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.system.files import cache_folder, sha256_bytes
from workbench.system.machine import usable_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logits = NDArray[np.float32]
    Pixels = NDArray[np.uint8]

CHUNK = 16  # photos that are stressed while others are answered
AGAIN = "run again, so that everything is of the same photos: `krishi-bench run`"


@dataclass(frozen=True, slots=True)
class FieldPhotos:
    """The validation photos of a run, of which `rows` are to be stressed.

    held_out: those had no part in the choice of the winner. share: of their number that they count as, where
    some are near-duplicates.
    """

    paths: tuple[Path, ...]
    contents: tuple[str, ...]
    labels: "NDArray[np.int64]"
    rows: tuple[int, ...]
    held_out: bool
    share: float | None

    def spread(self, most: int) -> tuple[int, ...]:
        """At most so many of the rows, at even distances: they are ordered by class."""
        count = min(most, len(self.rows))
        return tuple(self.rows[index * len(self.rows) // count] for index in range(count))

    def independent(self, count: int) -> float | None:
        """Photos that so many of them count as; None where no two are alike."""
        return None if self.share is None else count * self.share

    def read(self, row: int) -> bytes:
        """A photo's file. Raises WorkbenchError where it is not there as it was measured."""
        path = self.paths[row]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise WorkbenchError(f"{path}: {error.strerror}", hint=AGAIN) from error
        if sha256_bytes(data) != self.contents[row]:
            raise WorkbenchError(f"{path} is not the photo that the run measured", hint=AGAIN)
        return data


class StressBench:
    """Open while it is entered: a worker a trial, reading stressed photos as its preprocessing cuts them."""

    def __init__(
        self,
        folder: RunFolder,
        info: RunInfo,
        photos: FieldPhotos,
        trials: Sequence[TrialResult],
        stresses: Sequence[str],
    ) -> None:
        self._folder, self._info, self._photos = folder, info, photos
        self._trials, self._stresses = trials, stresses
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with self._open:
            root = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
            self._making = self._open.enter_context(ThreadPoolExecutor(usable_cores()))
            self._asking = self._open.enter_context(ThreadPoolExecutor(len(self._trials)))
            contracts = dict.fromkeys(trial.preprocess or self._info.preprocess for trial in self._trials)
            self._files = {
                contract: root / f"stressed-{number}.npy" for number, contract in enumerate(contracts)
            }
            self._workers = {trial.variant: self._worker(trial) for trial in self._trials}
            for worker in self._workers.values():
                worker.ready()
            self._open = self._open.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def _worker(self, trial: TrialResult) -> Worker:
        import numpy as np

        if (runtime := self._info.runtimes.get(trial.variant)) is None:
            raise WorkbenchError(f"`{trial.variant}` has no runtime that this version runs", hint=AGAIN)
        contract = trial.preprocess or self._info.preprocess
        path = self._files[contract]
        # What a session is opened with, before the first photos are there.
        np.save(path, np.zeros((1, *contract.size, 3), np.uint8))
        worker = Worker(
            _artifact(trial),
            runtime,
            Images(path, (0,), contract, digest=""),
            log=self._folder.log(trial.variant),
        )
        return self._open.enter_context(worker)

    def answers(self, severity: int, rows: Sequence[int]) -> "Iterator[dict[str, Logits]]":
        """(photos, stresses, classes) logits of each variant, of a few photos at a time. Raises
        WorkbenchError."""
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        ahead = self._make(severity, chunks[0])
        for number in range(len(chunks)):
            made = [each.result() for each in ahead]
            ahead = self._make(severity, chunks[number + 1]) if number + 1 < len(chunks) else []
            yield self._answered(made)

    def _make(self, severity: int, rows: Sequence[int]) -> "list[Future[list[Pixels]]]":
        return [self._making.submit(self._pixels, row, severity) for row in rows]

    def _pixels(self, row: int, severity: int) -> "list[Pixels]":
        """(stresses, height, width, 3) of one photo, as each contract cuts it."""
        import numpy as np

        try:
            found = apply_stresses(self._photos.read(row), self._stresses, severity, self._info.preprocess)
            return [np.stack([crop_pixels(photo, contract) for photo in found]) for contract in self._files]
        except ImageError as error:
            raise WorkbenchError(f"{self._photos.paths[row]}: {error}", hint=AGAIN) from error

    def _answered(self, made: "list[list[Pixels]]") -> "dict[str, Logits]":
        import numpy as np

        for path, pixels in zip(self._files.values(), zip(*made, strict=True), strict=True):
            np.save(path, np.concatenate(pixels))
        count, stresses = len(made), len(self._stresses)

        def answer(worker: Worker) -> "Logits":
            return worker.evaluate(lambda *_: None, range(count * stresses)).reshape(count, stresses, -1)

        return dict(zip(self._workers, self._asking.map(answer, self._workers.values()), strict=True))


def _artifact(trial: TrialResult) -> Artifact:
    """What was built and measured. Raises WorkbenchError where the cache has it no longer."""
    cache = ArtifactCache(cache_folder())
    found = cache.find(trial.artifact_key) if trial.artifact_key else None
    if found is None or found.digest != trial.artifact_digest:
        raise WorkbenchError(f"the model of `{trial.variant}` is no longer in {cache.root}", hint=AGAIN)
    return found
