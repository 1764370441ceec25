"""`routoo predict`: estimate each candidate model's quality and answer length on prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from routoo.cli.options import DeviceOption, ItemsOption
from routoo.console.run import INCOMPLETE

_BAD_ROWS_SHOWN = 10


def predict(
    checkpoint: Annotated[Path, typer.Option(help="Folder that `routoo train` wrote.")],
    items: ItemsOption,
    out: Annotated[Path, typer.Option(help="Table to write: .parquet, .jsonl or .ndjson.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Only this candidate model; can be repeated.")
    ] = None,
    device: DeviceOption = "auto",
    *,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write one row an (item, model): quality, its deviation, completion tokens, novelty.

    Rows that are no items are named and left out; the exit status is then 5.

    Examples:
        routoo predict --checkpoint DIR --items I.parquet --out P.parquet

        routoo predict --checkpoint DIR --items batch.jsonl --out P.jsonl --model small
    """
    from routoo.console.output import ConsoleFeedback, json_line
    from routoo.predictor.predict_table import write_predictions

    written = write_predictions(checkpoint, items, out, model, ConsoleFeedback(), device=device)
    _note_bad_rows(written.bad_rows)
    if json:
        facts = {
            "out": str(out),
            "items": written.items,
            "models": written.models,
            "truncated": written.truncated,
            "bad_rows": written.bad_rows,
        }
        typer.echo(json_line(facts))
    if written.bad_rows:
        raise typer.Exit(INCOMPLETE)


def _note_bad_rows(bad_rows: Sequence[str]) -> None:
    from routoo.console.output import note

    for reason in bad_rows[:_BAD_ROWS_SHOWN]:
        note(reason)
    if bad_rows:
        note(f"{len(bad_rows)} rows were left out; all others are predicted")
