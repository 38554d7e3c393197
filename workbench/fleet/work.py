"""What a driver prepares for all devices: the variants it has built, and the files that go out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.backends import takes_onnx
from workbench.backends.artifact import Artifact, ArtifactCache, load_artifact
from workbench.errors import WorkbenchError
from workbench.fleet import build_links
from workbench.fleet.builders import Builders
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.shipment import SentPixels, SentVariant, Shipment
from workbench.results.folder import RunFolder
from workbench.results.reasons import Skipped
from workbench.results.records import TrialResult
from workbench.run import build
from workbench.run.build_variant import Built
from workbench.run.check_variant import (
    Context,
    calibration_images,
    cause_of,
    ended,
    new_trial,
    saturation,
)
from workbench.run.prepare import overridden
from workbench.system import machine
from workbench.system.child import call
from workbench.system.files import digest_of, file_name, new_file, sha256_file
from workbench.system.progress import Progress
from workbench.workspace.recipe import Variant

DRIVER = "the driver"  # as the machine that has built something
COMPILED = "a fleet sends no compiled code, and torch variants are nothing else: measure them on the device"


@dataclass(slots=True)
class FleetWork:
    """The run of a driver. context: of its own machine, where the baseline was built and checked.

    links: what was built of each variant, with keys. ended: variants that no device need try, and why.
    objects: files to be sent, by digest.
    """

    context: Context
    variants: Sequence[Variant]
    links: dict[str, list[tuple[str, Artifact]]] = field(default_factory=dict)
    ended: dict[str, TrialResult] = field(default_factory=dict)
    objects: dict[str, Path] = field(default_factory=dict)
    pixels: list[SentPixels] = field(default_factory=list)
    reference: str = ""

    def build_all(self, builders: Builders | None = None) -> None:
        """Build every variant as far as one machine can for all: on the builders first, what is left here."""
        if builders is not None:
            self.build_on(builders, [self.context.baseline, *self.variants])
        total = len(self.variants)
        for number, variant in enumerate([self.context.baseline, *self.variants]):
            self.context.report(Progress("building for the fleet", number, total + 1, variant.name))
            if not takes_onnx(variant.runtime):
                cause = Skipped(variant=variant.name, message=COMPILED)
                self.ended[variant.name] = ended(new_trial(variant), cause)
                continue
            try:
                self.links[variant.name] = links = self._built(variant)
                # Now, and not while a device of this machine is timed; it is remembered on disk.
                saturation(self.context, variant, Built(*links[-1], None))
            except WorkbenchError as error:
                self.ended[variant.name] = ended(new_trial(variant), cause_of(variant, error))
        self._add_photos()

    def build_on(self, builders: Builders, variants: Sequence[Variant]) -> None:
        """Have builders make what is missing of these, into the cache here."""
        wanted = []
        for variant in variants:
            try:
                if takes_onnx(variant.runtime):
                    wanted.append((self._job(variant), variant))
            except WorkbenchError:  # its own build says so
                continue
        builders.build(wanted)

    def built_on(self) -> dict[str, tuple[str, ...]]:
        """The machine that built each link of a variant, the export first."""
        return {
            name: tuple(artifact.info.built_on or DRIVER for _, artifact in links)
            for name, links in self.links.items()
        }

    def _job(self, variant: Variant) -> build.Job:
        """With its photos. Raises WorkbenchError."""
        context = self.context
        contract = overridden(context.job.contract, variant.preprocess)
        if contract != context.job.contract:
            context.contracts[variant.name] = contract
        return context.job_of(variant.name)

    def _built(self, variant: Variant) -> list[tuple[str, Artifact]]:
        context, job = self.context, self._job(variant)
        if build.find(job, variant) is not None:
            found = build_links.links(job, variant)
        else:
            log, timeout_s = context.folder.log(variant.name), context.build_timeout_s
            found = call(build_links.links, job, variant, log=log, timeout_s=timeout_s, label="the build")
        for _, artifact in found:
            for file, digest in artifact.info.files:
                self.objects[digest] = artifact.folder / file
        if not any(sent.contract == job.contract for sent in self.pixels):
            content = sha256_file(job.photos.path)
            self.objects[content] = job.photos.path
            self.pixels.append(SentPixels(contract=job.contract, digest=job.photos.digest, content=content))
        return found

    def add(self, variant: Variant) -> SentPixels:
        """Build one more variant, as far as one machine can for all. Returns the photos as it takes them.

        Raises WorkbenchError.
        """
        if variant.name not in self.links:
            self.links[variant.name] = self._built(variant)
            self.variants = [*self.variants, variant]
        contract = self.context.job_of(variant.name).contract
        return next(sent for sent in self.pixels if sent.contract == contract)

    def _add_photos(self) -> None:
        """The reference, and a photo for the whole path."""
        import numpy as np

        path = self.context.folder.path / "reference.npy"
        with new_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, self.context.reference)
        self.reference = sha256_file(path)
        validation = self.context.prepared.validation
        self.objects |= {self.reference: path, validation.contents[0]: validation.paths[0]}

    def sent(self, variant: Variant, facts: DeviceFacts) -> SentVariant:
        """The variant for one device: without the links that another processor must build for itself."""
        links = self.links[variant.name]
        if facts.machine.processor != machine.collect().processor:
            links = links[: build_links.portable_links(variant)]
        return SentVariant.of(variant, tuple(artifact.info for _, artifact in links))

    def shipment(self, run_id: str, facts: DeviceFacts) -> Shipment:
        context = self.context
        prepared, parts, job = context.prepared, context.parts, context.job
        runtimes = {variant.name: variant.runtime for variant in (context.baseline, *self.variants)}
        about = {"run_id": run_id, "machine": facts.machine, "libraries": facts.libraries}
        return Shipment(
            info=context.info.model_copy(update={**about, "runtimes": runtimes}),
            source_kind=prepared.source_kind,
            source_digest=job.source_digest,
            own_size=job.own_size,
            labels=job.photos.labels,
            paths=tuple(map(str, prepared.validation.paths)),
            selection=parts.selection,
            certification=parts.certification,
            groups=parts.groups,
            photo=prepared.validation.contents[0],
            pixels=tuple(self.pixels),
            reference=self.reference,
            baseline=self.sent(context.baseline, facts),
        )

    def completed(self, trial: TrialResult, folder: RunFolder) -> TrialResult:
        """A device's trial with what the driver knows: what it has built, and what no device decides."""
        if trial.status not in ("ok", "pruned") or trial.artifact_digest is None:
            return trial
        variant = next(v for v in (self.context.baseline, *self.variants) if v.name == trial.variant)
        built = self._as_measured(variant, trial, folder)
        if built is None:
            return trial
        update: dict[str, object] = {
            "artifact_key": built.key,
            "built_on": built.artifact.info.built_on,
            "calibration_images": calibration_images(variant, self.context.job),
        }
        if trial.device == "cpu":
            update["saturation"] = saturation(self.context, variant, built)
        return trial.model_copy(update=update)

    def _as_measured(self, variant: Variant, trial: TrialResult, folder: RunFolder) -> Built | None:
        """The artifact that the device measured, in the driver's cache; None where it was not brought yet."""
        key, artifact = self.links[variant.name][-1]
        if artifact.digest == trial.artifact_digest:
            return Built(key, artifact, None)
        brought = folder.path / "artifacts" / file_name(variant.name)
        if not brought.is_dir():
            return None
        key = digest_of(["built by a device", trial.artifact_digest])
        cache = ArtifactCache(self.context.job.cache)
        found = load_artifact(brought)
        stored = cache.find(key) or cache.store(key, lambda target: build_links.copied(found, target))
        return Built(key, stored, None)
