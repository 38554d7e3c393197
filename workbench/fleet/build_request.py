"""One link of a build as a builder is asked for it: what a driver sends, and what the builder makes of it."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from workbench.backends.artifact import ArtifactInfo
from workbench.errors import WorkbenchError
from workbench.fleet.build_links import LinkTask, make_link
from workbench.fleet.objects import ObjectStore
from workbench.fleet.shipment import SentPixels, SentVariant, placed
from workbench.model.graph.onnx_source import companions
from workbench.model.source import timm_network, transformers_folder
from workbench.model.source.model_source import ModelSource
from workbench.model.source.user_factory import CODE, DATA, files_of
from workbench.photos.dataset import Images
from workbench.run.build import Job
from workbench.system.child import call
from workbench.system.files import digest_of, make_folder, sha256_file
from workbench.system.records import Record, Sha256

ELSEWHERE = ModelSource(checkpoint=Path("on the driver"))


class SentImages(Record):
    """Photos as one preprocessing cuts them, with their labels."""

    pixels: SentPixels
    labels: tuple[int, ...]


class BuildRequest(Record):
    """key: of the link in a cache, to which the builder must come itself. variant: with the links before it.

    source, files: of the trained network, where the link is an export; its paths are relative, and the files
    have their sha256. The others: as in `run.build.Job`.
    """

    key: str
    variant: SentVariant
    timeout_s: float
    source: ModelSource | None
    files: dict[str, Sha256]
    source_digest: str
    classes: int
    photos: SentImages
    calibration: SentImages | None
    own_size: tuple[int, int]
    choosing: tuple[int, ...] | None


def request_of(task: LinkTask, timeout_s: float) -> tuple[BuildRequest, dict[str, Path]]:
    """What to ask of a builder, and the files that it must have, by digest."""
    job, step = task.job, task.step
    given = None if task.made else source_files(job.source)
    source, files = given or (None, {})
    calibration = job.calibration if step is not None and "calibration" in step.READS else None
    contents = {name: sha256_file(path) for name, path in files.items()}
    images = [each for each in (job.photos, calibration) if each is not None]
    links = {digest: artifact.folder / file for artifact in task.made for file, digest in artifact.info.files}
    objects = {digest: files[name] for name, digest in contents.items()}
    request = BuildRequest(
        key=task.key,
        variant=SentVariant.of(task.variant, tuple(artifact.info for artifact in task.made)),
        timeout_s=timeout_s,
        source=source,
        files=contents,
        source_digest=job.source_digest,
        classes=job.classes,
        photos=_sent(job.photos),
        calibration=calibration and _sent(calibration),
        own_size=job.own_size,
        choosing=job.choosing,
    )
    return request, {**objects, **links, **{_content(each.path): each.path for each in images}}


def _sent(images: Images) -> SentImages:
    content = _content(images.path)
    return SentImages(
        pixels=SentPixels(contract=images.contract, digest=images.digest, content=content),
        labels=images.labels,
    )


@lru_cache(maxsize=64)
def _content(path: Path) -> str:
    """Of a file of the cache, which never changes."""
    return sha256_file(path)


def source_files(source: ModelSource) -> tuple[ModelSource, dict[str, Path]] | None:
    """The source with relative paths, and its files by them; None where its code is no file of the user's,
    as another machine may have another of that name."""
    checkpoint, factory = source.checkpoint, source.factory
    files = {f"checkpoint/{name}": path for name, path in _checkpoint_files(checkpoint)}
    if factory is not None and timm_network.name_of(factory) is None:
        place, _, function = factory.rpartition(":")
        if not place.endswith(".py"):
            return None
        folder, code = files_of(place, source.import_from)
        kinds = CODE if checkpoint else CODE | DATA
        chosen = [file for file in code if file.suffix.lower() in kinds and file.is_file()]
        files |= {f"code/{file.relative_to(folder).as_posix()}": file for file in chosen}
        factory = f"code/{Path(place).name}:{function}"
    relative = checkpoint and Path("checkpoint") / checkpoint.name
    changed = {"checkpoint": relative, "factory": factory, "class_names": None, "import_from": None}
    return source.model_copy(update=changed), files


def _checkpoint_files(checkpoint: Path | None) -> Iterator[tuple[str, Path]]:
    if checkpoint is None:
        return
    if checkpoint.is_dir():
        for name, _ in transformers_folder.digests(checkpoint):
            yield f"{checkpoint.name}/{name}", checkpoint / name
        return
    others = companions(checkpoint) if checkpoint.suffix.lower() == ".onnx" else []
    for path in (checkpoint, *others):
        yield path.relative_to(checkpoint.parent).as_posix(), path


def build_link(request: BuildRequest, cache: Path, objects: ObjectStore) -> ArtifactInfo:
    """Build the link on this machine, in a process of its own; its files are objects here afterwards.

    Raises WorkbenchError.
    """
    calibration = request.calibration
    job = Job(
        # Of a step nothing is read from the source.
        source=place_source(request.source or ELSEWHERE, request.files, cache, objects),
        source_digest=request.source_digest,
        classes=request.classes,
        contract=request.photos.pixels.contract,
        photos=_images(request.photos, objects),
        calibration=_images(calibration, objects) if calibration is not None else None,
        cache=cache,
        own_size=request.own_size,
        choosing=request.choosing,
    )
    sent, log, timeout_s = request.variant, cache / "logs" / "builds.txt", request.timeout_s
    made = [placed(info, cache, objects) for info in sent.links]
    built = call(
        make_link, job, sent.variant(), made, request.key, log=log, timeout_s=timeout_s, label="the build"
    )
    for file, digest in built.info.files:
        objects.adopt(digest, built.folder / file)
    return built.info


def _images(sent: SentImages, objects: ObjectStore) -> Images:
    pixels = sent.pixels
    return Images(objects.path(pixels.content), sent.labels, pixels.contract, pixels.digest)


def place_source(
    source: ModelSource, files: Mapping[str, str], cache: Path, objects: ObjectStore
) -> ModelSource:
    """The source with its files in a folder of their own. files: digests by path, as `source_files` names
    them. Raises WorkbenchError for a path that leads elsewhere."""
    folder = cache / "sources" / digest_of(dict(files))
    for name, digest in files.items():
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise WorkbenchError(f"{name} is no file of a source")
        make_folder(target.parent)
        if not target.exists():
            target.hardlink_to(objects.path(digest))
    factory = source.factory
    if factory is not None and timm_network.name_of(factory) is None:
        factory = f"{folder / factory}"
    changed = {"checkpoint": source.checkpoint and folder / source.checkpoint, "factory": factory}
    return source.model_copy(update=changed)
