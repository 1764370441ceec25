"""`routoo predict`: estimate each candidate model's quality and answer length on prompts."""

from pathlib import Path
from typing import Annotated

import typer


def predict(
    checkpoint: Annotated[Path, typer.Option(help="Folder that `routoo train` wrote.")],
    items: Annotated[list[Path], typer.Option(help="Items table (Parquet or JSONL); repeatable.")],
    out: Annotated[Path, typer.Option(help="Table to write: .parquet or .jsonl.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Only this candidate model; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """Write one row an (item, model): quality, its deviation, completion tokens, novelty."""
    # torch takes seconds to load: not for --help
    from routoo.cli.predicting import write_predictions  # noqa: PLC0415

    write_predictions(checkpoint, items, out, model, device)
