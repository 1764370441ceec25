"""`routoo-producer summary`: the closing screen of a batch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import BatchArgument, JsonOption
from producer.json_text import json_line
from producer.running import run
from routoo.console.output import console
from routoo.settings import load_settings
from routoo.store.database import Database

if TYPE_CHECKING:
    from producer.summary import Summary

SUMMARY_EXAMPLES = (
    "\b\nFor example:\n"
    "  routoo-producer summary\n"
    "  routoo-producer summary monday --outcomes outcomes.parquet --json\n"
)
OutcomesOption = Annotated[
    Path | None,
    typer.Option(
        "--outcomes",
        metavar="FILE",
        help="Outcome table (Parquet) with what each model alone scored on these jobs; item_id is "
        "the custom_id. `routoo collect` writes one.",
        show_default=False,
    ),
]


def summary_command(
    batch: BatchArgument = None, *, outcomes: OutcomesOption = None, as_json: JsonOption = False
) -> None:
    """Compare the routing with every single model: quality, cost, shares, budget, time.

    Expected figures are the predictor's; graded ones need `routoo-producer grade` first.
    """
    # pyarrow takes 0.2 s to load: not for the other commands
    from producer.screen.summary import summary_view  # noqa: PLC0415
    from producer.summary import summarise_batch  # noqa: PLC0415

    async def summarise(database: Database) -> "Summary":
        return await summarise_batch(database, batch, outcomes)

    summary = run(load_settings(), summarise)
    if as_json:
        typer.echo(json_line(summary.as_json()))
    else:
        console().print(summary_view(summary))
