"""Who may import what, and when: held by reading the code and by starting fresh interpreters."""

import ast
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch", "onnx", "onnxruntime", "openvino", "tensorrt", "cuda", "pynvml", "pandas", "pyarrow",
    "fastapi", "scipy", "onnxscript", "onnxslim", "onnxsim", "nncf", "transformers", "timm", "safetensors",
    "altair", "vl_convert", "jinja2", "ai_edge_litert", "ai_edge_quantizer", "litert_torch", "executorch",
    "torchao",
}  # fmt: skip
# The network itself: nothing imports it before torch is wanted.
TORCH_CODE = {"workbench/workspace/sample/student.py"}
# From the ground up: a package imports from those before it, lazily or not, for the type checker too.
CHAIN = [
    "errors", "system", "photos", "backends", "measure", "model", "steps", "results", "workspace", "run",
    "fleet", "registry", "report", "serve", "cli", "pytest_plugin",
]  # fmt: skip
SERVE_MAY_IMPORT = {"errors", "system", "photos", "backends", "registry", "__version__"}
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for part in ("workbench", "serve")
    for path in (ROOT / part).rglob("*.py")
)


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


FILE_OF = {module_of(file): file for file in FILES}
MODULES = set(FILE_OF)


def imports(tree: ast.AST, *, at_the_top: bool = False) -> Iterator[str]:
    """What is imported, as `package.module` or `package.module.name`.

    at_the_top: only what is imported as soon as the module is, type checking aside.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif at_the_top and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ):
            continue
        else:
            yield from imports(node, at_the_top=at_the_top)


def package_of(module: str) -> str:
    """`workbench.steps.fold` -> `steps`; `serve.app` -> `serve`."""
    top, _, rest = module.partition(".")
    return rest.partition(".")[0] if top == "workbench" else top


def module_named(name: str) -> str | None:
    """The module of ours that `import name` or `from name.parent import name` loads."""
    return name if name in MODULES else parent if (parent := name.rpartition(".")[0]) in MODULES else None


@cache
def parsed(file: str) -> ast.AST:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def loaded_after(code: str) -> set[str]:
    """The top-level packages a fresh interpreter has loaded after running `code`, whatever it exits with."""
    script = (
        f"import json, sys\ntry:\n    {code}\nexcept SystemExit: pass\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_heavy_packages_are_imported_where_they_are_needed_and_not_before() -> None:
    found = {
        f"{file} imports {name}"
        for file in FILES
        if file.startswith("workbench/") and file not in TORCH_CODE
        for name in imports(parsed(file), at_the_top=True)
        if name.partition(".")[0] in HEAVY
    }
    assert found == set()


def test_the_server_knows_only_a_few_packages_of_the_workbench() -> None:
    found = {
        f"{file} imports {name}"
        for file in FILES
        if file.startswith("serve/")
        for name in imports(parsed(file))
        if name.partition(".")[0] == "workbench" and name.split(".")[1] not in SERVE_MAY_IMPORT
    }
    assert found == set()


def test_the_workbench_imports_the_server_only_to_start_it() -> None:
    found = {
        file
        for file in FILES
        if file.startswith("workbench/")
        for name in imports(parsed(file))
        if name.partition(".")[0] == "serve"
    }
    assert found == {"workbench/cli/serving.py"}


def test_packages_import_from_those_before_them_alone() -> None:
    modules = MODULES - {"workbench", "workbench.__main__", "serve"}
    assert {package_of(module) for module in modules} == set(CHAIN)
    upward = {
        f"{module} imports {name}"
        for module in modules
        for name in imports(parsed(FILE_OF[module]))
        if (found := module_named(name)) in modules
        and CHAIN.index(package_of(str(found))) > CHAIN.index(package_of(module))
    }
    assert upward == set()


def test_nothing_imports_the_command_line() -> None:
    importers = {
        file
        for file in FILES
        for name in imports(parsed(file))
        if name.startswith("workbench.cli") and not file.startswith("workbench/cli/")
    }
    assert importers == {"workbench/__main__.py"}


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {
        module: {found for name in imports(parsed(FILE_OF[module])) if (found := module_named(name))}
        for module in MODULES
    }
    open_: list[str] = []
    done: set[str] = set()

    def visit(module: str) -> None:
        assert module not in open_, " imports ".join([*open_[open_.index(module) :], module])
        if module in done:
            return
        open_.append(module)
        for imported in sorted(graph[module] - {module}):
            visit(imported)
        done.add(open_.pop())

    for module in sorted(graph):
        visit(module)


def test_every_module_imports() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("fastapi")
    for module in sorted(MODULES):
        if not module.endswith("__main__"):
            importlib.import_module(module)


@pytest.mark.parametrize("command", ["--help", "run --help", "--version"])
def test_help_loads_nothing_heavy(command: str) -> None:
    loaded = loaded_after(f"from workbench.cli import main; main({command.split()!r})")
    assert not loaded & (HEAVY | {"numpy", "PIL", "yaml", "pydantic", "pygments", "markdown_it"})


def test_the_help_of_one_command_loads_no_other_commands() -> None:
    script = "import sys; from workbench.cli import main; main(['gc', '--help']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name for name in done.stdout.split() if name.startswith("workbench.cli.")}
    assert loaded == {"workbench.cli.publish", "workbench.cli.options", "workbench.cli.output"}


def test_a_misspelt_recipe_is_answered_without_loading_anything_heavy(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: a\nstepz: []\n")
    loaded = loaded_after(f"from workbench.cli import main; assert main(['run', {str(recipe)!r}]) == 2")
    assert not loaded & (HEAVY | {"numpy", "PIL", "rich", "psutil", "email"})  # by importlib.metadata


def test_a_comparison_is_shown_without_loading_pandas(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "data" / "results-v1", tmp_path / "results" / "results-v1")
    shown = f"import os; os.chdir({str(tmp_path)!r}); from workbench.cli import main; main(['compare'])"
    assert "workbench" in (loaded := loaded_after(shown))
    assert not loaded & HEAVY


def test_a_schema_is_printed_without_loading_anything_heavy() -> None:
    loaded = loaded_after("from workbench.cli import main; main(['schema'])")
    assert not loaded & (HEAVY | {"numpy", "PIL"})


def test_the_server_loads_neither_torch_nor_pandas_nor_what_only_builds() -> None:
    pytest.importorskip("fastapi")
    loaded = loaded_after("import serve.app")
    assert not loaded & {"torch", "pandas", "typer", "scipy", "onnx", "onnxscript", "pyarrow", "yaml", "rich"}
