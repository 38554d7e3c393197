"""A name of the project is the name of one thing."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]


def names_in(path: Path) -> tuple[list[str], list[str]]:
    """The public classes a module defines, at any depth, and the type aliases at its top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    targets = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    assigned = [target.id for target in targets if isinstance(target, ast.Name)]
    aliases = [name for name in assigned if name[0].isupper() and not name.isupper()]
    return [name for name in classes if not name.startswith("_")], aliases


def test_no_public_class_has_the_name_of_another_class_or_type() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    classes: set[str] = set()
    for path in sorted([*ROOT.glob("workbench/**/*.py"), *ROOT.glob("serve/**/*.py")]):
        found, aliases = names_in(path)
        classes |= set(found)
        for name in found + aliases:
            places[name].append(path.relative_to(ROOT).as_posix())
    assert len(classes) > 100
    assert {name: where for name, where in places.items() if name in classes and len(where) > 1} == {}
