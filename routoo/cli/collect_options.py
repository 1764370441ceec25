"""Options of `routoo collect`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectOptions:
    """Options as they were typed; their help is each field's documentation."""

    items: Annotated[
        list[Path], typer.Option(help="Items table (Parquet or JSONL); may be given again.")
    ]
    out: Annotated[Path, typer.Option(help="Outcomes table to write (Parquet).")]
    pool: Annotated[Path | None, typer.Option(help="Pool file; ROUTOO_POOL if unset.")] = None
    models: Annotated[
        str | None, typer.Option(help="Only these candidate models, separated by commas.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N items.")] = None
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of an answer, for items that name none.")
    ] = None
    system: Annotated[str | None, typer.Option(help="System message of every request.")] = None
    instruction: Annotated[
        str | None, typer.Option(help='Put after each prompt: "Answer with the letter only."')
    ] = None
    keep_answers: Annotated[bool, typer.Option(help="Add a column with the answers.")] = False
    json_out: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False
