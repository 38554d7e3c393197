"""Before a run: read the checkpoint's description, list the photos and decode them, once."""

from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from workbench.errors import WorkbenchError
from workbench.model.source import model_source
from workbench.model.source.info import SourceInfo
from workbench.model.source.model_source import ModelSource, source_digest
from workbench.photos import dataset
from workbench.photos.contract import Preprocess
from workbench.photos.dataset import Dataset, Images
from workbench.run import build
from workbench.system.child import call
from workbench.system.files import cache_folder, digest_of, write_atomic
from workbench.system.progress import Progress, Report
from workbench.system.records import problems_of
from workbench.workspace.recipe import RecipePreprocess, scaled_side
from workbench.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Prepared:
    """A workspace whose model and photos were looked at and found usable."""

    workspace: Workspace
    class_names: tuple[str, ...]
    job: build.Job
    validation: Dataset
    calibration: Dataset | None
    source_kind: str
    calibrates: bool

    def job_for(self, contract: Preprocess, report: Report) -> build.Job:
        """The job with its photos through another preprocessing; decoded once, then remembered on disk."""
        if contract == self.job.contract:
            return self.job
        calibration = self.calibration if self.calibrates else None
        photos, calibrating = _decode(self.validation, calibration, contract, self.job.cache, report)
        return replace(self.job, contract=contract, photos=photos, calibration=calibrating)


def _decode(
    validation: Dataset, calibration: Dataset | None, contract: Preprocess, cache: Path, report: Report
) -> tuple[Images, Images | None]:
    def load(photos: Dataset, part: str) -> Images:
        def progress(done: int, total: int) -> None:
            report(Progress("decoding photos", done, total, f"{part}, {contract.crop} px"))

        return dataset.load(photos, contract, cache, field=f"data.{part}", progress=progress)

    return load(validation, "validation"), load(calibration, "calibration") if calibration else None


def prepare(workspace: Workspace, report: Report, *, calibrate: bool) -> Prepared:
    """Read the checkpoint's description and decode the photos, once. Raises WorkbenchError."""
    cache = cache_folder()
    if workspace.synthetic:
        from workbench.workspace.sample import ensure_sample

        ensure_sample(cache, lambda done, total: report(Progress("drawing the sample photos", done, total)))
    digest = source_digest(workspace.model)
    info = inspect(workspace.model, digest, cache)
    for line in (info.sentence(), *info.notes):
        report(Progress("model", 0, 0, line))
    if (class_names := info.class_names) is None:
        raise WorkbenchError(
            f"{workspace.model.name()} does not say what its classes are called",
            hint="name a JSON list of them as `model.class_names` in krishi.yaml",
        )
    contract = resolve_contract(workspace, info)
    validation = dataset.scan(workspace.validation, class_names, field="data.validation")
    # Listed even where nothing is calibrated: its photos must not be among those that certify.
    calibration = None
    if workspace.calibration:
        field = "data.calibration"
        calibration = dataset.scan(workspace.calibration, class_names, field=field, labelled=False)
    photos, calibrating = _decode(validation, calibration if calibrate else None, contract, cache, report)
    job = build.Job(
        source=workspace.model,
        source_digest=digest,
        classes=len(class_names),
        contract=contract,
        photos=photos,
        calibration=calibrating,
        cache=cache,
        own_crop=contract.crop,
    )
    return Prepared(workspace, class_names, job, validation, calibration, info.kind, calibrate)


def inspect(model: ModelSource, digest: str, cache: Path) -> SourceInfo:
    """What the checkpoint says of itself. Remembered by digest: reading it takes a process with torch."""
    path = cache / "sources" / f"{digest_of([digest, build.code_digest()])}.json"
    if path.exists():
        return SourceInfo.model_validate_json(path.read_bytes())
    log = cache / "logs" / "inspect.txt"
    info = call(model_source.inspect, model, log=log, timeout_s=120.0, label="reading the checkpoint")
    write_atomic(path, info.model_dump_json().encode())
    return info


def overridden(contract: Preprocess, stated: RecipePreprocess) -> Preprocess:
    """A recipe's `preprocess` over the workspace's. `crop` alone, or `scale`, takes `resize` with it.

    Raises WorkbenchError where the two do not fit together.
    """
    given = stated.model_dump(exclude_none=True)
    if (scale := given.pop("scale", None)) is not None and scale != 1:
        given["crop"] = scaled_side(contract.crop, scale)
    if "crop" in given and "resize" not in given:
        given["resize"] = round(contract.resize * given["crop"] / contract.crop)
    try:
        return Preprocess(**{**contract.model_dump(), **given})
    except ValidationError as error:
        hint = "give `crop` alone, and `resize` follows it"
        raise WorkbenchError(f"preprocess: {'; '.join(problems_of(error))}", hint=hint) from error


def resolve_contract(workspace: Workspace, info: SourceInfo) -> Preprocess:
    """krishi.yaml's `preprocess` over what the checkpoint carries.

    Raises WorkbenchError naming what neither of them says.
    """
    stated = (info.preprocess, workspace.preprocess)
    known = {key: value for each in stated for key, value in each.model_dump(exclude_none=True).items()}
    known.setdefault("interpolation", "bilinear")
    if "resize" not in known and "crop" in known:
        known["resize"] = known["crop"]
    if missing := [name for name in ("crop", "mean", "std") if name not in known]:
        raise WorkbenchError(
            f"neither krishi.yaml nor {workspace.model.name()} says {', '.join(missing)}",
            hint="give them under `preprocess`, as the network was trained: "
            "{resize: 256, crop: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}",
        )
    try:
        return Preprocess(**known)
    except ValidationError as error:
        where = workspace.file or workspace.model.name()
        raise WorkbenchError(f"{where}: preprocess: {'; '.join(problems_of(error))}") from error
