"""The `routoo` command: offline work on predictors, pools and the database."""

import importlib
import sys
from collections.abc import Sequence

import typer

from routoo.errors import RoutooError
from routoo.output import messages, write_it_whole

EXIT_INTERRUPTED = 130
EXIT_NOT_WRITTEN = 4
"""The disk, or something else of the system, is not as it should be."""

COMMANDS = (
    "checkpoint",
    "collect",
    "db",
    "evaluate",
    "outcomes",
    "pool",
    "predict",
    "replay",
    "train",
)
"""Modules of this package; each has a function or, for a group, a `typer.Typer` of its name."""


def build_app(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """Return the command line with these commands, importing no other command's module."""
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
    )

    @app.callback()
    def _keep_names() -> None:
        """Keep a lone command's name: without a callback typer would make it the program."""

    for name in commands:
        command = getattr(importlib.import_module(f"routoo.cli.{name}"), name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def main() -> None:
    """Run the command line; an error of ours is a message and an exit status, not a trace."""
    # Only the named command is imported: `routoo collect` has no use for torch.
    named = [name for name in sys.argv[1:2] if name in COMMANDS]
    write_it_whole()
    try:
        build_app(named or COMMANDS)()
    except RoutooError as error:
        messages().print(f"error: {error}", highlight=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        raise
    except OSError as error:
        # A full disk, a folder that may not be written: no fault of the program.
        where = f"{error.filename}: " if error.filename else ""
        messages().print(f"error: {where}{error.strerror}", highlight=False)
        sys.exit(EXIT_NOT_WRITTEN)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
