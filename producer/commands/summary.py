"""`routoo-producer summary`: compare a batch's routing with every single model."""

from pathlib import Path
from typing import Annotated

import typer

from producer.commands.options import BatchArgument, JsonOption, StrictOption
from routoo.console.output import console, json_line
from routoo.console.run import DEVIATED, run_with_database

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
    batch: BatchArgument = None,
    *,
    outcomes: OutcomesOption = None,
    as_json: JsonOption = False,
    strict: StrictOption = False,
) -> None:
    """Compare the routing with every single model: quality, cost, shares, budget, time.

    Expected figures are the predictor's; graded ones need `routoo-producer grade` first.

    Examples:
        routoo-producer summary
        routoo-producer summary monday --outcomes outcomes.parquet --json
    """
    from producer.summary import summarise_batch, summary_view
    from routoo.settings import load_settings

    summary = run_with_database(
        load_settings(), lambda database: summarise_batch(database, batch, outcomes)
    )
    if as_json:
        typer.echo(json_line(summary.as_json()))
    else:
        console().print(summary_view(summary))
    if strict and not summary.snapshot.as_planned:
        raise typer.Exit(DEVIATED)
