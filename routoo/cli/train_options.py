"""Options of `routoo train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from routoo.predictor.backbone import DEFAULT_BACKBONE, Pooling, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Options as they were typed; their help is each field's documentation."""

    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")]
    items: Annotated[
        list[Path] | None, typer.Option(help="Items table (Parquet or JSONL); repeatable.")
    ] = None
    outcomes: Annotated[
        list[Path] | None, typer.Option(help="Outcomes table (Parquet); repeatable.")
    ] = None
    model: Annotated[
        list[str] | None, typer.Option(help="Only this candidate model; repeatable.")
    ] = None
    backbone: Annotated[
        str, typer.Option(help="Package or path of the language model that reads the prompts.")
    ] = DEFAULT_BACKBONE
    layer: Annotated[
        list[int] | None,
        typer.Option(help="Hidden state to use, 0 = tokens; repeatable. Unset: each third."),
    ] = None
    pooling: Annotated[
        Pooling | None, typer.Option(help="Unset: mean for an encoder, last for a decoder.")
    ] = None
    suffix: Annotated[
        str,
        typer.Option(help="Text after every prompt, \\n for a line break, such as '\\nAnswer:'."),
    ] = ""
    precision: Annotated[
        Precision, typer.Option(help="auto: bfloat16 where the hardware has it.")
    ] = Precision.AUTO
    compile: Annotated[
        bool, typer.Option("--compile", help="Fuse the backbone's layers; needs a C++ compiler.")
    ] = False
    epochs: Annotated[int, typer.Option(help="Most passes of --tune.", min=1)] = 5
    rank: Annotated[int, typer.Option(help="Rank of the adapters of --tune.", min=1)] = 8
    seed: Annotated[int, typer.Option(help="Deals the folds.")] = 0
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto"
    cache: Annotated[
        Path | None, typer.Option(help="Folder of cached embeddings; under ROUTOO_HOME if unset.")
    ] = None
    plot: Annotated[
        Path | None,
        typer.Option(help="Learning curve to draw; learning_curve.png in OUT if unset."),
    ] = None
    curve: Annotated[
        bool, typer.Option(help="Draw the learning curve: takes about as long as the fit.")
    ] = True
    from_runs: Annotated[
        bool,
        typer.Option(
            "--from-runs",
            help="Fit on graded answers of batches and runs too, never on evaluation items, and "
            "put the checkpoint into use unless it predicts evaluation items worse.",
        ),
    ] = False
    tune: Annotated[
        bool, typer.Option("--tune", help="Adapt the backbone first (LoRA): a GPU's work.")
    ] = False
