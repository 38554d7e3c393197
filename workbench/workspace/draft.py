"""`krishi-bench init`: a commented krishi.yaml from what a folder holds."""

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from workbench.errors import WorkbenchError, some
from workbench.model.source.checkpoint_file import kind_of
from workbench.model.source.file_facts import examine
from workbench.model.source.transformers_folder import CONFIG, describe, is_classifier
from workbench.photos.folders import Walk, survey
from workbench.system.files import is_junk, write_atomic
from workbench.workspace.workspace import FILE_NAME

CHECKPOINTS = (".ckpt", ".pt", ".pth", ".onnx", ".pt2", ".safetensors")
VALIDATION = ("val", "valid", "validation", "test")
CALIBRATION = ("calib", "calibration", "train")
# No CSV: by that name it lists photos.
LABELS = {
    f"{stem}{end}" for stem in ("labels", "classes", "class_names") for end in (".json", ".txt", ".yaml")
}
LABELS |= {"class_to_idx.json", "idx_to_class.json", "id2label.json"}
FACTORIES = ("create_model", "build_model", "make_model", "get_model")
DEPTH = 3  # levels of folders that are searched
KINDS = "Lightning, state dict, TorchScript, .pt2, .onnx; or a folder of transformers"
FACTORY = "builds the network, for state dicts; or timm:name"
TRUST = "  # trust_code: true                          # reading a .pt2 may run code stored in it\n"
DRAFT = """\
# What krishi-bench measures and serves. Paths are relative to this file.
model:
{checkpoint}
{factory}
  # factory_args: {{num_classes: 38}}
{trust_code}{class_names}
data:                                         # class folders of photos, or a CSV of path,label
{validation}
{calibration}
  # train: data/train                         # photos of the training: none may be among those of validation
# As the network was trained; what the checkpoint says itself may be left out.
# preprocess: {{resize: 256, crop: 224, interpolation: bilinear,      # or resize: [224, 224], squeezed
#              mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}
budget:
  max_accuracy_drop: 0.01                     # fraction of top-1, against FP32, proved at 95 %
  objective: latency                          # or throughput, size, memory
  # max_size_mb: 10
  # max_latency_ms: 20
  # max_memory_mb: 100
"""


@dataclass(frozen=True, slots=True)
class Found:
    """The recognised parts, as paths relative to the folder; None for those that are missing.

    others: checkpoints that could have been taken as well.
    """

    checkpoint: str | None
    factory: str | None
    class_names: str | None
    validation: str | None
    calibration: str | None
    others: tuple[str, ...] = ()


def write_draft(folder: Path) -> tuple[Path, list[str]]:
    """Write krishi.yaml. Returns its path and a line for each part, found or missing. Raises WorkbenchError
    where the file exists."""
    path = folder / FILE_NAME
    if path.exists():
        raise WorkbenchError(f"{path} is there already", hint="edit it, or move it away first")
    if not folder.is_dir():
        raise WorkbenchError(f"{folder} is not a folder")
    found = look(folder)
    write_atomic(path, draft(found).encode())
    model = folder / found.checkpoint if found.checkpoint else None
    whole = model is not None and _is_whole(model)
    summary, named = _summary(model, found.checkpoint or "") if model else (None, False)
    what = {
        "checkpoint": summary and summary + (f"; not {some(found.others)}" if found.others else ""),
        "factory": found.factory or ("not needed" if whole else None),
        "class names": found.class_names or ("those of the checkpoint" if named else None),
        "validation photos": _photos_in(folder, found.validation),
        "calibration photos": _photos_in(folder, found.calibration),
    }
    return path, [f"{name}: {value or 'not found, fill it in'}" for name, value in what.items()]


def _photos_in(folder: Path, name: str | None) -> str | None:
    return name and f"{name}: {survey(folder / name)}"


def _summary(path: Path, name: str) -> tuple[str, bool]:
    """A checkpoint with its own description, and whether that names the classes. A file that cannot be read
    without its network is described by its name alone."""
    try:
        if path.is_dir():
            info = describe(path)
        elif not _is_whole(path) and find_spec("torch"):
            info = examine(path).info
        else:
            return name, False
    except WorkbenchError as error:
        return f"{name}, which cannot be used: {error.message}", path.is_dir()
    return "; ".join([f"{name}, a {info.sentence()}", *info.notes]), path.is_dir() or bool(info.class_names)


def look(folder: Path) -> Found:
    """Recognise the parts by their names, a folder of transformers by its config.json."""
    files = sorted(_below(folder, DEPTH), key=lambda path: (len(path.parts), str(path)))
    classifiers = [path.parent for path in files if path.name == CONFIG and is_classifier(path.parent)]

    def first(paths: list[Path]) -> str | None:
        return paths[0].relative_to(folder).as_posix() if paths else None

    def holds_a_model(path: Path) -> bool:
        # Files in a folder of transformers are parts of that model.
        in_file = path.suffix in CHECKPOINTS and path.parent not in classifiers
        return path in classifiers if path.is_dir() else in_file

    def photos(names: tuple[str, ...]) -> str | None:
        named = [path for path in files if path.name.lower() in names]
        folders = [path for path in named if path.is_dir() and any(map(_holds_photos, _below(path, 1)))]
        return first(sorted(folders, key=lambda path: names.index(path.name.lower())))

    factories = [(path, name) for path in files if path.suffix == ".py" for name in _factories(path)]
    models = [path for path in (folder, *files) if holds_a_model(path)]
    needs_factory = not (models and _is_whole(models[0]))
    return Found(
        checkpoint=first(models),
        factory=f"{first([factories[0][0]])}:{factories[0][1]}" if factories and needs_factory else None,
        class_names=first([path for path in files if path.name in LABELS]),
        validation=photos(VALIDATION),
        calibration=photos(CALIBRATION),
        others=tuple(path.relative_to(folder).as_posix() for path in models[1:]),
    )


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Files and folders up to `depth` levels down, without hidden, private and unreadable ones."""
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        if path.name.startswith((".", "__")) or is_junk(path.name):
            continue
        yield path
        if depth > 1 and path.is_dir():
            yield from _below(path, depth - 1)


def _is_whole(checkpoint: Path) -> bool:
    """Whether it holds the network with its weights."""
    try:
        return kind_of(checkpoint) not in ("state-dict", "factory")
    except WorkbenchError:
        return False


def _holds_photos(folder: Path) -> bool:
    return folder.is_dir() and next(Walk().photos(folder), None) is not None


def _factories(path: Path) -> list[str]:
    """The factory functions that a Python file defines. The file is parsed, not run."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):  # no Python, no text, not readable
        return []
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return [name for name in FACTORIES if name in defined]


def draft(found: Found) -> str:
    """The text of krishi.yaml; a missing part is a line to uncomment."""
    # Only the user may decide that a file may run code.
    asks_trust = found.checkpoint is not None and found.checkpoint.endswith(".pt2")
    return DRAFT.format(
        checkpoint=_line("checkpoint", found.checkpoint or "student.ckpt", KINDS),
        factory=_line("factory", found.factory, FACTORY, "student.py:create_model"),
        trust_code=TRUST if asks_trust else "",
        class_names=_line("class_names", found.class_names, "else taken from the checkpoint", "labels.json"),
        validation=_line("validation", found.validation or "data/val", "accuracy is measured on these"),
        calibration=_line("calibration", found.calibration, "other photos, for static INT8", "data/calib"),
    )


def _line(key: str, value: str | None, comment: str, example: str = "") -> str:
    text = f"{key}: {_quote(value)}" if value else f"# {key}: {example}"
    return f"  {text:<43} # {comment}"


def _quote(value: str) -> str:
    """Quote a name with characters that are special in YAML, as JSON, which YAML reads too."""
    plain = all(character.isalnum() or character in "/._-:" for character in value)
    return value if plain else json.dumps(value, ensure_ascii=False)
