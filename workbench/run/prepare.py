"""Before a run: read the checkpoint's description, list the photos and decode them, once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from workbench.errors import WorkbenchError, plural
from workbench.model.source import model_source
from workbench.model.source.checkpoint_file import kind_of
from workbench.model.source.info import SourceInfo
from workbench.model.source.model_source import ModelSource, source_digest
from workbench.photos import dataset, likeness
from workbench.photos.contract import Preprocess, joined, merged, sides, size_text
from workbench.photos.dataset import Dataset, Images
from workbench.photos.overlap import OtherPart, Separation, overlap
from workbench.photos.preprocess import require_library
from workbench.run import build
from workbench.system.child import call
from workbench.system.files import cache_folder, digest_of, write_atomic
from workbench.system.progress import Progress, Report
from workbench.system.records import problems_of
from workbench.workspace.recipe import RecipePreprocess, scaled_side
from workbench.workspace.workspace import Workspace

if TYPE_CHECKING:
    from workbench.photos.likeness import Hashes

FEW = 16  # calibration photos, below which ranges depend on the choice of photos


@dataclass(frozen=True, slots=True)
class Prepared:
    """A workspace whose model and photos were looked at and found usable.

    groups: of every validation photo, a number that its near-duplicates share.
    """

    workspace: Workspace
    class_names: tuple[str, ...]
    job: build.Job
    validation: Dataset
    calibration: Dataset | None
    source_kind: str
    calibrates: bool
    groups: tuple[int, ...]
    separation: Separation

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
            report(Progress("decoding photos", done, total, f"{part}, {size_text(contract.size)} px"))

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
            hint="name a file of them, one per line, as `model.class_names` in krishi.yaml",
        )
    contract = resolve_contract(workspace, info)
    validation = dataset.scan(workspace.validation, class_names, field="data.validation")
    # Listed even where nothing is calibrated: its photos must not be among those that certify.
    calibration = _unlabelled(workspace.calibration, class_names, "data.calibration")
    for note in (*workspace.budget.notes, *notes_on(validation, calibration)):
        report(Progress("photos", 0, 0, note))
    photos, calibrating = _decode(validation, calibration if calibrate else None, contract, cache, report)
    job = build.Job(
        source=workspace.model,
        source_digest=digest,
        classes=len(class_names),
        contract=contract,
        photos=photos,
        calibration=calibrating,
        cache=cache,
        own_size=contract.size,
    )
    groups, separation = separate(workspace, class_names, validation, calibration, report)
    return Prepared(
        workspace, class_names, job, validation, calibration, info.kind, calibrate, groups, separation
    )


def _unlabelled(source: Path | None, class_names: Sequence[str], field: str) -> Dataset | None:
    return dataset.scan(source, class_names, field=field, labelled=False) if source else None


def separate(
    workspace: Workspace,
    class_names: Sequence[str],
    validation: Dataset,
    calibration: Dataset | None,
    report: Report,
) -> tuple[tuple[int, ...], Separation]:
    """The groups of validation photos that look the same, and what they share with other parts of the data.

    Raises WorkbenchError where `data.train` cannot be read.
    """
    train = _unlabelled(workspace.train, class_names, "data.train")

    def looks(photos: Dataset, part: str, *, turned: bool = False) -> "Hashes":
        def progress(done: int, total: int) -> None:
            report(Progress("comparing photos", done, total, part))

        field = f"data.{part}"
        small = dataset.load(photos, likeness.small_copy(), cache_folder(), field=field, progress=progress)
        return likeness.hashes(small.pixels(), turned=turned)

    own = looks(validation, "validation", turned=True)
    groups = likeness.groups(own, validation.contents)
    others: tuple[tuple[OtherPart, Dataset | None], ...] = (("train", train), ("calibration", calibration))
    return groups, Separation(
        parts=tuple(
            overlap(part, validation, photos, own, looks(photos, part)) for part, photos in others if photos
        ),
        alike=sum(size for size in Counter(groups).values() if size > 1),
        allowed=workspace.allow_overlap,
    )


def notes_on(validation: Dataset, calibration: Dataset | None) -> tuple[str, ...]:
    """Sentences on what the data holds besides usable photos, and on what it lacks."""
    if calibration is None:
        return validation.notes
    few: tuple[str, ...] = ()
    if (count := len(calibration)) < FEW:
        few = (f"data.calibration: {plural(count, 'photo')}: INT8 ranges of fewer than {FEW} are rough",)
    return (*validation.notes, *calibration.notes, *few)


def inspect(model: ModelSource, digest: str, cache: Path) -> SourceInfo:
    """What the checkpoint says of itself. Remembered by digest: reading it takes a process with torch."""
    path = cache / "sources" / f"{digest_of([digest, build.code_digest()])}.json"
    if path.exists():
        return SourceInfo.model_validate_json(path.read_bytes())
    log = cache / "logs" / "inspect.txt"
    info = call(
        model_source.inspect,
        model,
        log=log,
        timeout_s=120.0,
        label="reading the checkpoint",
        imports=("numpy", "onnx" if kind_of(model.checkpoint) == "onnx" else "torch"),
    )
    write_atomic(path, info.model_dump_json().encode())
    return info


def overridden(contract: Preprocess, stated: RecipePreprocess) -> Preprocess:
    """A recipe's `preprocess` over the workspace's. `crop` alone, or `scale`, takes `resize` with it.

    Raises WorkbenchError where the two do not fit together.
    """
    given = stated.model_dump(exclude_none=True)
    if (scale := given.pop("scale", None)) is not None and scale != 1:
        height, width = contract.size
        given["crop"] = joined((scaled_side(height, scale), scaled_side(width, scale)))
    if "crop" in given and "resize" not in given:
        pairs = zip(sides(contract.resize), sides(given["crop"]), contract.size, strict=True)
        high, wide = (round(resize * new / old) for resize, new, old in pairs)
        given["resize"] = max(high, wide) if isinstance(contract.resize, int) else (high, wide)
    if isinstance(given.get("resize"), int) == isinstance(contract.resize, int):
        given = {"resize_mode": contract.resize_mode, "fill": contract.fill, **given}
    try:
        return Preprocess(**merged(given, contract))
    except ValidationError as error:
        hint = "give `crop` alone, and `resize` follows it"
        raise WorkbenchError(f"preprocess: {'; '.join(problems_of(error))}", hint=hint) from error


def resolve_contract(workspace: Workspace, info: SourceInfo) -> Preprocess:
    """krishi.yaml's `preprocess` over what the checkpoint carries.

    Raises WorkbenchError naming what neither of them says.
    """
    written = workspace.preprocess.model_dump(exclude_unset=True)
    # Of the keys, only `crop: null` means something.
    given = {name: value for name, value in written.items() if value is not None or name == "crop"}
    known = {"interpolation": "bilinear", **merged(given, info.preprocess)}
    if known.get("crop") and "resize" not in known:
        known |= {"resize": known["crop"], "resize_mode": known.get("resize_mode", "shorter")}
    whole = isinstance(known.get("resize"), tuple) or known.get("resize_mode", "shorter") != "shorter"
    if missing := [
        name for name in ("crop", "mean", "std") if name not in known and (name, whole) != ("crop", True)
    ]:
        unlike = f" ({'; '.join(info.notes)})" if info.notes else ""
        raise WorkbenchError(
            f"neither krishi.yaml nor {workspace.model.name()} says {', '.join(missing)}{unlike}",
            hint="give them under `preprocess`, as the network was trained: "
            "{resize: 256, crop: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}",
        )
    try:
        contract = Preprocess(**known)
        require_library(contract)
        return contract
    except ValidationError as error:
        where = workspace.file or workspace.model.name()
        raise WorkbenchError(f"{where}: preprocess: {'; '.join(problems_of(error))}") from error
