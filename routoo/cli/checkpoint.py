"""`routoo checkpoint`: look at checkpoints, add models to them, choose which one is used."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routoo.cli.options import (
    CheckpointArgument,
    DeviceOption,
    ItemsOption,
    JsonOption,
    OutcomesOption,
)
from routoo.console.commands import CommandGroup
from routoo.console.output import FittedTable, TableColumn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection

    from routoo.predictor.manifest import Manifest
    from routoo.store.checkpoints import CheckpointRecord

checkpoint = CommandGroup("Look at checkpoints, add models to them, choose which one is used.")

_HASH_DIGITS = 12
"""Digits of the weights' hash that are printed."""

Which = Annotated[
    str,
    typer.Argument(metavar="CHECKPOINT", help="Start of its weights' hash, or its folder."),
]
Reason = Annotated[str, typer.Option(help="Why, for the history.")]


@checkpoint.command("list")
def list_registered(*, as_json: JsonOption = False) -> None:
    """List the registered checkpoints, newest first; the one in use is marked."""
    from routoo.console.output import console
    from routoo.console.run import run_in_transaction
    from routoo.settings import load_settings
    from routoo.store import checkpoints

    async def load(
        conn: "AsyncConnection",
    ) -> "tuple[list[CheckpointRecord], CheckpointRecord | None]":
        return await checkpoints.list_all(conn), await checkpoints.promoted(conn)

    found, promoted = run_in_transaction(load_settings(), load)
    if as_json:
        _print_json(found, promoted)
        return
    console().print(_table(found, promoted))
    if promoted is None:
        typer.echo(f"none is promoted: scorers use {load_settings().checkpoint}")


@checkpoint.command()
def register(folder: CheckpointArgument) -> None:
    """Register a checkpoint with its figures; the folder must be the same on every scorer."""
    from routoo.console.run import run_in_transaction
    from routoo.settings import load_settings
    from routoo.training.promote import register_folder

    found = run_in_transaction(load_settings(), lambda conn: register_folder(conn, folder))
    typer.echo(found.weights_sha256[:_HASH_DIGITS])


@checkpoint.command()
def promote(which: Which, *, reason: Reason = "promoted by hand") -> None:
    """Put a registered checkpoint into use, from the next batch on."""
    from routoo.console.run import run_in_transaction
    from routoo.settings import load_settings
    from routoo.training.promote import promote_named

    settings = load_settings()

    found = run_in_transaction(
        settings, lambda conn: promote_named(conn, which, reason, settings.checkpoint)
    )
    typer.echo(f"in use: {found.weights_sha256[:_HASH_DIGITS]}")


@checkpoint.command()
def rollback(*, reason: Reason = "rolled back by hand") -> None:
    """Put the checkpoint before the present one back into use, from the next batch on."""
    from routoo.console.run import run_in_transaction
    from routoo.errors import InputError
    from routoo.settings import load_settings
    from routoo.store import checkpoints

    found = run_in_transaction(load_settings(), lambda conn: checkpoints.roll_back(conn, reason))
    if found is None:
        raise InputError(
            "there is no earlier checkpoint to go back to", remedy="Promote another one"
        )
    typer.echo(f"in use: {found.weights_sha256[:_HASH_DIGITS]}")


@checkpoint.command()
def history(*, as_json: JsonOption = False) -> None:
    """List what was put into use when and why, newest first."""
    import orjson

    from routoo.console.output import console, report_table
    from routoo.console.run import run_in_transaction
    from routoo.settings import load_settings
    from routoo.store import checkpoints

    found = run_in_transaction(load_settings(), checkpoints.promotions)
    if as_json:
        for one in found:
            typer.echo(orjson.dumps(one).decode())
        return
    table = report_table("since", "weights", "why")
    for one in found:
        since = f"{one.promoted_at:%Y-%m-%d %H:%M}"
        table.add_row(since, one.weights_sha256[:_HASH_DIGITS], one.reason)
    console().print(table)


@checkpoint.command()
def show(
    folder: CheckpointArgument,
    *,
    json: Annotated[bool, typer.Option("--json", help="The manifest as it stands.")] = False,
) -> None:
    """Print a checkpoint's manifest and its held-out figures.

    Examples:
        routoo checkpoint show DIR

        routoo checkpoint show DIR --json | jq .metrics.mean
    """
    from routoo.predictor.manifest import MANIFEST_FILE, read_manifest

    manifest = read_manifest(folder)
    if json:
        typer.echo((folder / MANIFEST_FILE).read_text(encoding="utf-8").rstrip())
    else:
        _print_manifest(manifest)


def _print_manifest(manifest: "Manifest") -> None:
    from routoo.console.output import console, report_table
    from routoo.evaluation.report.section import fixed

    screen = console()
    screen.print(f"backbone {manifest.backbone} ({manifest.backbone_sha256[:_HASH_DIGITS]})")
    screen.print(f"layers {list(manifest.layers)}, created {manifest.created}")
    screen.print(f"data {manifest.data_sha256[:_HASH_DIGITS]}, settings {manifest.settings}")
    table = report_table("model", "AUC", "Brier", "ECE", "mean score", "outcomes")
    for name, row in manifest.metrics["models"].items():
        figures = (fixed(row[key]) for key in ("auc", "brier", "ece", "mean_score"))
        table.add_row(name, *figures, f"{row['outcomes']:.0f}")
    screen.print(table)


@checkpoint.command("add-model")
def add_model(
    folder: CheckpointArgument,
    model: Annotated[str, typer.Option(help="The new candidate model, as OUTCOMES names it.")],
    items: ItemsOption,
    outcomes: OutcomesOption,
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")],
    device: DeviceOption = "auto",
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Add one more model to a checkpoint, from a few hundred of its graded answers.

    Nothing else is fitted again: the other models' estimates stay as they are.

    Example:
        routoo checkpoint add-model ck --model new --items i.parquet --outcomes o.parquet --out ck2
    """
    import orjson

    from routoo.console.output import console
    from routoo.evaluation.report.section import fixed
    from routoo.settings import load_settings
    from routoo.training import add_model as work
    from routoo.training.tables import read_tables

    cache = load_settings().embeddings
    tables = read_tables(items, outcomes)
    added = work.add_model(folder, model, tables, out, device=device, cache=cache)
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


def _print_json(found: "Sequence[CheckpointRecord]", promoted: "CheckpointRecord | None") -> None:
    import orjson

    for one in found:
        facts: dict[str, object] = {
            "weights_sha256": one.weights_sha256,
            "path": one.path,
            "in_use": one == promoted,
            "registered_at": one.registered_at,
            "metrics": one.manifest["metrics"]["mean"],
        }
        typer.echo(orjson.dumps(facts).decode())


def _table(found: "Sequence[CheckpointRecord]", promoted: "CheckpointRecord | None") -> FittedTable:
    table = FittedTable(
        TableColumn(title=""),
        TableColumn(title="weights"),
        TableColumn(title="registered", rank=3),
        TableColumn(title="AUC", right=True),
        TableColumn(title="ECE", rank=1, right=True),
        TableColumn(title="Brier", rank=2, right=True),
        TableColumn(title="folder", least=20, fold=True),
    )
    for one in found:
        mean = one.manifest["metrics"]["mean"]
        figures = (_figure(mean[name]) for name in ("auc", "ece", "brier"))
        registered = f"{one.registered_at:%Y-%m-%d %H:%M}"
        mark = "in use" if one == promoted else ""
        table.add_row(mark, one.weights_sha256[:_HASH_DIGITS], registered, *figures, one.path)
    return table


def _figure(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"
