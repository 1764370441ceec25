"""Options of `routoo train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from routoo.cli.fitting_options import FittingOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions(FittingOptions):
    """Options as they were typed; their help is each field's documentation."""

    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")]
    items: Annotated[
        list[Path] | None, typer.Option(help="Items table (Parquet or JSONL); repeatable.")
    ] = None
    outcomes: Annotated[
        list[Path] | None, typer.Option(help="Outcomes table (Parquet); repeatable.")
    ] = None
    plot: Annotated[
        Path | None,
        typer.Option(help="Learning curve to draw; learning_curve.png in OUT if unset."),
    ] = None
    curve: Annotated[
        bool, typer.Option(help="Draw the learning curve: takes about as long as the fit.")
    ] = True
    json: Annotated[
        bool, typer.Option("--json", help="Print the held-out figures as one JSON object.")
    ] = False
    from_runs: Annotated[
        bool,
        typer.Option(
            "--from-runs",
            help="Fit on graded answers of batches and runs too, never on evaluation items, and "
            "put the checkpoint into use unless it predicts evaluation items worse.",
        ),
    ] = False
