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
NamedBatch = Annotated[
    str,
    typer.Argument(
        metavar="BATCH", help="Id, start of an id (4 characters or more) or name of the batch."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]
MaybeFileArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[FILE]",
        help="JSONL, CSV or Parquet file; - is standard input.",
        show_default=False,
    ),
]
