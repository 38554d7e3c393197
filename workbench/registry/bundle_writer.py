"""Promotion: try a measured trial once more, number it by what changed, publish it, point an alias at it."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from workbench.backends import Runtime
from workbench.backends.abstention import Abstention, RiskLimits
from workbench.backends.artifact import DEVICE_FORMATS, EXECUTABLE_FORMATS, Artifact, ArtifactCache
from workbench.errors import Refused, Unsuited, WorkbenchError
from workbench.photos.contract import Preprocess
from workbench.registry.abstention import fit_abstention
from workbench.registry.batch_gain import Batching
from workbench.registry.bundle import Bundle
from workbench.registry.explanation_builder import MapsJob, explanation_of
from workbench.registry.logits import Logits, Pixels, compare_logits
from workbench.registry.manifest import (
    CARD_NAME,
    GOLDEN_NAME,
    Draft,
    Golden,
    Manifest,
    MeasuredOn,
    Provenance,
)
from workbench.registry.model_card import model_card
from workbench.registry.semver import BUMPS, Bump, parse
from workbench.registry.shadow_record import Demand, check_shadow
from workbench.registry.store import Registry
from workbench.registry.trial_start import start_apart
from workbench.registry.version_rule import (
    Change,
    abstention_change,
    known_change,
    next_version,
    output_change,
)
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.system.child import ChildError
from workbench.system.files import load_arrays, read_plain
from workbench.system.records import invalid

SERVED = "production"  # the alias that servers follow unless they are told otherwise


@dataclass(frozen=True, slots=True)
class PromotionRequest:
    """A trial to publish, and the alias to point at it.

    bump, version: the number of the caller's choice, at most one of the two; else it is derived.
    forced: the reason to take that number although it promises more than is true; the manifest keeps it.
    caveats, in_field: for the model card, the run's remarks in words and lines of `field_table`. explain:
    publish class activation maps too. measured_on: the devices of the class it is for.
    limits: that the version's answers keep where it does not call them uncertain; None: it never does.
    """

    run: RunFolder
    trial: TrialResult
    name: str
    alias: str = SERVED
    bump: Bump | None = None
    version: str | None = None
    forced: str | None = None
    shadow: Demand | None = None
    caveats: tuple[str, ...] = ()
    in_field: tuple[str, ...] = ()
    explain: bool = False
    measured_on: tuple[MeasuredOn, ...] = ()
    limits: RiskLimits | None = None

    def __post_init__(self) -> None:
        if self.version is not None:
            parse(self.version)

    @property
    def reason(self) -> str:
        """Of the move of the alias."""
        forced = f", forced: {self.forced}" if self.forced else ""
        return f"promoted {self.trial.variant} of run {self.run.run_id}{forced}"


@dataclass(frozen=True, slots=True)
class Promotion:
    """previous: the version that the alias pointed at before. why: of the number, one sentence.
    unchanged: the alias pointed at this model already."""

    variant: str
    alias: str
    bundle: Bundle
    previous: str | None
    why: str
    unchanged: bool

    @property
    def version(self) -> str:
        return self.bundle.version


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A trial's records and its model."""

    info: RunInfo
    trial: TrialResult
    artifact: Artifact
    runtime: Runtime
    abstention: Abstention | None

    @property
    def contract(self) -> Preprocess:
        return self.trial.preprocess or self.info.preprocess


class _GoldenSet(NamedTuple):
    pixels: Pixels
    logits: Logits
    atol: float  # absolute


def promote(request: PromotionRequest, registry: Registry, cache: ArtifactCache) -> Promotion:
    """Publish the model of a trial and point an alias at it.

    Nothing is published where the model does not reproduce its measured logits in a process of its own.
    Raises Refused for that, for a shadow result that is missing or too low, for a number that is too low or
    taken, and where another promotion was faster; WorkbenchError where the run or the cache lack a file.
    """
    name, alias, version, variant = request.name, request.alias, request.version, request.trial.variant
    pointed = registry.pointed(name, alias)
    previous, generation = (pointed.version, pointed.generation) if pointed else (None, 0)
    candidate = _find_candidate(request, cache)
    if request.shadow is not None:
        published = _find_published(registry, name, candidate, first=previous)
        check_shadow(request.shadow, name, alias, published, served=previous)
    same = _find_published(registry, name, candidate, first=previous, request=request)
    if same:
        why = f"this very model is already published as {same.version}"
        if version in (None, same.version):
            after = registry.point(name, alias, same.version, reason=request.reason, expected=generation)
            return Promotion(variant, alias, same, previous, why, unchanged=after.generation == generation)
        if request.forced is None:
            raise Refused(why, hint=f"promote without a version to point `{alias}` at {same.version}")
    bundle, why = _publish(request, registry, candidate, previous)
    try:
        registry.point(name, alias, bundle.version, reason=request.reason, expected=generation)
    except Refused as error:
        message = f"{name} {bundle.version} is published, but {error.message}"
        raise Refused(message, hint=error.hint) from error
    return Promotion(variant, alias, bundle, previous, why, unchanged=False)


def _find_candidate(request: PromotionRequest, cache: ArtifactCache) -> _Candidate:
    run, trial = request.run, request.trial
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
    if artifact.info.format in DEVICE_FORMATS and request.alias == SERVED:
        raise Refused(
            f"`{trial.variant}` is an ExecuTorch program, which no server opens unasked",
            hint="publish it for devices: --alias android; `krishi-bench serve --alias android` opens it too",
        )
    rule = fit_abstention(run, info, trial, run.trials(), request.limits) if request.limits else None
    return _Candidate(info, trial, artifact, runtime, rule)


def _is_asked_for(request: PromotionRequest, found: Bundle) -> bool:
    """Whether a published version of the model to promote has what the request asks for."""
    if request.explain and found.manifest.explanation is None:
        return False
    # A prerelease becomes a release under another number.
    another = request.bump or request.version not in (None, found.version)
    return not (another and parse(found.version).prerelease)


def _find_published(
    registry: Registry,
    name: str,
    candidate: _Candidate,
    *,
    first: str | None,
    request: PromotionRequest | None = None,
) -> Bundle | None:
    """The intact version of this very model; `first` where there are several, else the highest.

    request: it has to have what this asks for.
    """
    info = candidate.info
    model = (candidate.artifact.digest, info.class_names, candidate.contract, info.outputs, candidate.runtime)
    versions = sorted(registry.versions(name), key=lambda version: version == first)
    for version in reversed(versions):
        try:
            bundle = registry.bundle(name, version)
            found = bundle.manifest
            takes = (found.class_names, found.preprocess, found.outputs, found.runtime)
            alike = (bundle.artifact.digest, *takes) == model
            if not alike or abstention_change(found, candidate.abstention):
                continue
            if request is None or _is_asked_for(request, bundle):
                bundle.verify()
                return bundle
        except WorkbenchError:
            continue  # No alias may point at a damaged version; the model gets a new one.
    return None


def _read_golden(run: RunFolder, candidate: _Candidate) -> _GoldenSet:
    """The run's golden images with the logits measured for them."""
    import numpy as np

    trial, size = candidate.trial, candidate.contract.size
    path, predictions = run.golden(candidate.contract), run.predictions(trial.variant)
    if not path.exists():
        path = run.path / GOLDEN_NAME  # the one file of older runs
    pixels, indices = load_arrays(path, read_plain(path), "pixels", "indices")
    (measured,) = load_arrays(predictions, read_plain(predictions), "logits")
    fits = (
        (pixels.dtype.name, indices.dtype.kind, indices.ndim) == ("uint8", "i", 1)
        and pixels.shape == (len(indices), *size, 3)
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
    # Another CPU may swap the two best classes where they are closer than twice the tolerance.
    best = np.sort(logits, axis=1)
    margin = best[:, -1] - best[:, -2] if logits.shape[1] > 1 else np.full(len(logits), np.inf)
    clear = np.flatnonzero(margin > 2 * atol)
    rows = clear if len(clear) else np.argsort(margin)[-1:]
    return _GoldenSet(pixels[rows], logits[rows], atol)


def _tolerance(candidate: _Candidate) -> float:
    """Relative to the largest golden logit."""
    # INT8 and FP16 kernels round differently on each CPU (with and without VNNI, for example), and GPUs add
    # in another order for each batch size; FP32 on CPUs only adds in another order.
    runtime, rounded = candidate.runtime, candidate.artifact.info.precision in ("int8", "fp16", "bf16")
    return 2e-2 if rounded or runtime.device != "cpu" or runtime.computes != "f32" else 1e-3


def _publish(
    request: PromotionRequest, registry: Registry, candidate: _Candidate, previous: str | None
) -> tuple[Bundle, str]:
    """Publish the model as a new version; return its bundle, and why it has its number."""
    golden = _read_golden(request.run, candidate)
    versions = registry.versions(request.name)
    # The number must be true for clients of the version that the alias points at, and of the highest.
    compared = dict.fromkeys([*([previous] if previous else []), *versions[-1:]])
    changes, undecided = _compare(registry, request.name, compared, candidate)
    images = [golden.pixels, *(pixels for _, pixels, _ in undecided)]
    log = request.run.path / "logs" / "promote.txt"
    artifact = replace(candidate.artifact, folder=candidate.artifact.folder.resolve())
    try:
        (outputs, *others), batching = start_apart(
            artifact, candidate.runtime, candidate.contract, images, log=log
        )
    except (ChildError, Unsuited) as error:
        raise Refused(
            f"`{candidate.trial.variant}` was not published: {error.message}", hint=error.hint
        ) from error
    try:
        compare_logits(outputs, golden.logits, golden.atol)
    except WorkbenchError as error:
        raise Refused(
            f"`{candidate.trial.variant}` does not give the logits that were measured: {error.message}",
            hint="nothing was published; run it again on this machine",
        ) from error
    changes += [
        output_change(old, logits, got) for (old, _, logits), got in zip(undecided, others, strict=True)
    ]
    change = max(changes, key=lambda change: BUMPS.index(change.bump), default=None)
    highest, forced = parse(versions[-1]) if versions else None, request.forced is not None
    number = next_version(highest, change, bump=request.bump, version=request.version, forced=forced)
    draft, files = _draft(request, candidate, number, golden, batching), dict[str, bytes]()
    if request.explain:
        job = MapsJob(artifact, candidate.runtime, candidate.contract, candidate.info.outputs, *golden)
        explanation, files = explanation_of(job, log)
        draft = draft.model_copy(update={"explanation": explanation})
    bundle = registry.publish(draft, lambda folder: _write(folder, draft, request, candidate, golden, files))
    return bundle, change.why if change else "the first version"


def _compare(
    registry: Registry, name: str, versions: Iterable[str], candidate: _Candidate
) -> tuple[list[Change], list[tuple[Manifest, Pixels, Logits]]]:
    """The changes since the versions. Where a version's outputs decide: its manifest and golden arrays."""
    changes: list[Change] = []
    undecided = []
    for version in versions:
        try:
            old = registry.bundle(name, version)
        except WorkbenchError as error:
            changes.append(Change("major", f"it cannot be compared with {version}: {error.message}"))
            continue
        change = known_change(old.manifest, candidate.info, candidate.contract, candidate.artifact.info)
        if change := change or abstention_change(old.manifest, candidate.abstention):
            changes.append(change)
            continue
        try:
            undecided.append((old.manifest, *old.golden()))
        except WorkbenchError as error:
            changes.append(
                Change("minor", f"its outputs cannot be compared with {version}'s: {error.message}")
            )
    return changes, undecided


def _draft(
    request: PromotionRequest, candidate: _Candidate, version: str, golden: _GoldenSet, batching: Batching
) -> Draft:
    info, trial = candidate.info, candidate.trial
    try:
        return Draft(
            name=request.name,
            version=version,
            created_at=datetime.now(UTC),
            artifact=candidate.artifact.info,
            runtime=candidate.runtime,
            class_names=info.class_names,
            preprocess=candidate.contract,
            outputs=info.outputs,
            golden=Golden(file=GOLDEN_NAME, images=len(golden.pixels), atol=golden.atol),
            measured=trial,
            machine=info.machine,
            provenance=Provenance(
                run_id=request.run.run_id,
                variant=trial.variant,
                variant_digest=trial.digest,
                checkpoint_digest=info.checkpoint_digest,
                validation_digest=info.validation_digest,
                calibration_digest=info.calibration_digest,
                libraries=info.libraries,
                forced=request.forced,
                synthetic=info.synthetic,
                separation=info.separation,
            ),
            batching=batching,
            remarks=info.remarks,
            measured_on=request.measured_on,
            abstention=candidate.abstention,
        )
    except ValidationError as error:
        raise invalid(f"`{trial.variant}` cannot be published", error) from error


def _write(
    folder: Path,
    draft: Draft,
    request: PromotionRequest,
    candidate: _Candidate,
    golden: _GoldenSet,
    more: Mapping[str, bytes],
) -> None:
    """more: further files, by name."""
    import numpy as np

    (folder / draft.artifact.file).write_bytes(candidate.artifact.read())
    files = draft.artifact.companions
    for companion, data in zip(files, candidate.artifact.read_companions(), strict=True):
        (folder / companion.file).write_bytes(data)
    for name, data in more.items():
        (folder / name).write_bytes(data)
    packed = io.BytesIO()
    np.savez_compressed(packed, pixels=golden.pixels, logits=golden.logits)
    (folder / GOLDEN_NAME).write_bytes(packed.getvalue())
    noise = candidate.info.noise_floor
    card = model_card(draft, noise_floor=noise, caveats=request.caveats, in_field=request.in_field)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
