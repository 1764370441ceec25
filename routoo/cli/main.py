"""The `routoo` command: offline work on predictors, pools and the database."""

import sys

import typer
from rich.console import Console

from routoo.cli.predict import predict
from routoo.cli.train import train
from routoo.errors import RoutooError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(train)
app.command()(predict)


def main() -> None:
    """Run the command line; an error of ours is a message and an exit status, not a trace."""
    try:
        app()
    except RoutooError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False)
        sys.exit(error.exit_code)
