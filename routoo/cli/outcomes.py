"""`routoo outcomes`: export graded answers as outcome tables."""

from pathlib import Path
from typing import Annotated

import typer

from routoo.console.commands import CommandGroup

outcomes = CommandGroup("Use the graded answers of batches and runs.")


@outcomes.command()
def export(
    items: Annotated[Path, typer.Option(metavar="FILE", help="Items table to write (Parquet).")],
    out: Annotated[
        Path, typer.Option("--outcomes", metavar="FILE", help="Outcomes table to write (Parquet).")
    ],
    answers: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Answers table to write (Parquet): `routoo train --answers`."
        ),
    ] = None,
    *,
    with_evaluation: Annotated[
        bool,
        typer.Option(
            "--with-evaluation", help="Write evaluation items too: to measure, never to train on."
        ),
    ] = False,
    json_out: Annotated[
        bool, typer.Option("--json", help="Print what was written as JSON.")
    ] = False,
) -> None:
    """Write the graded answers of all batches and runs as tables that `routoo train` takes.

    Items of evaluation sets are left out. Replayed outcomes are not written again.

    Example:
        routoo outcomes export --items items.parquet --outcomes outcomes.parquet
        routoo outcomes export --items I.parquet --outcomes O.parquet --answers A.parquet
    """
    from routoo.console.output import json_line, note
    from routoo.console.run import run_with_database
    from routoo.settings import load_settings
    from routoo.training.tables import export_tables

    facts = run_with_database(
        load_settings(),
        lambda database: export_tables(
            database, items, out, answers, with_evaluation=with_evaluation
        ),
    )
    if json_out:
        typer.echo(json_line(facts))
        return
    note(
        f"{out}: {facts['outcomes']} outcomes of {facts['items']} items; "
        f"{facts['evaluation_items_left_out']} evaluation items left out"
    )
