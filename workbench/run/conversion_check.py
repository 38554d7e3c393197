"""A built variant held to what was asked for, and to what it came from: its runtime to onnxruntime, all of it
to the source model."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from workbench.backends import Runtime, backend_of, takes_onnx
from workbench.backends.artifact import Artifact
from workbench.errors import WorkbenchError
from workbench.measure.agreement import coarsest, disagreement
from workbench.measure.session_process import Opened
from workbench.model.export.comparison import torch_logits
from workbench.model.graph.first_difference import cut, first_difference
from workbench.model.graph.onnx_file import artifact_info, describe, load, logits_of
from workbench.model.source.model_source import load_model
from workbench.photos.contract import Batch
from workbench.run import build
from workbench.run.runtime_answers import answers
from workbench.system.child import ChildError, call
from workbench.system.files import digest_of, write_atomic
from workbench.workspace.recipe import Variant

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


PHOTOS = 32  # that a variant with a preprocessing of its own is compared on; the others are on all
SEARCH_S = 60.0  # for the first node that differs
TIMEOUT_S = 600.0


def hold_runtime(job: build.Job, variant: Variant, photos: Sequence[Path], log: Path) -> None:
    """Hold a runtime that converts the file, in f32, to onnxruntime without optimisations on the exported
    file, once for each, so that INT8 or BF16 does not hide a wrong operator. Raises WorkbenchError."""
    plain = variant.runtime.model_copy(update={"precision": None})
    if backend_of(plain).convert is not None:
        _hold_runtime(job, variant, plain, photos, log)


def hold_answers(
    job: build.Job,
    variant: Variant,
    artifact: Artifact,
    logits: "NDArray[np.float32]",
    reference: "NDArray[np.float32] | None",
    photos: Sequence[Path],
    log: Path,
) -> None:
    """Hold the variant's own logits on all photos to the source model's, by the bound of its precision (see
    `agreement`). Raises WorkbenchError. reference: those; None where its preprocessing is its own."""
    do = partial(call, log=log, timeout_s=TIMEOUT_S)
    rows = list(range(len(logits)))
    if reference is None:
        rows = [row * len(logits) // PHOTOS for row in range(PHOTOS)] if len(logits) > PHOTOS else rows
        reference = do(exported_logits, job, variant, rows, label="running the exported network")
    precision = coarsest((artifact.info.precision, variant.runtime.computes))
    if (off := disagreement(reference, logits[rows], precision)) is None:
        return
    row, node = rows[off.row], None
    if takes_onnx(variant.runtime):
        with suppress(ChildError):  # the difference is known, and says enough without the node
            node = do(first_fault, job, variant, variant.runtime, row, label="finding what differs")
    raise _wrong(variant.runtime.backend, "the source model", photos[row], off.text, node)


def check_as_asked(variant: Variant, artifact: Artifact, opened: Opened) -> None:
    """What was asked for is what was built and opened, or WorkbenchError: never a silent fallback."""
    asked_opset = variant.export.opset if "opset" in variant.export.model_fields_set else artifact.info.opset
    for what, asked, got in (
        ("opset", asked_opset if artifact.info.format == "onnx" else None, artifact.info.opset),
        ("device", variant.runtime.device, opened.device),
        ("threads", variant.runtime.intra_threads, opened.threads),
        ("version", variant.runtime.version, variant.runtime.version and opened.version),
    ):
        if asked != got:
            raise WorkbenchError(f"asked for {what} {asked}, got {got}")


def _wrong(backend: str, source: str, photo: Path, text: str, node: str | None) -> WorkbenchError:
    # What is wrong first: tables cut the line.
    what = f"{node} otherwise than {source}" if node else f"something else than {source}"
    return WorkbenchError(
        f"{backend} computes {what}: {text}, on {photo}",
        hint="another `export.exporter`, `export.opset` or `runtime.backend` may get that node right",
    )


def _hold_runtime(
    job: build.Job, variant: Variant, plain: Runtime, photos: Sequence[Path], log: Path
) -> None:
    root = build.onnx_links(job, variant)[0]
    if root.info.precision != "fp32":
        return  # a quantised source: its rounding is not the runtime's fault
    packages = build.packages_of(backend_of(plain).PACKAGES, plain.environment())
    key = digest_of(
        [root.digest, job.photos.digest, plain.model_dump(mode="json"), build.code_digest(), packages]
    )
    path, kind = job.cache / "conversions" / f"{key}.json", TypeAdapter(tuple[int, str, str | None] | None)
    if path.exists():
        found = kind.validate_json(path.read_bytes())
    else:
        label = f"comparing {plain.backend} with onnxruntime"
        found = call(
            runtime_fault,
            job,
            variant,
            plain,
            log=log,
            timeout_s=TIMEOUT_S,
            label=label,
            imports=build.RUNS_ONNX,
        )
        write_atomic(path, kind.dump_json(found))
    if found is not None:
        row, text, node = found
        raise _wrong(plain.backend, "onnxruntime of the same file", photos[row], text, node)


def exported_logits(job: build.Job, variant: Variant, rows: Sequence[int]) -> "NDArray[np.float32]":
    """(n, classes) logits of the exported network on those photos; in a process of its own."""
    import numpy as np

    if links := build.onnx_links(job, variant):
        root = links[0]
        run: Callable[[Batch], Batch] = partial(logits_of, root.path, describe(root.path))
        images = replace(job.photos, raw=root.info.pixels)
    else:
        run, images = partial(torch_logits, load_model(job.source, job.classes)), job.photos
    return np.concatenate([run(batch) for batch in images.rows(rows, build.REFERENCE_BATCH)])


def runtime_fault(job: build.Job, variant: Variant, runtime: Runtime) -> tuple[int, str, str | None] | None:
    """The photo, how far the runtime is off on the exported file, and the node; None where it is not.

    In a process of its own.
    """
    root = build.onnx_links(job, variant)[0]
    count = min(build.PROBES, len(job.photos))
    rows = [row * len(job.photos) // count for row in range(count)]
    images = replace(job.photos, raw=root.info.pixels)
    (batch,) = images.rows(rows, count)
    got = answers(root, runtime, batch)
    off = disagreement(logits_of(root.path, describe(root.path), batch), got)
    return off and (rows[off.row], off.text, _first(root, runtime, batch[off.row : off.row + 1], "fp32"))


def first_fault(job: build.Job, variant: Variant, runtime: Runtime, row: int) -> str | None:
    """The first node of the file the runtime is given that it computes otherwise; in a process of its own."""
    last = build.onnx_links(job, variant)[-1]
    (photo,) = replace(job.photos, raw=last.info.pixels).rows([row])
    return _first(last, runtime, photo, coarsest((last.info.precision, runtime.computes)))


def _first(artifact: Artifact, runtime: Runtime, photo: Batch, precision: str) -> str | None:
    import onnx

    model = load(artifact.path)
    with TemporaryDirectory() as name:
        if runtime.environment() is None:  # which lies in the cache
            os.environ["KRISHI_CACHE"] = name  # engines of parts of the graph are of no use later

        def differs(tensor: str) -> bool:
            folder = Path(name) / "part"
            folder.mkdir(exist_ok=True)
            onnx.save(cut(model, tensor), folder / "model.onnx")
            part = Artifact(folder, artifact_info(folder / "model.onnx"))
            expected = logits_of(part.path, describe(part.path), photo)
            return disagreement(expected, answers(part, runtime, photo), precision, classes=False) is not None

        return first_difference(model, differs, seconds=SEARCH_S)
