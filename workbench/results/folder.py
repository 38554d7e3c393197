"""A run's folder under `results/`: its files, written and read."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from workbench.errors import WorkbenchError, some
from workbench.photos.contract import Preprocess
from workbench.results.records import PhotoFiles, RunInfo, TrialResult
from workbench.system.files import digest_of, file_name, make_folder, translated_os_errors
from workbench.system.records import parse_record, read_record, write_record

FLEET_NAME = "fleet.json"  # in the folder of a run of many devices, in the place of `run.json`


class RunFolder:
    """`results/<run-id>/`, being written or read. run_id: the folder's name, but for a device of a fleet."""

    def __init__(self, path: Path, run_id: str | None = None) -> None:
        self.path, self.run_id = path, run_id or path.name

    @classmethod
    def create(cls, results: Path) -> "RunFolder":
        """A new folder named by the time; two runs in the same second both get one."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        with translated_os_errors(results):
            make_folder(results)
            for suffix in ["", *(f"-{n:03}" for n in range(2, 1000))]:
                path = results / f"{stamp}{suffix}"
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                for name in ("logs", "predictions"):
                    (path / name).mkdir()
                return cls(path)
        raise WorkbenchError(f"{results} already has a thousand runs of this second")

    def remove_if_never_begun(self) -> None:
        """Delete the folder of a run that was refused before it wrote `run.json`."""
        if not (self.path / "run.json").exists():
            shutil.rmtree(self.path)

    def log(self, variant: str) -> Path:
        return self.path / "logs" / f"{file_name(variant)}.txt"

    def golden(self, contract: Preprocess) -> Path:
        """The photos a bundle is checked with, as this preprocessing cuts them."""
        # Named as before `decode` could be chosen: the runs of that time have files to find.
        plain = {"decode"} if contract.decode == "full" else None
        return self.path / f"golden-{digest_of(contract.model_dump(mode='json', exclude=plain))[:12]}.npz"

    def predictions(self, variant: str) -> Path:
        return self.path / "predictions" / f"{file_name(variant)}.npz"

    def recipe(self, variant: str) -> Path:
        """The variant as a recipe of its own."""
        return self.path / "recipes" / f"{file_name(variant)}.yaml"

    def photos(self) -> PhotoFiles | None:
        """Where the validation photos were; None in runs that did not record it."""
        path = self.path / "photos.json"
        return read_record(path, PhotoFiles, what="list of photos") if path.exists() else None

    def save_photos(self, photos: PhotoFiles) -> None:
        write_record(self.path / "photos.json", photos)

    def save_info(self, info: RunInfo) -> None:
        write_record(self.path / "run.json", info)

    def append(self, result: TrialResult) -> None:
        """Add a line to `trials.jsonl` and force it to disk. The last line of a variant counts."""
        path = self.path / "trials.jsonl"
        with translated_os_errors(path), path.open("ab") as file:
            file.write(result.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def info(self) -> RunInfo:
        path = self.path / "run.json"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise WorkbenchError(f"{path} cannot be read: {error.strerror}") from error
        hint = "name another run, or move this folder away"
        return parse_record(data, path, RunInfo, what="run", hint=hint)

    def trials(self) -> list[TrialResult]:
        """The last record of each variant, in the order they were first written.

        A last line cut short by a crash is left out; anything else that cannot be read is an error.
        """
        path = self.path / "trials.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        latest: dict[str, TrialResult] = {}
        for number, line in enumerate(lines[:-1], start=1):
            result = parse_record(line, f"{path}:{number}", TrialResult, what="trial")
            latest[result.variant] = result
        return list(latest.values())


def runs(results: Path) -> list[RunFolder]:
    """The runs under `results`, oldest first."""
    if not results.is_dir():
        return []
    return [RunFolder(path) for path in sorted(results.iterdir()) if (path / "run.json").is_file()]


def fleet_run(results: Path, run_id: str | None) -> Path | None:
    """The folder of that run, or of the latest, where it is one of many devices; None where it is not."""
    if run_id is None:
        kinds = ("run.json", FLEET_NAME)
        found = [path for path in results.glob("*/") if any((path / kind).is_file() for kind in kinds)]
        latest = max(found, key=lambda path: path.name, default=None)
        return latest if latest is not None and (latest / FLEET_NAME).is_file() else None
    return next((p for p in (Path(run_id), results / run_id) if (p / FLEET_NAME).is_file()), None)


def find_run(results: Path, run_id: str | None) -> RunFolder:
    """The run of that name, or in that folder, which may come from another machine; or the latest.

    Raises WorkbenchError where there is none.
    """
    if run_id is not None and (Path(run_id) / "run.json").is_file():
        return RunFolder(Path(run_id).absolute())
    if run_id is not None and not Path(run_id).is_absolute() and (results / run_id / "run.json").is_file():
        return RunFolder(results / run_id, run_id)
    if run_id is not None and (fleet := fleet_run(results, run_id)) is not None:
        devices = sorted(path.parent.name for path in fleet.glob("devices/*/run.json"))
        hint = f"name one of its devices: {some([f'{run_id}/devices/{name}' for name in devices])}"
        raise WorkbenchError(f"run {run_id} is of a fleet", hint=hint if devices else None)
    if run_id is not None and len(Path(run_id).parts) > 1:
        raise WorkbenchError(f"{run_id} is not the folder of a run: it holds no run.json")
    found = runs(results)
    if not found:
        raise WorkbenchError(f"{results} holds no run yet", hint="start with `krishi-bench run`")
    if run_id is None:
        return found[-1]
    if named := [run for run in found if run.run_id == run_id]:
        return named[0]
    raise WorkbenchError(f"{results} has no run `{run_id}`", hint=f"the latest is `{found[-1].run_id}`")
