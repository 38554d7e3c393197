"""From a measured trial to a published version: tried once more, numbered by what changed, pointed at."""

import contextlib
import io
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from workbench.backends import Runtime, backend_of
from workbench.backends.artifact import EXECUTABLE_FORMATS, Artifact, ArtifactCache, ArtifactInfo
from workbench.errors import Refused, WorkbenchError
from workbench.photos.contract import Preprocess
from workbench.photos.preprocess import batch_of
from workbench.registry.batch_gain import Batching, batching_of
from workbench.registry.bundle import Bundle, compare_logits, logits_of
from workbench.registry.manifest import CARD_NAME, GOLDEN_NAME, Draft, Golden, Manifest, Provenance
from workbench.registry.model_card import model_card
from workbench.registry.semver import Bump, parse
from workbench.registry.shadow_record import Demand
from workbench.registry.store import Registry
from workbench.registry.version_rule import Change, greatest, known_change, next_version, output_change
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.system.child import ChildError, call
from workbench.system.files import load_arrays, read_plain
from workbench.system.records import problems_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


SMOKE_TIMEOUT_S = {"cpu": 300.0, "cuda": 1800.0}  # a GPU runtime may have to build its engine first


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion did.

    previous: what the alias pointed at before, None where it did not exist. bump: the part of the number
    the tool or the caller raised; None where no number was derived (first, explicit or already published).
    why: one sentence. unchanged: the alias pointed at this very model already.
    """

    bundle: Bundle
    previous: str | None
    bump: Bump | None
    why: str
    unchanged: bool

    @property
    def version(self) -> str:
        return self.bundle.version


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A trial with everything a bundle needs of it."""

    run_id: str
    info: RunInfo
    trial: TrialResult
    artifact: Artifact
    runtime: Runtime

    @property
    def contract(self) -> Preprocess:
        return self.trial.preprocess or self.info.preprocess


@dataclass(frozen=True, slots=True)
class _GoldenSet:
    """pixels (n, crop, crop, 3) uint8, logits (n, classes) float32, atol absolute."""

    pixels: "NDArray[np.uint8]"
    logits: "NDArray[np.float32]"
    atol: float


@dataclass(frozen=True, slots=True)
class _Tried:
    """What a trial start showed."""

    changes: list[Change]
    batching: Batching


@dataclass(frozen=True, slots=True)
class _Undecided:
    """A published version that only the new model's outputs on its golden images can be told from."""

    manifest: Manifest
    pixels: "NDArray[np.uint8]"
    logits: "NDArray[np.float32]"


def promote(
    run: RunFolder,
    trial: TrialResult,
    *,
    name: str,
    cache: ArtifactCache,
    registry: Registry,
    alias: str = "production",
    bump: Bump | None = None,
    version: str | None = None,
    forced: str | None = None,
    shadow: Demand | None = None,
) -> Promotion:
    """Publish the model of a trial and point an alias at it.

    bump, version: a number of the caller's choice, one of the two at most; else the tool derives it.
    forced: why to take that number though it promises more than is true; recorded in the manifest.
    shadow: what a server that ran the model in the shadow of the alias must have found; None for nothing.
    Nothing is published where the model does not reproduce its measured logits in a process of its own.
    Raises Refused for that, for a shadow result that is missing or too low, for a number that is too low or
    taken, and where another promotion was faster; WorkbenchError where the run or the cache no longer hold
    what it takes.
    """
    if bump is not None and version is not None:
        raise WorkbenchError("a version and a bump were both given", hint="give one of the two, or neither")
    if version is not None:
        parse(version)
    pointed = registry.pointed(name, alias)
    generation, previous = (pointed.generation, pointed.version) if pointed else (0, None)
    candidate = _candidate(run, trial, cache)
    reason = f"promoted {trial.variant} of run {run.run_id}" + (f", forced: {forced}" if forced else "")

    same = _published(registry, name, candidate, first=previous)
    if shadow is not None:
        _check_shadow(shadow, name, alias, same, served=previous)
    if same is not None and parse(same.version).prerelease and (bump or version not in (None, same.version)):
        same = None  # A candidate becomes a release under a number of its own.
    if same is not None and version in (None, same.version):
        after = registry.point(name, alias, same.version, reason=reason, expected=generation)
        why = f"this very model is already published as {same.version}"
        return Promotion(same, previous, None, why, unchanged=after.generation == generation)
    if same is not None and forced is None:
        raise Refused(
            f"this very model is already published as {same.version}",
            hint=f"promote without a version to point `{alias}` at {same.version}",
        )

    golden = _golden(run, candidate)
    versions = registry.versions(name)
    # What the alias points at, and the highest, whose number the new one continues: to the clients of both
    # it has to be true.
    compared = dict.fromkeys([*([previous] if previous else []), *versions[-1:]])
    changes, undecided = _compare(registry, name, compared, candidate)
    tried = _try_out(candidate, golden, undecided, run.path / "logs" / "promote.txt")
    changes += tried.changes
    change = greatest(changes)
    highest = parse(versions[-1]) if versions else None
    number, raised = next_version(highest, change, bump=bump, version=version, forced=forced is not None)
    draft = _draft(candidate, name, number, golden, forced, tried.batching)
    bundle = registry.publish(draft, lambda folder: _write(folder, draft, candidate, golden))
    try:
        registry.point(name, alias, number, reason=reason, expected=generation)
    except Refused as error:
        raise Refused(f"{name} {number} is published, but {error.message}", hint=error.hint) from error
    return Promotion(bundle, previous, raised, change.why if change else "the first version", unchanged=False)


def _candidate(run: RunFolder, trial: TrialResult, cache: ArtifactCache) -> _Candidate:
    if trial.status not in ("ok", "pruned") or trial.artifact_key is None:
        because = f": {trial.reason}" if trial.reason else ""
        raise WorkbenchError(f"`{trial.variant}` of run {run.run_id} ended {trial.status}{because}")
    info = run.info()
    if (runtime := info.runtimes.get(trial.variant)) is None:
        raise WorkbenchError(
            f"{run.path / 'run.json'} has no runtime of `{trial.variant}` that this version runs",
            hint="measure it again: `krishi-bench run`",
        )
    again = f"run it again: what run {run.run_id} built is no longer in {cache.root}"
    if (artifact := cache.find(trial.artifact_key)) is None:
        raise WorkbenchError(f"the model of `{trial.variant}` is gone", hint=again)
    if artifact.digest != trial.artifact_digest:
        raise WorkbenchError(f"the model of `{trial.variant}` is not the one that was measured", hint=again)
    if artifact.info.format in EXECUTABLE_FORMATS:
        raise Refused(
            f"`{trial.variant}` is a torch file: reading one can run code, so none is published",
            hint="torch variants are there to be measured; promote one of onnxruntime",
        )
    return _Candidate(run.run_id, info, trial, artifact, runtime)


def _published(registry: Registry, name: str, candidate: _Candidate, *, first: str | None) -> Bundle | None:
    """The version that is this very model and still whole; `first` where several are, else the highest."""
    wanted = (
        candidate.artifact.digest,
        candidate.info.class_names,
        candidate.contract,
        candidate.runtime,
    )
    versions = sorted(registry.versions(name), key=lambda version: version == first)
    for version in reversed(versions):
        try:
            bundle = registry.bundle(name, version)
            manifest = bundle.manifest
            found = (bundle.artifact.digest, manifest.class_names, manifest.preprocess, manifest.runtime)
            if found == wanted:
                bundle.verify()
                return bundle
        except WorkbenchError:
            continue  # A damaged version is no version to point at; publishing anew mends it.
    return None


def _check_shadow(shadow: Demand, name: str, alias: str, same: Bundle | None, *, served: str | None) -> None:
    """same: the published version that is the model to promote; served: what the alias points at."""
    if served is None:
        raise Refused(
            f"`{alias}` of {name} does not exist yet, so there is nothing to compare with in its shadow",
            hint="promote the first version without --require-shadow",
        )
    if same is None:
        raise Refused(
            f"this model is not published yet, so no server can have run it in the shadow of {served}",
            hint="publish it under another alias (`krishi-bench promote --alias candidate`), then "
            "`krishi-bench serve --shadow X.Y.Z` and `krishi-bench shadow-report`",
        )
    if same.version != served:
        shadow.check(name, same.version, same.digest, served=served)


def _golden(run: RunFolder, candidate: _Candidate) -> _GoldenSet:
    """The run's golden images with the logits measured for them."""
    import numpy as np

    trial, crop = candidate.trial, candidate.contract.crop
    path, predictions = run.golden(candidate.contract), run.predictions(trial.variant)
    if not path.exists():
        path = run.path / GOLDEN_NAME  # runs before each preprocessing had a file of its own
    pixels, indices = load_arrays(path, read_plain(path), "pixels", "indices")
    (measured,) = load_arrays(predictions, read_plain(predictions), "logits")
    fits = (
        (pixels.dtype.name, indices.dtype.kind, indices.ndim) == ("uint8", "i", 1)
        and pixels.shape == (len(indices), crop, crop, 3)
        and measured.ndim == 2
        and len(indices) > 0
        and 0 <= indices.min() <= indices.max() < len(measured)
    )
    if not fits:
        raise WorkbenchError(
            f"{path} does not fit {predictions.name}: pixels {pixels.dtype} {pixels.shape}, logits "
            f"{measured.shape}, rows {indices.tolist()}",
            hint="run it again",
        )
    logits = measured[indices].astype(np.float32)
    atol = _tolerance(candidate) * float(np.abs(logits).max())
    # Where the two best classes lie closer than both may move, another CPU may swap them in good faith.
    best = np.sort(logits, axis=1)
    margin = best[:, -1] - best[:, -2] if logits.shape[1] > 1 else np.full(len(logits), np.inf)
    sure = np.flatnonzero(margin > 2 * atol)
    kept = sure if len(sure) else np.argsort(margin)[-1:]
    return _GoldenSet(pixels[kept], logits[kept], atol)


def _tolerance(candidate: _Candidate) -> float:
    """Relative to the largest golden logit.

    INT8 and FP16 kernels round differently from one CPU to another (with and without VNNI, say), and so
    do GPUs, which add in another order for each size of batch; FP32 on CPUs only adds in another order.
    """
    runtime = candidate.runtime
    exact = (
        candidate.artifact.info.precision not in ("int8", "fp16", "bf16")
        and runtime.device == "cpu"
        and runtime.computes == "f32"
    )
    return 1e-3 if exact else 2e-2


def _compare(
    registry: Registry, name: str, versions: Iterable[str], candidate: _Candidate
) -> tuple[list[Change], list[_Undecided]]:
    """What changed since each version, and the versions for which the outputs have to tell."""
    changes: list[Change] = []
    undecided: list[_Undecided] = []
    for version in versions:
        try:
            old = registry.bundle(name, version)
        except WorkbenchError as error:
            changes.append(Change("major", f"it cannot be compared with {version}: {error.message}"))
            continue
        if change := known_change(old.manifest, candidate.info, candidate.contract, candidate.artifact.info):
            changes.append(change)
            continue
        try:
            undecided.append(_Undecided(old.manifest, *old.golden()))
        except WorkbenchError as error:
            why = f"its outputs cannot be compared with {version}'s: {error.message}"
            changes.append(Change("minor", why))
    return changes, undecided


def _try_out(candidate: _Candidate, golden: _GoldenSet, undecided: Sequence[_Undecided], log: Path) -> _Tried:
    """Run the model on its own golden images and on those of the undecided versions. Raises Refused."""
    (first, *others), batching = _smoke(candidate, [golden.pixels, *(old.pixels for old in undecided)], log)
    try:
        compare_logits(first, golden.logits, golden.atol)
    except WorkbenchError as error:
        raise Refused(
            f"`{candidate.trial.variant}` does not give the logits that were measured: {error.message}",
            hint="nothing was published; run it again on this machine",
        ) from error
    pairs = zip(undecided, others, strict=True)
    return _Tried([output_change(old.manifest, old.logits, got) for old, got in pairs], batching)


def _smoke(
    candidate: _Candidate, images: Sequence["NDArray[np.uint8]"], log: Path
) -> "tuple[list[NDArray[np.float32]], Batching]":
    variant = candidate.trial.variant
    try:
        return call(
            smoke,
            candidate.artifact.folder.resolve(),
            candidate.artifact.info,
            candidate.runtime,
            candidate.contract,
            images,
            log=log,
            timeout_s=SMOKE_TIMEOUT_S[candidate.runtime.device],
            label=f"the trial start of `{variant}`",
        )
    except ChildError as error:
        raise Refused(f"`{variant}` was not published: {error.message}", hint=error.hint) from error


def smoke(
    folder: Path,
    info: ArtifactInfo,
    runtime: Runtime,
    contract: Preprocess,
    images: Sequence["NDArray[np.uint8]"],
) -> "tuple[list[NDArray[np.float32]], Batching]":
    """Open an artifact as a server would: the logits of each set of pixels, and whether batches pay. Runs in
    a child."""
    backend = backend_of(runtime)
    if (reason := backend.unavailable(runtime)) is not None:
        raise WorkbenchError(
            reason, hint="promote on a machine that can run it, as the one it was measured on"
        )
    # In an empty folder: a model that reads a second file beside it must fail here, not in production.
    with (
        tempfile.TemporaryDirectory() as empty,
        contextlib.chdir(empty),
        backend.session(Artifact(folder, info), runtime) as session,
    ):
        outputs = [logits_of(session.infer, contract, pixels, raw=info.pixels) for pixels in images]
        photos = batch_of(images[0][:4], contract, raw=info.pixels)
        fixed, sessions = info.input_shape[0], runtime.sessions
        device = runtime.device
        return outputs, batching_of(session.infer, photos, fixed=fixed, sessions=sessions, device=device)


def _draft(
    candidate: _Candidate,
    name: str,
    version: str,
    golden: _GoldenSet,
    forced: str | None,
    batching: Batching,
) -> Draft:
    info, trial = candidate.info, candidate.trial
    try:
        return Draft(
            name=name,
            version=version,
            created_at=datetime.now(UTC),
            artifact=candidate.artifact.info,
            runtime=candidate.runtime,
            class_names=info.class_names,
            preprocess=candidate.contract,
            golden=Golden(file=GOLDEN_NAME, images=len(golden.pixels), atol=golden.atol),
            measured=trial,
            machine=info.machine,
            provenance=Provenance(
                run_id=candidate.run_id,
                variant=trial.variant,
                variant_digest=trial.digest,
                checkpoint_digest=info.checkpoint_digest,
                validation_digest=info.validation_digest,
                calibration_digest=info.calibration_digest,
                libraries=info.libraries,
                forced=forced,
                synthetic=info.synthetic,
            ),
            batching=batching,
        )
    except ValidationError as error:
        problems = "\n  ".join(problems_of(error))
        raise WorkbenchError(f"`{trial.variant}` cannot be published\n  {problems}") from error


def _write(folder: Path, draft: Draft, candidate: _Candidate, golden: _GoldenSet) -> None:
    import numpy as np

    (folder / draft.artifact.file).write_bytes(candidate.artifact.read())
    companions = zip(draft.artifact.companions, candidate.artifact.read_companions(), strict=True)
    for companion, data in companions:
        (folder / companion.file).write_bytes(data)
    packed = io.BytesIO()
    np.savez_compressed(packed, pixels=golden.pixels, logits=golden.logits)
    (folder / GOLDEN_NAME).write_bytes(packed.getvalue())
    card = model_card(draft, noise_floor=candidate.info.noise_floor)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
