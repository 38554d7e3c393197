"""What `inspect` found in a model's file, in words and as JSON."""

from collections.abc import Sequence

from workbench.errors import plural, some
from workbench.model.source.file_facts import FileFacts, WeightGroup
from workbench.model.source.info import NAMES
from workbench.report.remarks import sentence
from workbench.report.words import listed, wrapped
from workbench.results.remarks import Remark
from workbench.run.sanity.inputs import of_mode, of_stated

MEANS = "[0.485, 0.456, 0.406]"
STDS = "[0.229, 0.224, 0.225]"


def answer(found: FileFacts) -> dict[str, object]:
    """The keys of `--format json`."""
    facts = found.model_dump(mode="json")
    return {**facts.pop("info"), **facts, "krishi_yaml": lines_needed(found)}


def text(found: FileFacts) -> str:
    """For a terminal of 100 columns."""
    info = found.info
    what = "Lightning checkpoint" if info.layout == "lightning" else NAMES[info.kind]
    lines = wrapped(f"{found.file}: {what}" + (f" ({info.network})" if info.network else ""), "")
    for group in found.groups:
        lines += wrapped(_group(group), "      ", "  ")
    names = "named " + listed(info.class_names, most=5) if info.class_names else "without names"
    count = len(info.class_names) if info.class_names else info.num_classes
    lines += wrapped(f"classes: {f'{count}, {names}' if count else 'it says nothing of them'}", "")
    lines += wrapped(f"preprocessing: {info.preprocess.words() or 'it says nothing of it'}", "")
    for label, named in (("settings", found.settings), ("beside these", found.others)):
        if named:
            lines += wrapped(f"{label}: {listed(named, most=12)}", "")
    if found.stand_ins:
        lines += wrapped(f"named in the file, and neither imported nor run: {some(found.stand_ins)}", "")
    stated = info.preprocess
    remarks = of_stated(stated.mean, stated.std) if stated.rescale is None else []
    if found.outputs:
        remarks.append(Remark(kind="outputs", gravity="note", form=found.outputs))
    remarks += of_mode(found.training)
    for note in (*info.notes, *map(sentence, remarks)):
        lines += wrapped(note, "")
    return "\n".join([*lines, "", "krishi.yaml needs:", *(f"  {line}" for line in lines_needed(found))])


def _group(group: WeightGroup) -> str:
    shapes = [f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in group.shapes.items()]
    gap = ", ..." if group.tensors > len(shapes) else ""
    place = f"{group.place or 'weights'}" + (f" ({group.role})" if group.role else "")
    millions = f"{group.parameters / 1e6:.2f} million values"
    values = plural(group.parameters, "value") if group.parameters < 100_000 else millions
    size = f"{plural(group.tensors, 'tensor')}, {values}"
    return (
        f"{place}: {size}: {', '.join(shapes[:-1])}{gap}, {shapes[-1]}" if shapes[1:] else f"{place}: {size}"
    )


def lines_needed(found: FileFacts) -> list[str]:
    """The lines of krishi.yaml that this file does not make unnecessary."""
    info = found.info
    lines = ["model:", f"  checkpoint: {found.file}"]
    if info.kind == "state-dict":
        factory = f"timm:{found.timm}" if found.timm else "student.py:create_model"
        lines.append(_line(f"factory: {factory}", "builds the network of these weights; or timm:name"))
        lines += _choices(found.groups)
    if info.kind == "torch-export":
        lines.append(_line("trust_code: true", "where you trust the file: reading it may run code"))
    named = len(info.class_names or ())
    if not named or named != (info.num_classes or named):
        count = plural(info.num_classes, "name") if info.num_classes else "names"
        lines.append(_line("class_names: labels.json", f"{count}, in the order of the network's outputs"))
    lines += ["data:", _line("validation: data/val", "class folders of photos"), "  calibration: data/calib"]
    stated = info.preprocess
    side = list(stated.crop) if isinstance(stated.crop, tuple) else stated.crop
    missing = [] if stated.resize else [f"resize: {side}"] if side else ["resize: 256", "crop: 224"]
    missing += [] if stated.mean else [f"mean: {MEANS}"]
    missing += [] if stated.std else [f"std: {STDS}"]
    return lines + ([f"preprocess: {{{', '.join(missing)}}}  # as in training"] if missing else [])


def _choices(groups: Sequence[WeightGroup]) -> list[str]:
    """A line for each further set of weights that is as large as the largest."""
    most = max((group.tensors for group in groups), default=0)
    sets = [group for group in groups if group.place and 2 * group.tensors > most and "*" not in group.place]
    named = [_line(f"# weights: {group.place}", group.role or "this set of weights") for group in sets]
    return named if len(named) > 1 else []


def _line(setting: str, comment: str) -> str:
    return f"  {setting:<39} # {comment}"
