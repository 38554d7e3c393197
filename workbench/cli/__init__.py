"""The command line. Each command loads, calls one function and renders; only here is anything printed.

Commands import what they need when they run: `--help` and a misspelt recipe answer at once.
"""

import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from workbench import __version__
from workbench.errors import Refused, WorkbenchError
from workbench.system.packages import missing_extra

OWN_PROCESS = "own process"  # of the command line: `main` was not called by other code
HELP = {"-h", "--help"}
NO_PLUGINS = "__all__"
DONE, ANSWER_IS_NO, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
# Where each command is defined, in the order of the help.
MODULES = {
    **dict.fromkeys(("run", "tune", "export"), "measure"),
    "stress": "stress",
    "fleet": "fleet",
    **dict.fromkeys(("compare", "advise", "explain"), "decide"),
    "gate": "gate",
    "report": "reporting",
    **dict.fromkeys(("promote", "models", "rollback", "verify", "gc"), "publish"),
    "package": "packaging",
    **dict.fromkeys(("serve", "shadow-report"), "serving"),
    "storage": "storage",
    **dict.fromkeys(("init", "inspect", "doctor", "schema"), "inspection"),
}


class CommandGroup(TyperGroup):
    """All commands; the module of one is imported when that one is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": dict.fromkeys(MODULES)})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - typer's signature
        return ListedCommand(cmd_name) if cmd_name in MODULES else None

    def get_params(self, ctx: Any) -> Any:
        return _without_type(super().get_params(ctx))

    def invoke(self, ctx: Any) -> int:
        """The exit code of a command; prints the errors that users can mend, or raises them in debug."""
        try:
            code: int = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            # `| head` has read enough. What is left in the buffer must not fail once more on the way out.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except (WorkbenchError, ModuleNotFoundError, OSError) as error:
            shown = missing_extra(error) if isinstance(error, ModuleNotFoundError) else error
            if shown is None or ctx.meta.get("debug"):
                raise
            if isinstance(shown, OSError):  # of a disk, a right or a file; what was not translated on the way
                shown = WorkbenchError(str(error), hint="--debug shows where it happened")
            print(f"error: {shown.message}", file=sys.stderr)
            if shown.hint:
                print(f"hint: {shown.hint}", file=sys.stderr)
            return ANSWER_IS_NO if isinstance(error, Refused) else WRONG_INPUT
        except KeyboardInterrupt as stopped:
            what = str(stopped) or "stopped; what was finished is kept, and running it again takes it up"
            print(what, file=sys.stderr)
            return INTERRUPTED


class CalledCommand(TyperCommand):
    """A command with its options."""

    def get_params(self, ctx: Any) -> Any:
        return _without_type(super().get_params(ctx))


def _without_type(params: Any) -> Any:
    """The same options; the help shows no `<bool>` beside flags."""
    for flag in params:
        if getattr(flag, "is_flag", False):
            flag.metavar = ""
            if flag.default is None:
                flag.default = False  # Without a default, typer loads pydantic to make one out.
    return params


class ListedCommand(TyperCommand):
    """A command as the help lists it; its options are read when it is called."""

    def __init__(self, name: str) -> None:
        module = importlib.import_module(f"{__package__}.{MODULES[name]}")
        self._function = getattr(module, name.replace("-", "_"))
        super().__init__(name, help=self._function.__doc__, rich_help_panel=module.PANEL)

    def make_context(self, info_name: Any, args: list[str], *more: Any, **settings: Any) -> Any:
        if os.environ.get("PYDANTIC_DISABLE_PLUGINS") == NO_PLUGINS and HELP.isdisjoint(args):
            import_without(["importlib.metadata"], "pydantic.plugin._loader")
        alone = typer.Typer(add_completion=False)
        alone.command(self.name, cls=CalledCommand)(self._function)
        context = get_command(alone).make_context(info_name, args, *more, **settings)
        if context.find_root().obj is OWN_PROCESS:
            gc.freeze()  # what is loaded by now stays: collections need not look at it
        gc.enable()
        return context


app = typer.Typer(
    cls=CommandGroup, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


def print_version(asked: bool) -> None:
    if asked:
        print(f"krishi-bench {__version__}")
        raise typer.Exit


@app.callback()
def krishi_bench(
    _version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """From a trained image classifier to a served model, with every claim measured here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 the answer is no, 2 wrong input."""
    # pydantic looks for plugins among all installed packages when it is imported; ours uses none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", NO_PLUGINS)
    if threading.current_thread() is threading.main_thread():
        # A run that is asked to stop cleans up as after Ctrl-C; the server has its own way.
        signal.signal(signal.SIGTERM, _interrupt)
    for closed in ("stdout", "stderr"):
        if getattr(sys, closed) is None:  # `>&-`, as some supervisors start programs
            setattr(sys, closed, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    words = list(sys.argv[1:] if arguments is None else arguments)
    gc.disable()  # until a command is called: while modules load there is nothing to collect
    if not HELP.isdisjoint(words):
        # No help of ours is Markdown, and no traceback is rich's: they are half of the time it takes.
        import_without(["rich.markdown", "rich.traceback"], "typer.rich_utils")
    process = OWN_PROCESS if arguments is None else None
    try:
        code: int = get_command(app).main(words, prog_name="krishi-bench", standalone_mode=False, obj=process)
        return code
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        called = [word for word in words[:1] if word in MODULES]  # an option without its value has no context
        command = context.command_path if context else " ".join(["krishi-bench", *called])
        # pydantic's prefix of what a validator raises
        message = error.format_message().replace("Value error, ", "")
        print(f"error: {message}\nhint: see `{command} --help`", file=sys.stderr)
        return WRONG_INPUT
    finally:
        gc.enable()
        if process is OWN_PROCESS:
            gc.freeze()  # at the end of the process Python need not search it


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


class StandIn(ModuleType):
    """A module of empty classes."""

    def __getattr__(self, name: str) -> Any:
        return type(name, (), {})


def import_without(slow: Collection[str], module: str) -> None:
    """Import a module, but not those that it needs for nothing that we use."""
    absent = {name: StandIn(name) for name in slow if name not in sys.modules}
    sys.modules.update(absent)
    importlib.import_module(module)
    for name in absent:
        del sys.modules[name]
