"""`routoo predict`: estimate each candidate model's quality and answer length on prompts."""

from pathlib import Path
from typing import Annotated

import orjson
import typer

from routoo.console.exit_codes import INCOMPLETE


def predict(
    checkpoint: Annotated[Path, typer.Option(help="Folder that `routoo train` wrote.")],
    items: Annotated[list[Path], typer.Option(help="Items table (Parquet or JSONL); repeatable.")],
    out: Annotated[Path, typer.Option(help="Table to write: .parquet, .jsonl or .ndjson.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Only this candidate model; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    *,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write one row an (item, model): quality, its deviation, completion tokens, novelty.

    Rows that are no items are named and left out; the exit status is then 5. Examples:

    routoo predict --checkpoint DIR --items I.parquet --out P.parquet

    routoo predict --checkpoint DIR --items batch.jsonl --out P.jsonl --model small --model large
    """
    # torch takes seconds to load: not for --help
    from routoo.predictor.predict_table import write_predictions

    facts = write_predictions(checkpoint, items, out, model, device)
    if json:
        typer.echo(orjson.dumps(facts).decode())
    if facts["bad_rows"]:
        raise typer.Exit(INCOMPLETE)
