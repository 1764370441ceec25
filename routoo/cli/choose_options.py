"""Options of `routoo pool choose`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

PriceList = Annotated[
    Path | None, typer.Option(help="CSV: model, usd_per_mtok_in, usd_per_mtok_out.")
]
Excluded = Annotated[list[str] | None, typer.Option(help="Leave this model out; repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseOptions:
    """Options as they were typed; their help is each field's documentation."""

    items: Annotated[list[Path], typer.Option(help="Items table; repeatable.")]
    outcomes: Annotated[list[Path], typer.Option(help="Outcomes table (Parquet); repeatable.")]
    size: Annotated[int, typer.Option(help="Models wanted.", min=1)]
    price_aware: Annotated[
        bool, typer.Option("--price-aware", help="Take the cost off each answer's worth.")
    ] = False
    usd_per_point: Annotated[
        float, typer.Option(help="USD that one more good answer is worth, if price-aware.")
    ] = 0.01
    prices: PriceList = None
    exclude: Excluded = None
    out: Annotated[Path | None, typer.Option(help="Pool file to write.")] = None
    base_url: Annotated[
        str | None, typer.Option(help="Endpoint of all models in the pool file.")
    ] = None
    context_window_tokens: Annotated[
        int, typer.Option(help="Context window of all models in the pool file.", min=1)
    ] = 8192
    as_json: AsJson = False
