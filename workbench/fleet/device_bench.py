"""A device as the bench of a search: the driver decides, it or builders build, the device measures."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Concatenate, ParamSpec, TypeVar

from workbench.backends import takes_onnx
from workbench.backends.artifact import Artifact
from workbench.fleet.builders import Builders
from workbench.fleet.facts import DeviceFacts
from workbench.fleet.link import DeviceGone
from workbench.fleet.session import OWN_FILES, DeviceSession
from workbench.fleet.shipment import SentPixels, SentPlan, SentVariant
from workbench.fleet.work import COMPILED, FleetWork
from workbench.measure.latency import Plan
from workbench.measure.records import BASELINE
from workbench.results.folder import RunFolder
from workbench.results.records import RunInfo, TrialResult
from workbench.run import pipeline
from workbench.run.advice.advise import Advice
from workbench.run.build_variant import Built
from workbench.run.check_variant import Context
from workbench.run.tune.bench import BenchLost
from workbench.run.tune.layers import layers_of
from workbench.run.tune.quick_look import QuickLook
from workbench.steps.int8.layer_sensitivity import LayerSensitivity
from workbench.system.child import call
from workbench.system.progress import Progress
from workbench.workspace.recipe import Variant

LEAST_S = 20.0  # for a build here, after builders have spent the time for it
P = ParamSpec("P")
R = TypeVar("R")


def _or_lost(
    ask: "Callable[Concatenate[DeviceBench, P], R]",
) -> "Callable[Concatenate[DeviceBench, P], R]":
    """A device that is gone ends the search; it is no fault of the candidate's."""

    @wraps(ask)
    def asked(bench: "DeviceBench", /, *given: P.args, **named: P.kwargs) -> R:
        try:
            return ask(bench, *given, **named)
        except DeviceGone as error:
            raise BenchLost(error.message) from error

    return asked


@dataclass(slots=True)
class DeviceBench:
    """One leased device on which a run has begun.

    context: of the search, its folder the device's. work: its context, with the same builds, logs them beside
    the driver's. builders: build first; what they cannot is built here. building: of all searches of the
    driver: one builds at a time, and what another has built comes from the cache. stopped: whether the user
    has ended the run.
    """

    session: DeviceSession
    facts: DeviceFacts
    work: FleetWork
    context: Context
    builders: Builders
    building: Lock
    stopped: Callable[[], bool]
    _pixels: dict[str, SentPixels] = field(default_factory=dict)
    _absent: dict[str, str | None] = field(default_factory=dict)

    @property
    def folder(self) -> RunFolder:
        return self.context.folder

    @_or_lost
    def advice(self, variants: Sequence[Variant]) -> Advice:
        absent = {v.name: COMPILED for v in variants if not takes_onnx(v.runtime)}
        asked = [variant for variant in variants if variant.name not in absent]
        absent |= self.session.absent([SentVariant.of(variant, ()) for variant in asked])
        self._absent |= {variant.digest: absent.get(variant.name) for variant in variants}
        baseline = self.context.built[BASELINE].artifact
        with self.building:  # it may read the network
            return pipeline.advice_on(self.facts.machine, absent, self.context.prepared, baseline, variants)

    @_or_lost
    def not_here(self, variant: Variant) -> str | None:
        if not takes_onnx(variant.runtime):
            return COMPILED
        if variant.digest not in self._absent:
            sent = SentVariant.of(variant, ())
            self._absent[variant.digest] = self.session.absent([sent]).get(variant.name)
        return self._absent[variant.digest]

    def build(self, variant: Variant, timeout_s: float) -> Built:
        with self.building:
            self._check_not_stopped()
            began = time.monotonic()
            self.work.build_on(replace(self.builders, timeout_s=timeout_s), [variant])
            self._check_not_stopped()
            left_s = max(LEAST_S, timeout_s - (time.monotonic() - began))
            built = self.work.context.build(variant, min(timeout_s, left_s))
            self._pixels[variant.name] = self.work.add(variant)
        return built

    def _check_not_stopped(self) -> None:
        if self.stopped():
            raise BenchLost("the run was stopped")

    @_or_lost
    def look(self, variant: Variant, built: Built) -> QuickLook:  # noqa: ARG002 - the device has its own
        sent, pixels = self._sent(variant)
        return self.session.look(sent, pixels)

    def _sent(self, variant: Variant) -> tuple[SentVariant, SentPixels]:
        """The variant, once the device has all that it takes."""
        sent, pixels = self.work.sent(variant, self.facts), self._pixels[variant.name]
        self._send([*sent.objects(), pixels.content])
        return sent, pixels

    def _send(self, digests: Sequence[str]) -> None:
        objects: Mapping[str, Path] = self.work.objects
        self.session.send({digest: objects[digest] for digest in digests})

    @_or_lost
    def layers(
        self, variant: Variant, files: tuple[Artifact, Artifact], seconds: float, timeout_s: float
    ) -> list[LayerSensitivity]:
        """What a layer costs is computed here, on calibration photos; what it buys, the device measures."""
        source, quantized = (artifact.info for artifact in files)
        pixels = self._pixels[variant.name]
        self._send([source.sha256, quantized.sha256, pixels.content])
        times = self.session.profile(source, quantized, pixels.contract)
        log, job = self.folder.log(variant.name), self.context.job_of(variant.name)
        with self.building:
            return call(
                layers_of,
                job,
                *files,
                seconds,
                times,
                log=log,
                timeout_s=timeout_s,
                label="the layers' errors",
            )

    @_or_lost
    def check(self, variant: Variant, stage: Progress) -> TrialResult:
        self.context.report(stage)
        trial = self.session.check(self._sent(variant)[0])
        self.session.fetch(self.folder.path, skip=OWN_FILES)
        with self.building:
            trial = self.work.completed(trial, self.folder)
        self.folder.append(trial)
        return trial

    @_or_lost
    def time(self, info: RunInfo, passed: Sequence[TrialResult], plan: Plan) -> None:
        timed, trials = self.session.race(SentPlan.of(plan), [trial.variant for trial in passed])
        self.session.fetch(self.folder.path, skip=OWN_FILES)
        self.folder.save_info(timed.model_copy(update={"search": info.search}))
        for trial in trials:
            with self.building:
                completed = self.work.completed(trial, self.folder)
            self.folder.append(completed)
