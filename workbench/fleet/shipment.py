"""What a driver sends to a device, as plain records; files are named by their sha256."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import NonNegativeInt

from workbench.backends.artifact import Artifact, ArtifactInfo
from workbench.fleet.objects import ObjectStore
from workbench.measure.latency import Plan
from workbench.photos.contract import Preprocess
from workbench.results.records import RunInfo
from workbench.system.files import make_folder
from workbench.system.records import Record, Sha256
from workbench.workspace import recipe
from workbench.workspace.recipe import Variant, to_yaml


class SentPixels(Record):
    """The photos as one preprocessing cuts them. content: of the .npy file; digest: their name in a cache."""

    contract: Preprocess
    digest: str
    content: Sha256


class SentVariant(Record):
    """A variant with the links of its chain that the driver has built; the device builds the rest.

    text: a recipe that gives this variant alone.
    """

    name: str
    recipe: str
    text: str
    links: tuple[ArtifactInfo, ...] = ()

    @classmethod
    def of(cls, variant: Variant, links: tuple[ArtifactInfo, ...]) -> "SentVariant":
        return cls(name=variant.name, recipe=variant.recipe, text=to_yaml(variant, "sent"), links=links)

    def variant(self) -> Variant:
        """Raises WorkbenchError where this version does not know the recipe."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recipe.yaml"
            path.write_text(self.text, encoding="utf-8")
            (found,) = recipe.read(path)
        return replace(found, name=self.name, recipe=self.recipe)

    def objects(self) -> Iterator[str]:
        """The digests of its files."""
        for link in self.links:
            yield from (digest for _, digest in link.files)


class Shipment(Record):
    """What all variants of a run share on a device.

    paths: of the validation photos on the driver, for messages. photo: the first of them, for the whole path.
    pixels: the workspace's own preprocessing first. reference: the source model's logits, .npy.
    baseline: with its chain. share: the photos are some of those of a class: what is held to all of them,
    the driver holds.
    """

    info: RunInfo
    source_kind: str
    source_digest: str
    own_size: tuple[int, int]
    labels: tuple[int, ...]
    paths: tuple[str, ...]
    selection: tuple[int, ...]
    certification: tuple[int, ...]
    groups: tuple[int, ...]
    photo: Sha256
    pixels: tuple[SentPixels, ...]
    reference: Sha256
    baseline: SentVariant
    share: bool = False


class SentPlan(Record):
    """How much a device is to measure: of `latency.Plan` what the command line sets."""

    rounds: NonNegativeInt
    turns: NonNegativeInt
    budget_s: float
    seed: int
    memory_bytes: int | None

    @classmethod
    def of(cls, plan: Plan) -> "SentPlan":
        return cls.model_validate({name: getattr(plan, name) for name in cls.model_fields})

    def plan(self) -> Plan:
        return Plan(**self.model_dump())


def placed(info: ArtifactInfo, cache: Path, objects: ObjectStore) -> Artifact:
    """An artifact that was sent: a folder below the cache over the objects that hold its files."""
    folder = cache / "links" / Artifact(Path(), info).digest
    make_folder(folder)
    for file, digest in info.files:
        target = folder / Path(file).name
        target.unlink(missing_ok=True)
        target.hardlink_to(objects.path(digest))
    return Artifact(folder, info)
