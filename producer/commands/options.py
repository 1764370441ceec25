"""Arguments and options that several commands share."""

from typing import Annotated

import typer

BatchArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[BATCH]",
        help="Id, start of an id (4 characters or more) or name; the latest batch where left out.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]
