"""Options of `routoo evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from routoo.cli.fitting_options import FittingOptions
from routoo.evaluation.protocol import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions(FittingOptions):
    """Options as they were typed; their help is each field's documentation."""

    items: Annotated[list[Path], typer.Option(help="Held-out items table; repeatable.")]
    outcomes: Annotated[list[Path], typer.Option(help="Held-out outcomes table; repeatable.")]
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder that `routoo train` wrote; or give --protocol.")
    ] = None
    protocol: Annotated[
        Protocol | None,
        typer.Option(help="Fit anew on the rest of these tables, a part held out at a time."),
    ] = None
    train_items: Annotated[
        list[Path] | None, typer.Option(help="Items it was trained on: adds kNN and domain means.")
    ] = None
    train_outcomes: Annotated[
        list[Path] | None, typer.Option(help="Outcomes it was trained on.")
    ] = None
    reference: Annotated[
        str | None, typer.Option(help="Model to compare with; the best single one if unset.")
    ] = None
    html: Annotated[
        Path | None, typer.Option(help="Write the whole report to this one HTML file.")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False
