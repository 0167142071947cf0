"""The command line's frame: the application, shared options, and errors as one message with exit code 2."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from mage_kernels import keep_freed_memory
from typer.core import TyperGroup

from mage_kit.base import processes
from mage_kit.base.console import PlainConsole
from mage_kit.base.errors import TrainingStopped
from mage_kit.base.manifest import FileWarning
from mage_kit.base.plugins import consent
from mage_kit.cli.once import guard

ALLOW = "--allow-plugins"


class RootGroup(TyperGroup):
    """All commands; consent to plug-ins may stand anywhere on the line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring the consent to where the root's own options stand."""
        return super().parse_args(ctx, [ALLOW, *(arg for arg in args if arg != ALLOW)] if ALLOW in args else args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command that refuses options given twice."""
        return guard(super().get_command(ctx, cmd_name))


app = typer.Typer(
    cls=RootGroup,
    name="mage-kit",
    help="Masked image modeling from interchangeable parts: MAGE, MAGE-C, MaskGIT, MAE.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

console = PlainConsole(width=None if sys.stdout.isatty() else 140)  # a log or a pipe has no width of its own


@app.callback()
def root(
    ctx: typer.Context,
    allow_plugins: Annotated[
        bool,
        typer.Option(ALLOW, help="Run the modules that a recipe or a folder names, where it or this folder has them."),
    ] = False,
) -> None:
    ctx.with_resource(consent(allow_plugins))


RecipeArgument = Annotated[Path, typer.Argument(help="Recipe file (JSON), or the name of one that ships, as digits.")]
RunArgument = Annotated[Path, typer.Argument(help="Run folder, as written by train.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="path=value, as training.epochs=10; may be given several times."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier call left there.")]


def settings_of(options: list[str] | None) -> list[str]:
    """Return what --set names.

    Raises:
        MageKitError: If a place is named twice.
    """
    from mage_kit.recipes.overrides import check_overrides

    check_overrides(options or [])
    return options or []


def main() -> None:
    """Entry point: turns errors that a user can cause into one message and exit code 2."""
    warnings.showwarning = _show_warning
    keep_freed_memory()  # the process is ours: on a CPU, a quarter of a training step would go into page faults
    try:
        app()
    except SystemExit as ended:
        if processes.world() > 1 and not ended.code:
            processes.leave(0)
        raise
    except KeyboardInterrupt:
        _stop("interrupted; what was saved before is intact", 130)
    except TrainingStopped as stopped:
        if processes.is_first():
            console.print(str(stopped), soft_wrap=True)
        processes.leave(0 if sys.argv[1:2] == ["train"] else 130)  # the others have not done what they were called for
    except (ValueError, OSError, ImportError) as error:
        if getattr(error, "told_by_first", False) and not processes.is_first():
            processes.leave(2)
        _stop(str(error))
    except Exception as error:
        # Somebody's plug-in, or a bug of ours: one line that says where; the traceback on request.
        if os.environ.get("MAGE_TRACEBACK"):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename}:{last.lineno}, in {last.name}"
        _stop(f"{type(error).__name__}: {error} ({where}; MAGE_TRACEBACK=1 shows the whole traceback)")


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Ours are for people, in a line; others say where they come from."""
    if issubclass(category, FileWarning):
        if processes.is_first():
            PlainConsole(stderr=True).print(f"warning: {message}", soft_wrap=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *place[:2]))


def _stop(message: str, code: int = 2) -> NoReturn:
    who = "" if processes.is_first() else f" in process {processes.rank()}"
    PlainConsole(stderr=True).print(f"error{who}: {message}", soft_wrap=True, style="red")
    processes.leave(code)
