"""The photos below a folder, by their content; what else is there is counted."""

import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import WorkbenchError, did_you_mean, plural, some
from workbench.photos.signatures import HEAD, PHOTOS, kind_of_file
from workbench.system.files import junk_owner

# What is named like a photo and is none is an error, as a photo that cannot be read.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".hif", ".gif", ".bmp"}
    | {".tif", ".tiff", ".jp2", ".jxl", ".ppm", ".mpo"}
)


@dataclass(slots=True)
class Walk:
    """Photos below folders, links followed.

    passed: how many of what else was there, by `noun| and what follows it`. unreadable: links to nothing and
    folders that may not be read, with the reason.
    """

    passed: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    _reached: set[str] = field(default_factory=set)

    def photos(self, folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
        """Photos at any depth, by path. above: the real paths of the folders that it was reached by."""
        here = folder.resolve()
        if here in above:
            self.passed["link loop"] += 1
            return
        for path in self.entries(folder):
            if (mode := self.mode(path)) is None or self.skips(path.name):
                continue
            if stat.S_ISDIR(mode):
                yield from self.photos(path, (*above, here))
            elif not stat.S_ISREG(mode):
                self.passed["special file"] += 1
            elif self.is_photo(path) and self._is_new(path):
                yield path

    def entries(self, folder: Path) -> list[Path]:
        """What is in a folder, by name."""
        try:
            return sorted(folder.iterdir())
        except OSError as error:
            self.unreadable.append(f"{folder}: {error.strerror}")
            return []

    def skips(self, name: str) -> bool:
        """Whether it is hidden or left by a program; counted then."""
        owner = junk_owner(name)
        if owner is not None or name.startswith("."):
            self.passed[f"| of {owner}" if owner else "| hidden"] += 1
            return True
        return False

    def mode(self, path: Path) -> int | None:
        """The type of what a path leads to. None for a link to nothing, which is noted."""
        try:
            return path.stat().st_mode
        except OSError as error:
            if junk_owner(path.name) is None and not path.name.startswith("."):
                target = f"link to {path.readlink()}: " if path.is_symlink() else ""
                self.unreadable.append(f"{path}: {target}{error.strerror}")
            return None

    def is_photo(self, path: Path) -> bool:
        """Whether its content, or else its name, is a photo's; counted where it is not."""
        try:
            with path.open("rb") as file:
                kind = kind_of_file(file.read(HEAD))
        except OSError:
            return True  # reading it will say why it cannot be
        if kind in PHOTOS or path.suffix.lower() in SUFFIXES:
            return True
        self.passed[kind] += 1
        return False

    def _is_new(self, path: Path) -> bool:
        real = str(path.resolve())
        if real in self._reached:
            self.passed["| reached twice by links"] += 1
            return False
        self._reached.add(real)
        return True

    def anew(self) -> "Walk":
        """A walk of its own that counts here: what it reaches may have been reached by this one."""
        return Walk(self.passed, self.unreadable)

    def notes(self) -> list[str]:
        """`passed over: 3 text files, 2 of macOS`: the most frequent first."""
        said = []
        for what, count in self.passed.most_common():
            noun, _, rest = what.partition("|")
            said.append(f"{plural(count, noun) if noun else f'{count:,}'}{rest}")
        return [f"passed over: {', '.join(said)}"] if said else []

    def check(self, where: str) -> None:
        """Raise WorkbenchError where something could not be read. where: the field, for the message."""
        if self.unreadable:
            listed = some(self.unreadable, quote="", separator="\n  ")
            raise WorkbenchError(
                f"{where}: links or folders that cannot be read: {len(self.unreadable)}\n  {listed}",
                hint="mend or remove them: leaving photos out silently would change the accuracy",
            )


class ClassNames:
    """The labels of class names as people write them: accents in any form, with spaces around."""

    def __init__(self, names: Sequence[str], *, where: str) -> None:
        """Raises WorkbenchError where two names are the same but for that. where: the field."""
        self.names = names
        self._labels = {name: label for label, name in enumerate(names)}
        for label, name in enumerate(names):
            other = self._labels.setdefault(normal_form(name), label)
            if other != label and normal_form(names[other]) == normal_form(name):
                raise WorkbenchError(
                    f"{where}: the class names {other + 1} and {label + 1}, `{name}`, differ in spaces "
                    "around them or in the form of their accents only",
                    hint="give every class a name of its own in `model.class_names`",
                )

    def label(self, name: str) -> int | None:
        """None for a name of no class."""
        return self._labels.get(name, self._labels.get(normal_form(name)))

    def hint(self, unknown: str, otherwise: str) -> str:
        """What to do about a name of no class."""
        return did_you_mean(normal_form(unknown), self.names) or f"{otherwise}: {some(self.names)}"


def normal_form(name: str) -> str:
    """As macOS and Linux agree on: composed accents, without spaces around."""
    return unicodedata.normalize("NFC", name).strip()


def class_folders(source: Path, classes: ClassNames, where: str) -> tuple[list[tuple[Path, int]], list[str]]:
    """The photos of class folders with their labels, and notes. where: the field, for messages.

    Raises WorkbenchError for a folder of photos that is no class, and for broken links.
    """
    walk = Walk()
    pairs: list[tuple[Path, int]] = []
    walks: dict[int, Walk] = {}
    folders: dict[int, list[str]] = {}
    unknown: list[str] = []
    nested: Counter[str] = Counter()
    root = source.resolve()
    for path in walk.entries(source):
        label, mode = classes.label(path.name), walk.mode(path)
        if mode is None or (label is None and walk.skips(path.name)):
            continue
        if not stat.S_ISDIR(mode):
            if stat.S_ISREG(mode) and walk.is_photo(path):
                walk.passed["photo| in no class folder"] += 1
        elif label is not None:
            mine = walks.setdefault(label, walk.anew())
            folders.setdefault(label, []).append(path.name)
            found = [(photo, label) for photo in mine.photos(path, (root,))]
            nested.update(_nested(path, found, classes))
            pairs += found
        elif next(walk.anew().photos(path, (root,)), None) is not None:
            unknown.append(path.name)
        else:
            walk.passed["folder| without photos"] += 1
    if unknown:
        raise WorkbenchError(
            f"{where}: {source} has {some(unknown)}, which the model does not know",
            hint=_deeper(source, unknown, classes)
            or classes.hint(unknown[0], f"name each folder like one of the {len(classes.names)} classes"),
        )
    walk.check(where)
    merged = _merged(folders, classes)
    inside = [f"{plural(count, 'photo')} of {place}" for place, count in nested.items()]
    return pairs, [*walk.notes(), *merged, *inside]


def _merged(folders: Mapping[int, Sequence[str]], classes: ClassNames) -> list[str]:
    """Notes on classes with several folders."""
    return [
        f"the folders {some(names)} are one class, `{classes.names[label]}`"
        for label, names in folders.items()
        if len(names) > 1
    ]


def _deeper(source: Path, unknown: Sequence[str], classes: ClassNames) -> str | None:
    """A hint where the folders of classes lie in folders that are there; those of training come last."""
    named = {name: [classes.label(path.name) for path in Walk().entries(source / name)] for name in unknown}
    found = sorted(
        (name for name in unknown if set(named[name]) - {None}), key=lambda name: "train" in name.lower()
    )
    return f"folders of classes lie in {some(found)}: give `{source / found[0]}`" if found else None


def _nested(folder: Path, found: Sequence[tuple[Path, int]], classes: ClassNames) -> Iterator[str]:
    """For each photo below a folder of another class: where it lies, and as what it counts."""
    for photo, label in found:
        for part in photo.relative_to(folder).parts[:-1]:
            if classes.label(part) not in (None, label):
                yield f"`{folder.name}` lie in a folder `{part}`, and count as `{classes.names[label]}`"


def count_photos(source: Path) -> int | None:
    """How many photos a folder holds; None where it is none: a CSV is read with the names of the classes."""
    return sum(1 for _ in Walk().photos(source)) if source.is_dir() else None


def survey(source: Path) -> str:
    """`80 photos; passed over: 2 of macOS`: what a folder of photos holds, in words; a CSV's name."""
    if not source.is_dir():
        return f"listed in {source.name}" if source.is_file() else "not there"
    walk = Walk()
    count = sum(1 for _ in walk.photos(source))
    broken = [f"unreadable: {some(walk.unreadable, quote='')}"] if walk.unreadable else []
    return "; ".join([plural(count, "photo"), *walk.notes(), *broken])
