"""`routoo-producer summary`: the closing screen of a batch."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from producer.commands.options import BatchArgument, JsonOption
from producer.json_text import json_line
from producer.running import run
from producer.screen.summary import summary_view
from producer.summary import Summary, summarise_batch
from routoo.settings import load_settings
from routoo.store.database import Database

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

    async def summarise(database: Database) -> Summary:
        return await summarise_batch(database, batch, outcomes)

    summary = run(load_settings(), summarise)
    if as_json:
        typer.echo(json_line(summary.as_json()))
    else:
        Console().print(summary_view(summary))
