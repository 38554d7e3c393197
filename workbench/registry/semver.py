"""Version numbers: strict SemVer 2.0.0 (https://semver.org/spec/v2.0.0.html)."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from workbench.errors import WorkbenchError

Bump = Literal["patch", "minor", "major"]
BUMPS: tuple[Bump, ...] = ("patch", "minor", "major")  # from the least change to the greatest

MAX_LENGTH = 64  # a version is also a folder's name, which has 255 bytes at most

_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRERELEASE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_PATTERN = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})"
    rf"(?:-({_PRERELEASE}(?:\.{_PRERELEASE})*))?"
    r"(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)

Precedence = tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]


@dataclass(frozen=True, slots=True)
class Version:
    """A parsed version. Sort by `precedence`, which leaves out build metadata; equality includes it."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()
    build: tuple[str, ...] = ()

    def __str__(self) -> str:
        prerelease = f"-{'.'.join(self.prerelease)}" if self.prerelease else ""
        build = f"+{'.'.join(self.build)}" if self.build else ""
        return f"{self.major}.{self.minor}.{self.patch}{prerelease}{build}"

    @property
    def core(self) -> tuple[int, int, int]:
        return self.major, self.minor, self.patch

    @property
    def precedence(self) -> Precedence:
        """Rule 11: a release is above its prereleases; numbers are below words and compare as numbers."""
        identifiers = tuple(
            (False, int(part), "") if part.isdigit() else (True, 0, part) for part in self.prerelease
        )
        return *self.core, not self.prerelease, identifiers

    def bump(self, part: Bump) -> "Version":
        """The next release that differs in `part`: that of a prerelease is the release it announced."""
        if self.prerelease:
            announced = {"patch": True, "minor": self.patch == 0, "major": self.minor == self.patch == 0}
            if announced[part]:
                return replace(self, prerelease=(), build=())
        if part == "patch":
            return Version(self.major, self.minor, self.patch + 1)
        return Version(self.major + 1, 0, 0) if part == "major" else Version(self.major, self.minor + 1, 0)


def _match(text: str) -> re.Match[str] | None:
    return _PATTERN.fullmatch(text) if len(text) <= MAX_LENGTH else None


def is_version(text: str) -> bool:
    return _match(text) is not None


def parse(text: str) -> Version:
    """Raises WorkbenchError where `text` is no SemVer number, as `1.2`, `v1.2.0` and `01.2.0`."""
    if (matched := _match(text)) is None:
        raise WorkbenchError(
            f"`{text[:MAX_LENGTH]}` is not a version number",
            hint="use MAJOR.MINOR.PATCH, such as 1.4.0, or 2.0.0-rc.1 for a candidate (semver.org)",
        )
    major, minor, patch, *labels = matched.groups()
    prerelease, build = (tuple(label.split(".")) if label else () for label in labels)
    return Version(int(major), int(minor), int(patch), prerelease, build)
