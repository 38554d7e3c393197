"""Before a run: read the checkpoint's description, list the photos and decode them, once."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from workbench import build, dataset
from workbench.cache import cache_folder
from workbench.checkpoint import ModelSource, SourceInfo, source_digest
from workbench.errors import WorkbenchError
from workbench.files import digest_of, write_atomic
from workbench.images import Preprocess
from workbench.isolate import call
from workbench.progress import Progress, Report
from workbench.workspace import Workspace

INSPECT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A workspace whose model and photos were looked at and found usable."""

    workspace: Workspace
    class_names: tuple[str, ...]
    job: build.Job
    validation: dataset.Dataset
    calibration: dataset.Dataset | None
    source_kind: str


def prepare(workspace: Workspace, report: Report, *, calibrate: bool) -> Prepared:
    """Read the checkpoint's description and decode the photos, once. Raises WorkbenchError."""
    cache = cache_folder()
    if workspace.synthetic:
        from workbench.sample import ensure_sample

        ensure_sample(cache, lambda done, total: report(Progress("drawing the sample photos", done, total)))
    digest = source_digest(workspace.model)
    info = inspect(workspace.model, digest, cache)
    class_names = _class_names(workspace, info)
    contract = resolve_contract(workspace, info)

    def decoded(photos: dataset.Dataset, part: str) -> dataset.Images:
        return dataset.load(
            photos,
            contract,
            cache,
            field=f"data.{part}",
            progress=lambda done, total: report(Progress("decoding photos", done, total, part)),
        )

    validation = dataset.scan(workspace.validation, class_names, field="data.validation")
    # Listed even where nothing is calibrated: its photos must not be among those that certify.
    calibration = (
        dataset.scan(workspace.calibration, class_names, field="data.calibration", labelled=False)
        if workspace.calibration
        else None
    )
    job = build.Job(
        source=workspace.model,
        source_digest=digest,
        classes=len(class_names),
        contract=contract,
        photos=decoded(validation, "validation"),
        calibration=decoded(calibration, "calibration") if calibration and calibrate else None,
        cache=cache,
    )
    return Prepared(workspace, class_names, job, validation, calibration, info.kind)


def inspect(model: ModelSource, digest: str, cache: Path) -> SourceInfo:
    """What the checkpoint says of itself. Remembered by digest: reading it takes a process with torch."""
    path = cache / "sources" / f"{digest_of([digest, build.code_digest()])}.json"
    if path.exists():
        return SourceInfo.model_validate_json(path.read_bytes())
    info: SourceInfo = call(
        "workbench.checkpoint:inspect",
        model,
        log=cache / "logs" / "inspect.txt",
        timeout_s=INSPECT_TIMEOUT_S,
        label="reading the checkpoint",
    )
    write_atomic(path, info.model_dump_json().encode())
    return info


def _class_names(workspace: Workspace, info: SourceInfo) -> tuple[str, ...]:
    if info.class_names is None:
        raise WorkbenchError(
            f"{workspace.model.checkpoint} does not say what its classes are called",
            hint="name a JSON list of them as `model.class_names` in krishi.yaml",
        )
    return info.class_names


def resolve_contract(workspace: Workspace, info: SourceInfo) -> Preprocess:
    """krishi.yaml's `preprocess` over what the checkpoint carries.

    Raises WorkbenchError naming what neither of them says.
    """
    known = {
        **info.preprocess.model_dump(exclude_none=True),
        **workspace.preprocess.model_dump(exclude_none=True),
    }
    known.setdefault("interpolation", "bilinear")
    if "resize" not in known and "crop" in known:
        known["resize"] = known["crop"]
    if missing := [name for name in ("crop", "mean", "std") if name not in known]:
        raise WorkbenchError(
            f"neither krishi.yaml nor {workspace.model.checkpoint.name} says {', '.join(missing)}",
            hint="give them under `preprocess`, as the network was trained: "
            "{resize: 256, crop: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}",
        )
    try:
        return Preprocess(**known)
    except ValidationError as error:
        where = workspace.file or workspace.model.checkpoint
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise WorkbenchError(f"{where}: preprocess: {problem}") from error
