"""The command line `routoo-producer`: the subcommands, and errors as exit statuses."""

import importlib
import sys
from collections.abc import Collection
from types import ModuleType

import typer

from producer.notice import note
from routoo.console.output import buffer_standard_output
from routoo.errors import RoutooError

COMMANDS = {
    "plan": "plan",
    "submit": "submit",
    "stream": "stream",
    "status": "status",
    "list": "status",
    "watch": "watch",
    "pause": "control",
    "resume": "retry",
    "retry": "retry",
    "cancel": "control",
    "explain": "explain",
    "results": "results",
    "grade": "grade",
    "summary": "summary",
}
"""Commands and their modules in `producer.commands`; each has NAME_command and NAME_EXAMPLES."""
GROUPS = {"evalset": "evalset", "eval": "evaluation", "schedule": "schedule"}
"""Groups of commands; each module holds a `typer.Typer` of its name."""

_HELP = """Submit batches of prompts, watch them, and read their results.

Settings come from ROUTOO_* variables: ROUTOO_DATABASE_URL and ROUTOO_BROKER_URL name the servers
(unset: the embedded ones under ROUTOO_HOME), ROUTOO_POOL the pool file.

Exit status: 0 fine, 1 unexpected error, 2 bad input, 3 not found, 4 database or broker
unavailable, 5 the batch is over and some jobs have no answer, 6 an evaluation
run is worse than the runs before it, 130 interrupted.
"""


def main() -> None:
    """Run the command line and exit with its status."""
    # Only the named command is imported: most have no use for arrays or Arrow.
    named = [name for name in sys.argv[1:2] if name in COMMANDS or name in GROUPS]
    buffer_standard_output()
    try:
        build_app(named or [*COMMANDS, *GROUPS])()
    except RoutooError as error:
        note(f"error: {error}")
        sys.exit(error.exit_code)


def build_app(names: Collection[str] = (*COMMANDS, *GROUPS)) -> typer.Typer:
    """Return the command line with these commands, importing no other command's module."""
    app = typer.Typer(
        name="routoo-producer",
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode=None,  # boxes break commands that people copy
        pretty_exceptions_enable=False,  # they would print local variables, secrets too
    )

    @app.callback()
    def _keep_names() -> None:
        """Keep a lone command's name: without a callback typer would make it the program."""

    for name in names:
        if name in GROUPS:
            app.add_typer(getattr(_module(GROUPS[name]), GROUPS[name]), name=name)
        else:
            module = _module(COMMANDS[name])
            examples = getattr(module, f"{name.upper()}_EXAMPLES")
            app.command(name, epilog=examples)(getattr(module, f"{name}_command"))
    return app


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"producer.commands.{name}")
