"""The links of a build: a fleet's driver and its builders make them, a device takes the rest from there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from workbench.backends import backend_of
from workbench.backends.artifact import Artifact, ArtifactCache
from workbench.errors import WorkbenchError
from workbench.run.build import EXPORT_PACKAGES, Job, chain, links_of
from workbench.steps import Step
from workbench.workspace.recipe import Variant


def links(job: Job, variant: Variant) -> list[tuple[str, Artifact]]:
    """Every link of the chain with its key, the export first; what the cache lacks is built. Raises
    WorkbenchError. No engine is prepared: that is for the machine that runs it."""
    cache, found = ArtifactCache(job.cache), list[tuple[str, Artifact]]()

    def get(key: str, make: Callable[[Path], Artifact]) -> Artifact:
        found.append((key, cache.find(key) or cache.store(key, make)))
        return found[-1][1]

    chain(job, variant, get)
    return found


@dataclass(frozen=True, slots=True)
class LinkTask:
    """A link that is still to be built, the same for all machines. made: the links before it."""

    key: str
    job: Job
    variant: Variant
    made: tuple[Artifact, ...]

    @property
    def step(self) -> Step | None:
        """The step that makes it; None for an export and for the conversion to what a runtime opens."""
        at = len(self.made) - 1
        return self.variant.steps[at] if 0 <= at < len(self.variant.steps) else None

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions of the machine that builds it whose versions decide the file."""
        if not self.made:
            return EXPORT_PACKAGES
        if (step := self.step) is not None:
            return () if step.environment(self.variant.runtime) else tuple(step.PACKAGES)
        runtime = self.variant.runtime
        return () if runtime.environment() else tuple(backend_of(runtime).PACKAGES)


def missing_link(job: Job, variant: Variant, known: dict[str, Artifact]) -> LinkTask | None:
    """The first link that the cache lacks; None where it lacks none that is the same for all machines.

    known: what was found before, by key; it grows. Raises WorkbenchError.
    """
    cache, made, missing = ArtifactCache(job.cache), list[Artifact](), list[str]()

    def get(key: str, _: object) -> Artifact | None:
        artifact = known.get(key) or cache.find(key)
        if artifact is None:
            missing.append(key)
        else:
            known[key] = artifact
            made.append(artifact)
        return artifact

    chain(job, variant, get)
    if not missing or len(made) >= portable_links(variant):
        return None
    return LinkTask(missing[0], job, variant, tuple(made))


def make_link(job: Job, variant: Variant, made: Sequence[Artifact], key: str) -> Artifact:
    """The link after those made, from the cache or built. Raises WorkbenchError, also where this machine
    would not build what `key` says."""
    cache, given, built = ArtifactCache(job.cache), iter(made), list[Artifact]()

    def get(found: str, make: Callable[[Path], Artifact]) -> Artifact | None:
        if (sent := next(given, None)) is not None:
            return sent
        if built:
            return None
        if found != key:
            raise WorkbenchError("its packages or its code would build another file than the driver's")
        built.append(cache.find(key) or cache.store(key, make))
        return built[0]

    chain(job, variant, get)
    return built[0]


def adopt(job: Job, variant: Variant, made: Sequence[Artifact]) -> tuple[str, Artifact]:
    """As `build`, where another machine has made the first links of the chain. Raises WorkbenchError."""
    cache, given = ArtifactCache(job.cache), iter(made)

    def get(key: str, make: Callable[[Path], Artifact]) -> Artifact:
        sent = next(given, None)
        return cache.find(key) or cache.store(key, make if sent is None else partial(copied, sent))

    built = chain(job, variant, get)
    assert built is not None
    if (prepare := backend_of(variant.runtime).prepare) is not None:
        prepare(built[1], variant.runtime)
    return built


def copied(source: Artifact, folder: Path) -> Artifact:
    """The artifact with its files, which are checked, in another folder."""
    (folder / source.info.file).write_bytes(source.read())
    for companion, data in zip(source.info.companions, source.read_companions(), strict=True):
        (folder / companion.file).write_bytes(data)
    return replace(source, folder=folder)


def portable_links(variant: Variant) -> int:
    """How many of them do not depend on the processor that makes them."""
    bound = [n for n, step in enumerate(variant.steps) if "processor" in step.READS]
    return 1 + bound[0] if bound else links_of(variant)
