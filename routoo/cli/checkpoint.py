"""`routoo checkpoint`: look at checkpoints, teach one a model, and choose which one is used."""

from pathlib import Path
from typing import Annotated

import orjson
import typer

from routoo.cli import registry
from routoo.console.commands import CommandGroup
from routoo.console.output import console, report_table
from routoo.predictor.manifest import MANIFEST_FILE, read_manifest

checkpoint = CommandGroup("Look at checkpoints, add models to them, choose which one is used.")
checkpoint.command("list")(registry.list_registered)
checkpoint.command("register")(registry.register)
checkpoint.command("promote")(registry.promote)
checkpoint.command("rollback")(registry.rollback)
checkpoint.command("history")(registry.history)


@checkpoint.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Folder that `routoo train` wrote.")],
    *,
    json: Annotated[bool, typer.Option("--json", help="The manifest as it stands.")] = False,
) -> None:
    """Print a checkpoint's manifest and its held-out figures.

    Examples:
        routoo checkpoint show DIR

        routoo checkpoint show DIR --json | jq .metrics.mean
    """
    manifest = read_manifest(folder)
    if json:
        typer.echo((folder / MANIFEST_FILE).read_text(encoding="utf-8").rstrip())
        return
    # numpy takes a moment to load: not for --help
    from routoo.evaluation.report.number_format import fixed

    screen = console()
    screen.print(f"backbone {manifest.backbone} ({manifest.backbone_sha256[:12]})")
    screen.print(f"layers {list(manifest.layers)}, created {manifest.created}")
    screen.print(f"data {manifest.data_sha256[:12]}, settings {manifest.settings}")
    table = report_table("model", "AUC", "Brier", "ECE", "mean score", "outcomes")
    for name, row in manifest.metrics["models"].items():
        figures = (fixed(row[key]) for key in ("auc", "brier", "ece", "mean_score"))
        table.add_row(name, *figures, f"{row['outcomes']:.0f}")
    screen.print(table)


@checkpoint.command("add-model")
def add_model(
    folder: Annotated[Path, typer.Argument(help="Folder that `routoo train` wrote.")],
    model: Annotated[str, typer.Option(help="The new candidate model, as OUTCOMES names it.")],
    items: Annotated[list[Path], typer.Option(help="Items table (Parquet or JSONL); repeatable.")],
    outcomes: Annotated[list[Path], typer.Option(help="Outcomes table (Parquet); repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Teach a checkpoint one more model from a few hundred of its graded answers.

    Nothing else is fitted again: the other models' estimates stay as they are. Example:

    routoo checkpoint add-model ck --model new --items i.parquet --outcomes o.parquet --out ck2
    """
    # Looking at a manifest takes no torch.
    from routoo.evaluation.report.number_format import fixed
    from routoo.training.add_model import write_addition

    added = write_addition(folder, model, (items, outcomes), out, device)
    if json:
        typer.echo(orjson.dumps(added, option=orjson.OPT_INDENT_2).decode())
        return
    figures = added["held_out"]
    console().print(
        f"{out}: {model} added from {figures['outcomes']:.0f} graded answers; held out: "
        f"AUC {fixed(figures['auc'])}, ECE {fixed(figures['ece'])}, "
        f"Brier {fixed(figures['brier'])}; "
        f"mean quality {added['quality']:.3f}, its deviation a prompt {added['quality_std']:.3f}",
    )
