"""The links of a build: the driver of a fleet makes them, and a device takes the rest from there."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from workbench.backends import backend_of
from workbench.backends.artifact import Artifact, ArtifactCache
from workbench.run.build import Job, chain, links_of
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
