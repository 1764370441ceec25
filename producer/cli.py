"""The command line `routoo-producer`: the subcommands, and errors as exit statuses."""

import sys

import typer

from producer.commands.grade import GRADE_EXAMPLES, grade_command
from producer.commands.results import RESULTS_EXAMPLES, results_command
from producer.commands.status import LIST_EXAMPLES, STATUS_EXAMPLES, list_command, status_command
from producer.commands.submit import SUBMIT_EXAMPLES, submit_command
from producer.commands.summary import SUMMARY_EXAMPLES, summary_command
from producer.commands.watch import WATCH_EXAMPLES, watch_command
from producer.notice import note
from routoo.errors import RoutooError

_HELP = """Submit batches of prompts, watch them, and read their results.

Settings come from ROUTOO_* variables: ROUTOO_DATABASE_URL and ROUTOO_BROKER_URL name the servers
(unset: the embedded ones under ROUTOO_HOME), ROUTOO_POOL the pool file.

Exit status: 0 fine, 1 unexpected error, 2 bad input, 3 not found, 4 database or broker
unavailable, 5 the batch is over and some jobs have no answer, 130 interrupted.
"""


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        build_app()()
    except RoutooError as error:
        note(f"error: {error}")
        sys.exit(error.exit_code)


def build_app() -> typer.Typer:
    """Return the command line."""
    app = typer.Typer(
        name="routoo-producer",
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode=None,  # boxes break commands that people copy
        pretty_exceptions_enable=False,  # they would print local variables, secrets too
    )
    app.command("submit", epilog=SUBMIT_EXAMPLES)(submit_command)
    app.command("status", epilog=STATUS_EXAMPLES)(status_command)
    app.command("list", epilog=LIST_EXAMPLES)(list_command)
    app.command("watch", epilog=WATCH_EXAMPLES)(watch_command)
    app.command("results", epilog=RESULTS_EXAMPLES)(results_command)
    app.command("grade", epilog=GRADE_EXAMPLES)(grade_command)
    app.command("summary", epilog=SUMMARY_EXAMPLES)(summary_command)
    return app
