"""A published LiteRT version as a folder for an app: model, labels, preprocessing as data, golden photos."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.backends import backend_of
from workbench.errors import Refused, WorkbenchError, plural
from workbench.photos.contract import Preprocess, sides
from workbench.registry.bundle import Bundle, check_golden
from workbench.registry.manifest import MANIFEST_NAME, Manifest
from workbench.registry.semver import is_version
from workbench.registry.store import Registry
from workbench.results.folder import RunFolder, find_run
from workbench.system.files import load_arrays, new_folder, read_plain, sha256_bytes

if TYPE_CHECKING:
    from workbench.backends.litert.interpreter import End, Interpreter

MODEL, LABELS, RULE, ANSWERS = "model.tflite", "labels.txt", "preprocess.json", "golden.json"
SOURCES = ("reference.py", "Classifier.kt")  # copied as they lie beside this module
WHOLE_PHOTOS = 4
ALIAS = "android"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class Packaged:
    """photos: whole ones among the golden photos. missing: why there are fewer than there might be."""

    folder: Path
    name: str
    version: str
    golden: int
    photos: int
    missing: str | None


@dataclass(frozen=True, slots=True)
class _Answer:
    """A photo, whole or as the network sees it, with the logits that were measured."""

    file: str
    data: bytes
    logits: tuple[float, ...]
    whole: bool


def chosen(registry: Registry, name: str, which: str | None) -> Bundle:
    """The version, or the one that the alias points at; by default alias `android`, else `production`.

    Raises WorkbenchError where there is none.
    """
    if which is None:
        which = ALIAS if registry.pointed(name, ALIAS) else "production"
    return registry.bundle(name, which) if is_version(which) else registry.resolve(name, which)


def package(bundle: Bundle, output: Path, results: Path) -> Packaged:
    """Write the folder `output` for the app that is to have this version.

    results: runs, one of which knows the photos that the version was measured on. Raises Refused where the
    version is no LiteRT file, or its preprocessing needs a library that no phone has; WorkbenchError where
    the model does not give its recorded answers here, and where `output` exists.
    """
    manifest = bundle.manifest
    _check_portable(manifest)
    bundle.verify()
    opened = _opened(bundle)
    cut = list(_cut_answers(bundle))
    whole, missing = _whole_answers(manifest, results)
    try:
        with new_folder(output) as folder:
            (folder / MODEL).write_bytes(bundle.artifact.read())
            (folder / LABELS).write_text(
                "".join(f"{name}\n" for name in manifest.class_names), encoding="utf-8"
            )
            _write_json(folder / RULE, rule_of(manifest, opened))
            for answer in (*whole, *cut):
                path = folder / answer.file
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(answer.data)
            _write_json(folder / ANSWERS, _recorded(manifest, [*whole, *cut]))
            for source in SOURCES:
                (folder / source).write_bytes(Path(__file__).with_name(source).read_bytes())
            (folder / MANIFEST_NAME).write_bytes((bundle.folder / MANIFEST_NAME).read_bytes())
            (folder / "README.md").write_text(_readme(manifest, missing), encoding="utf-8")
    except FileExistsError as error:
        raise WorkbenchError(
            f"--output: {output} is there already", hint="name a folder that is not"
        ) from error
    return Packaged(output, manifest.name, manifest.version, len(cut), len(whole), missing)


def _check_portable(manifest: Manifest) -> None:
    named = f"{manifest.name} {manifest.version}"
    if manifest.artifact.format != "tflite":
        raise Refused(
            f"{named} runs on {manifest.runtime.backend}; an Android app opens LiteRT files",
            hint="`krishi-bench run litert`, then `krishi-bench promote --variant NAME --alias android`",
        )
    if problem := next(_unportable(manifest.preprocess), None):
        raise Refused(
            f"{named}: preprocess.{problem} cannot be followed on a phone with what the package holds",
            hint="measure it with Pillow's `bilinear` and `antialias: true`: accuracy says what that changes",
        )


def _unportable(contract: Preprocess) -> Iterator[str]:
    if contract.library != "pillow":
        yield f"library: {contract.library}"
    if contract.interpolation == "nearest":
        yield "interpolation: nearest"
    if not contract.antialias:
        yield "antialias: false"


def _opened(bundle: Bundle) -> "Interpreter":
    """The model in an interpreter, after it gave its golden answers."""
    from workbench.backends.litert.interpreter import Interpreter

    runtime = bundle.manifest.runtime
    backend = backend_of(runtime)
    if (reason := backend.unavailable(runtime)) is not None:
        raise WorkbenchError(f"the model is tried before it is packaged: {reason}")
    with backend.session(bundle.artifact, runtime) as session:
        check_golden(session.infer, bundle.manifest, *bundle.golden())
    return Interpreter(bundle.artifact.read(), MODEL, threads=1)


def rule_of(manifest: Manifest, opened: "Interpreter") -> dict[str, Any]:
    """The preprocessing as an app reads it: every default filled in, sides as [height, width]."""
    contract = manifest.preprocess
    stated = contract.model_dump(mode="json", exclude={"library", "antialias", "rescale"})
    return {
        **stated,
        "resize": list(sides(contract.resize)),
        "crop": list(contract.size),
        # The shorter side alone decides at which fraction a JPEG is decoded.
        "one_side": contract.resize_mode == "shorter" and isinstance(contract.resize, int),
        "white": contract.white,
        "outputs": manifest.outputs,
        "input": {"layout": "NHWC" if opened.channels_last else "NCHW", **_end(opened.taken)},
        "output": _end(opened.given),
    }


def _end(end: "End") -> dict[str, Any]:
    stated = {"shape": list(end.shape), "dtype": end.dtype}
    return stated if end.scale is None else {**stated, "scale": end.scale, "zero_point": end.zero}


def _cut_answers(bundle: Bundle) -> Iterator[_Answer]:
    """The golden photos of the bundle, as PNG in true colours."""
    import io

    from PIL import Image

    pixels, logits = bundle.golden()
    swapped = bundle.manifest.preprocess.channels == "BGR"
    for number, (photo, row) in enumerate(zip(pixels, logits, strict=True)):
        target = io.BytesIO()
        Image.fromarray(photo[..., ::-1].copy() if swapped else photo).save(target, "PNG")
        yield _Answer(f"golden/{number:03}.png", target.getvalue(), tuple(map(float, row)), whole=False)


def _whole_answers(manifest: Manifest, results: Path) -> tuple[list[_Answer], str | None]:
    """Whole photos with the logits that the run measured, and why there are none."""
    provenance = manifest.provenance
    try:
        run = find_run(results, provenance.run_id)
        found = list(_measured_photos(run, manifest))
    except WorkbenchError as error:
        return [], error.message
    if not found:
        return [], f"the photos of run {provenance.run_id} are no longer where they were, or as they were"
    return found, None


def _measured_photos(run: RunFolder, manifest: Manifest) -> Iterator[_Answer]:
    files, contract = run.photos(), manifest.preprocess
    golden, predictions = run.golden(contract), run.predictions(manifest.provenance.variant)
    if files is None or not golden.exists() or not predictions.exists():
        return
    (indices,) = load_arrays(golden, read_plain(golden), "indices")
    (logits,) = load_arrays(predictions, read_plain(predictions), "logits")
    given = 0
    for row in map(int, indices):
        path = Path(files.paths[row])
        if given == WHOLE_PHOTOS or path.suffix.lower() not in SUFFIXES:
            continue
        with suppress(OSError):
            data = path.read_bytes()
            if sha256_bytes(data) == files.sha256[row]:
                name = f"photos/{given:03}{path.suffix.lower()}"
                yield _Answer(name, data, tuple(map(float, logits[row])), whole=True)
                given += 1


def _recorded(manifest: Manifest, answers: list[_Answer]) -> dict[str, Any]:
    names = manifest.class_names
    photos = [
        {
            "file": answer.file,
            "whole": answer.whole,
            "label": names[max(range(len(names)), key=answer.logits.__getitem__)],
            "logits": answer.logits,
        }
        for answer in answers
    ]
    return {"atol": manifest.golden.atol, "photos": photos}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _readme(manifest: Manifest, missing: str | None) -> str:
    measured, audit = manifest.measured, manifest.measured.audit
    accuracy = measured.accuracy
    known = [
        f"- model: {manifest.artifact.size_bytes / 1e6:.2f} MB, weights in {manifest.artifact.precision}, "
        f"{plural(manifest.artifact.classes, 'class')}",
        *([f"- {audit.verdict}"] if audit else []),
        *(
            [f"- top-1 on {plural(accuracy.images, 'photo')}: {100 * accuracy.top1:.2f} %"]
            if accuracy
            else []
        ),
        "- speed on a phone: not known here; `phones.json` has it where phones were connected",
    ]
    photos = f"; there are no whole photos: {missing}" if missing else ""
    return f"""\
# {manifest.name} {manifest.version} for Android

{chr(10).join(known)}

| file | what it is |
| --- | --- |
| `{MODEL}` | the network; LiteRT's benchmark app reads it too |
| `{LABELS}` | a class a line, in the order of the logits |
| `{RULE}` | how a photo becomes the input, as data |
| `{ANSWERS}` | photos with the logits that were measured, and how far off they may be{photos} |
| `Classifier.kt` | the same in Kotlin, to be put into an app |
| `reference.py` | the same in Python: `pip install ai-edge-litert numpy pillow`, `python reference.py` |
| `{MANIFEST_NAME}` | where the version comes from, and what was measured |
"""
