"""Derive the number of a new version from what its clients would notice.

major   the class list or the input contract changed: clients must change too
minor   the predictions, the decoding of large photos or the rounding of sizes changed, or when an answer
        is called uncertain
patch   the same checkpoint, and the outputs agree within the published tolerance
"""

from collections.abc import Set
from dataclasses import dataclass

from workbench.backends.abstention import Abstention
from workbench.backends.artifact import ArtifactInfo
from workbench.errors import Refused, WorkbenchError
from workbench.photos.contract import Preprocess
from workbench.registry.logits import Logits, compare_logits
from workbench.registry.manifest import Manifest
from workbench.registry.semver import BUMPS, Bump, Version, parse
from workbench.results.records import RunInfo

# Clients send the same photos; the pixels of some differ a little.
SLIGHT = frozenset({"decode", "rounding"})


@dataclass(frozen=True, slots=True)
class Change:
    """A difference from a published version, and the least bump that announces it."""

    bump: Bump
    why: str


def known_change(old: Manifest, info: RunInfo, contract: Preprocess, artifact: ArtifactInfo) -> Change | None:
    """The change that the records show; None where the outputs decide between minor and patch."""
    if old.class_names != info.class_names:
        what = "order" if sorted(old.class_names) == sorted(info.class_names) else "names"
        return Change("major", f"the class {what} changed since {old.version}")
    if moved := _moved(old.preprocess, contract, set(Preprocess.model_fields) - SLIGHT):
        return Change("major", f"the preprocessing changed since {old.version}: {moved}")
    # No client sees the batch size.
    if old.artifact.input_shape[1:] != artifact.input_shape[1:]:
        return Change("major", f"the input shape changed since {old.version}")
    if old.outputs != info.outputs:
        return Change("major", f"the network gives {info.outputs}, not {old.outputs} as {old.version} does")
    if old.artifact.pixels != artifact.pixels:
        return Change("major", f"the network takes another type of input than {old.version}")
    if moved := _moved(old.preprocess, contract, SLIGHT):
        return Change("minor", f"the preprocessing changed since {old.version}: {moved}")
    if old.provenance.checkpoint_digest != info.checkpoint_digest:
        return Change("minor", f"it was built from another checkpoint than {old.version}")
    return None


def abstention_change(old: Manifest, rule: Abstention | None) -> Change | None:
    """The change where other limits decide when an answer is uncertain, or a threshold came or went."""
    if _abstains(old.abstention) == _abstains(rule):
        return None
    return Change("minor", f"it calls other answers uncertain than {old.version} does")


def _abstains(rule: Abstention | None) -> object:
    # The thresholds themselves move with every set of photos.
    return rule and (rule.limits, rule.least_confidence is None, rule.least_energy is None)


def _moved(old: Preprocess, new: Preprocess, fields: Set[str]) -> str:
    return ", ".join(
        f"{field} {getattr(old, field)} -> {getattr(new, field)}"
        for field in Preprocess.model_fields
        if field in fields and getattr(old, field) != getattr(new, field)
    )


def output_change(old: Manifest, logits: Logits, got: Logits) -> Change:
    """logits: recorded for the golden images of `old`. got: the new model's for the same images."""
    try:
        difference = compare_logits(got, logits, old.golden.atol)
    except WorkbenchError as error:
        return Change("minor", f"its predictions differ from {old.version}'s: {error.message}")
    agrees = f"its logits agree with {old.version}'s within {difference:.2g}"
    return Change("patch", f"it was built from the same checkpoint as {old.version}, and {agrees}")


def next_version(
    highest: Version | None, change: Change | None, *, bump: Bump | None, version: str | None, forced: bool
) -> str:
    """The new version's number. highest, change: None where nothing is published yet.

    Raises Refused where the caller's choice of a bump or version promises more than is true, unless forced.
    """
    wanted = parse(version) if version is not None else None
    if highest is None or change is None:
        return str(wanted or "1.0.0")
    least = highest.bump(change.bump)
    hint = "leave the number to the tool, or give a reason: --force REASON"
    if wanted is not None:
        # Cores are compared, so that a prerelease such as 2.0.0-rc.1 may announce a major change.
        too_low = wanted.core < least.core or wanted.precedence <= highest.precedence
        if too_low and not forced:
            raise Refused(f"{wanted} is too low, it takes {least} or higher: {change.why}", hint=hint)
        return str(wanted)
    chosen = bump or change.bump
    if BUMPS.index(chosen) < BUMPS.index(change.bump) and not forced:
        raise Refused(f"this is a {change.bump} change, not a {chosen} one: {change.why}", hint=hint)
    return str(highest.bump(chosen))
