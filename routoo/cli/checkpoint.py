"""`routoo checkpoint`: look at a predictor checkpoint."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from routoo.predictor.manifest import MANIFEST_FILE, read_manifest

checkpoint = typer.Typer(no_args_is_help=True, help="Look at predictor checkpoints.")


@checkpoint.callback()
def _keep_names() -> None:
    """Look at predictor checkpoints."""


@checkpoint.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Folder that `routoo train` wrote.")],
    *,
    json: Annotated[bool, typer.Option("--json", help="The manifest as it stands.")] = False,
) -> None:
    """Print a checkpoint's manifest and its held-out figures."""
    manifest = read_manifest(folder)
    if json:
        typer.echo((folder / MANIFEST_FILE).read_text(encoding="utf-8").rstrip())
        return
    console = Console()
    console.print(f"backbone {manifest.backbone} ({manifest.backbone_sha256[:12]})", markup=False)
    console.print(f"layers {list(manifest.layers)}, created {manifest.created}", markup=False)
    console.print(f"data {manifest.data_sha256[:12]}, settings {manifest.settings}", markup=False)
    table = Table("model", "AUC", "Brier", "ECE", "mean score", "outcomes")
    for name, row in manifest.metrics["models"].items():
        figures = (f"{row[key]:.3f}" for key in ("auc", "brier", "ece", "mean_score"))
        table.add_row(name, *figures, f"{row['outcomes']:.0f}")
    console.print(table)
