"""Version numbers are strict SemVer 2.0.0, and the tool derives them from what changed."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import CONTRACT, artifact_info, draft, run_info
from workbench.backends.abstention import Abstention, RiskLimits
from workbench.errors import Refused, WorkbenchError
from workbench.registry.manifest import FileEntry, Golden, Manifest, parse_manifest
from workbench.registry.semver import MAX_LENGTH, Bump, Version, is_version, parse
from workbench.registry.version_rule import (
    Change,
    abstention_change,
    known_change,
    next_version,
    output_change,
)

NUMBERS = st.integers(0, 10**6)
WORDS = st.from_regex(re.compile(r"[A-Za-z-][0-9A-Za-z-]{0,5}", re.ASCII), fullmatch=True)
PRERELEASES = st.lists(st.one_of(NUMBERS.map(str), WORDS), max_size=3).map(tuple)
BUILDS = st.lists(st.one_of(WORDS, st.just("007")), max_size=2).map(tuple)
VERSIONS = st.builds(Version, NUMBERS, NUMBERS, NUMBERS, PRERELEASES, BUILDS)
SMALL = st.integers(0, 2)
CLOSE = st.builds(
    Version, SMALL, SMALL, SMALL, st.sampled_from([(), ("rc", "1"), ("rc", "2"), ("rc", "10"), ("1",)])
)


def by_the_book(a: Version, b: Version) -> int:
    """Rule 11 of the specification, word for word: -1, 0 or 1."""
    if a.core != b.core:
        return -1 if a.core < b.core else 1
    if not a.prerelease or not b.prerelease:
        return (not a.prerelease) - (not b.prerelease)
    for left, right in zip(a.prerelease, b.prerelease, strict=False):
        if left == right:
            continue
        if left.isdigit() and right.isdigit():
            return -1 if int(left) < int(right) else 1
        if left.isdigit() or right.isdigit():
            return -1 if left.isdigit() else 1
        return -1 if left < right else 1
    return (len(a.prerelease) > len(b.prerelease)) - (len(a.prerelease) < len(b.prerelease))


@given(VERSIONS)
def test_a_version_survives_being_written_and_read(version: Version) -> None:
    assert parse(str(version)) == version


@given(VERSIONS | CLOSE, VERSIONS | CLOSE)
def test_precedence_compares_any_two_versions_as_specified(a: Version, b: Version) -> None:
    assert (a.precedence > b.precedence) - (a.precedence < b.precedence) == by_the_book(a, b)


@given(VERSIONS, BUILDS)
def test_build_metadata_takes_no_part_in_precedence(version: Version, build: tuple[str, ...]) -> None:
    other = Version(*version.core, version.prerelease, build)
    assert other.precedence == version.precedence


@given(VERSIONS, st.sampled_from(["patch", "minor", "major"]))
def test_a_bump_is_a_release_above_the_version_it_started_from(version: Version, part: Bump) -> None:
    bumped = version.bump(part)
    assert bumped.precedence > version.precedence
    assert (bumped.prerelease, bumped.build) == ((), ())


def test_the_specifications_own_example_is_in_order() -> None:
    text = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0"
    ordered = text.split()
    shuffled = ordered[::-2] + ordered[::2]
    assert sorted(shuffled, key=lambda version: parse(version).precedence) == ordered


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1.2", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3-rc..1", "1.2.3-01", "1.2.3+", "1.2.3-rc_1"),
        *("1.2.3\n", " 1.2.3", "../1.2.3", "1.2.3/..", "-1.2.3", "\u0661.2.3", "9" * 5000 + ".0.0"),
    ],
)
def test_what_is_no_semver_number_is_refused_with_an_example(text: str) -> None:
    assert not is_version(text)
    with pytest.raises(WorkbenchError, match="is not a version number") as caught:
        parse(text)
    assert caught.value.hint is not None
    assert "1.4.0" in caught.value.hint
    assert len(caught.value.message) < MAX_LENGTH + 40


@pytest.mark.parametrize(
    ("start", "part", "expected"),
    [
        ("1.2.3", "patch", "1.2.4"),
        ("1.2.3", "minor", "1.3.0"),
        ("1.2.3+build", "major", "2.0.0"),
        ("2.0.0-rc.1", "patch", "2.0.0"),
        ("2.0.0-rc.1", "minor", "2.0.0"),
        ("2.0.0-rc.1", "major", "2.0.0"),
        ("2.0.1-rc.1", "minor", "2.1.0"),
        ("2.1.0-rc.1", "major", "3.0.0"),
    ],
)
def test_a_prerelease_becomes_the_release_it_announced(start: str, part: Bump, expected: str) -> None:
    assert str(parse(start).bump(part)) == expected


# What changed, and the number that follows.

ARTIFACT = artifact_info()
DRAFT = draft("1.2.0", golden=Golden(file="golden.npz", images=2, atol=0.1))
INFO = run_info(class_names=DRAFT.class_names, preprocess=CONTRACT)
OLD = Manifest(
    files=(
        FileEntry(path="golden.npz", size_bytes=1, sha256="b" * 64),
        FileEntry(path="model.bin", size_bytes=ARTIFACT.size_bytes, sha256=ARTIFACT.sha256),
    ),
    **dict(DRAFT),
)


PREPROCESSING = "the preprocessing changed since 1.2.0"
FULL = CONTRACT.model_copy(update={"decode": "full"})


@pytest.mark.parametrize(
    ("changes", "bump", "why"),
    [
        ({"info": {"class_names": ("scab", "rust", "well")}}, "major", "the class order changed since 1.2.0"),
        ({"info": {"class_names": ("rust", "scab", "wilt")}}, "major", "the class names changed since 1.2.0"),
        ({"contract": {"resize": 12, "decode": "full"}}, "major", f"{PREPROCESSING}: resize 10 -> 12"),
        ({"contract": {"channels": "BGR"}}, "major", f"{PREPROCESSING}: channels RGB -> BGR"),
        ({"old": {"preprocess": FULL}}, "minor", f"{PREPROCESSING}: decode full -> scaled"),
        ({"contract": {"rounding": "timm"}}, "minor", f"{PREPROCESSING}: rounding torchvision -> timm"),
        (
            {"old": {"preprocess": FULL}, "artifact": {"pixels": True}},
            "major",
            "the network takes another type of input than 1.2.0",
        ),
        ({"artifact": {"input_shape": (0, 3, 16, 16)}}, "major", "the input shape changed since 1.2.0"),
        ({"info": {"checkpoint_digest": "b"}}, "minor", "it was built from another checkpoint than 1.2.0"),
    ],
)
def test_what_clients_would_notice_is_a_change_that_says_what(
    changes: dict[str, dict[str, Any]], bump: Bump, why: str
) -> None:
    records = {"old": OLD, "info": INFO, "contract": CONTRACT, "artifact": ARTIFACT}
    changed = {key: record.model_copy(update=changes.get(key, {})) for key, record in records.items()}
    assert known_change(**changed) == Change(bump, why)  # type: ignore[arg-type]


def test_other_limits_and_a_threshold_that_comes_or_goes_are_a_minor_change_and_new_photos_are_none() -> None:
    rule = Abstention(limits=RiskLimits(), least_confidence=0.8, least_energy=1.0)
    old = OLD.model_copy(update={"abstention": rule})
    more_photos = rule.model_copy(update={"least_confidence": 0.7, "photos": 500})
    assert abstention_change(old, more_photos) is None
    assert abstention_change(OLD, None) is None
    change = Change("minor", "it calls other answers uncertain than 1.2.0 does")
    others = [
        rule.model_copy(update={"least_confidence": None}),
        rule.model_copy(update={"limits": RiskLimits(max_risk=0.1)}),
        None,
    ]
    assert [abstention_change(old, other) for other in others] == [change] * 3


def test_another_batch_size_is_no_change() -> None:
    batched = ARTIFACT.model_copy(update={"input_shape": (1, 3, 8, 8)})
    assert known_change(OLD, INFO, CONTRACT, batched) is None


def test_a_manifest_from_before_photos_could_be_scaled_decodes_them_in_full() -> None:
    data = OLD.model_dump(mode="json")
    assert parse_manifest(json.dumps(data).encode(), Path("m")).preprocess.decode == "scaled"
    data["measured"]["preprocess"] = dict(data["preprocess"])
    for field in ("decode", "rounding"):
        del data["preprocess"][field], data["measured"]["preprocess"][field]
    read = parse_manifest(json.dumps(data).encode(), Path("m"))
    assert (read.preprocess.decode, read.preprocess.rounding) == ("full", "albumentations")
    assert read.measured.preprocess == read.preprocess


LOGITS = np.array([[1.0, 0.0, -1.0], [0.0, 0.05, 2.0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("outputs", "bump"),
    [
        (LOGITS + np.float32(0.05), "patch"),
        (LOGITS + np.float32(0.2), "minor"),
        (LOGITS * np.float32(np.nan), "minor"),
        (LOGITS[:, :2], "minor"),
    ],
)
def test_outputs_within_tolerance_are_a_patch_and_others_a_minor_change(
    outputs: np.ndarray, bump: Bump
) -> None:
    assert output_change(OLD, LOGITS, outputs).bump == bump


def test_another_top1_class_is_a_minor_change_even_within_tolerance() -> None:
    close = np.array([[0.02, 0.0, -1.0]], dtype=np.float32)
    swapped = np.array([[0.0, 0.02, -1.0]], dtype=np.float32)
    change = output_change(OLD, close, swapped)
    assert change.bump == "minor"
    assert "top-1" in change.why


def number(change: Bump | None, **choice: str | bool | None) -> str:
    given: dict[str, object] = {"bump": None, "version": None, "forced": False, **choice}
    highest = parse("1.2.3") if change else None
    return next_version(highest, change and Change(change, "because"), **given)  # type: ignore[arg-type]


def test_the_first_version_is_1_0_0_unless_another_is_asked_for() -> None:
    assert number(None) == "1.0.0"
    assert number(None, version="0.3.0-rc.1") == "0.3.0-rc.1"


@pytest.mark.parametrize(("change", "expected"), [("patch", "1.2.4"), ("minor", "1.3.0"), ("major", "2.0.0")])
def test_the_number_follows_the_change(change: Bump, expected: str) -> None:
    assert number(change) == expected


def test_a_greater_bump_than_needed_is_taken_and_a_smaller_one_refused() -> None:
    assert number("patch", bump="major") == "2.0.0"
    with pytest.raises(Refused, match="a major change, not a patch one: because"):
        number("major", bump="patch")
    assert number("major", bump="patch", forced=True) == "1.2.4"


def test_an_explicit_version_must_not_promise_more_than_is_true() -> None:
    assert number("major", version="2.0.0") == "2.0.0"
    assert number("major", version="2.0.0-rc.1") == "2.0.0-rc.1"
    assert number("minor", version="7.0.0") == "7.0.0"
    for version in ("1.3.0", "1.2.4"):
        with pytest.raises(Refused, match=r"is too low, it takes 2\.0\.0 or higher: because"):
            number("major", version=version)
    assert number("major", version="1.3.0", forced=True) == "1.3.0"


@pytest.mark.parametrize("version", ["1.2.3", "1.2.3-rc.1", "1.2.2", "1.2.3+again"])
def test_an_explicit_version_at_or_below_the_highest_is_refused(version: str) -> None:
    with pytest.raises(Refused, match="is too low"):
        number("patch", version=version)
