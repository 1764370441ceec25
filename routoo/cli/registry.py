"""`routoo checkpoint list|register|promote|rollback`: which checkpoint scorers use."""

from pathlib import Path
from typing import Annotated

import orjson
import typer

from routoo.console.output import console, report_table
from routoo.console.run import run_with_database
from routoo.errors import CheckpointError, InputError
from routoo.predictor.manifest import read_manifest
from routoo.settings import load_settings
from routoo.store import checkpoints
from routoo.store.checkpoints import CheckpointRecord
from routoo.store.database import Database
from routoo.training.promote import put_into_use, register_folder

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]
Which = Annotated[
    str,
    typer.Argument(metavar="CHECKPOINT", help="Start of its weights' hash, or its folder."),
]
Reason = Annotated[str, typer.Option(help="Why, for the history.")]


def register(
    folder: Annotated[Path, typer.Argument(help="Folder that `routoo train` wrote.")],
) -> None:
    """Register a checkpoint with its figures; the folder must be the same on every scorer."""

    async def save(database: Database) -> CheckpointRecord:
        async with database.transaction() as conn:
            return await register_folder(conn, folder)

    found = run_with_database(load_settings(), save)
    typer.echo(found.weights_sha256[:12])


def list_registered(*, as_json: AsJson = False) -> None:
    """List the registered checkpoints, newest first; the one in use is marked."""

    async def load(
        database: Database,
    ) -> tuple[list[CheckpointRecord], CheckpointRecord | None]:
        async with database.transaction() as conn:
            return await checkpoints.list_all(conn), await checkpoints.promoted(conn)

    found, promoted = run_with_database(load_settings(), load)
    if as_json:
        for one in found:
            facts: dict[str, object] = {
                "weights_sha256": one.weights_sha256,
                "path": one.path,
                "in_use": one == promoted,
                "registered_at": one.registered_at,
                "metrics": one.manifest["metrics"]["mean"],
            }
            typer.echo(orjson.dumps(facts).decode())
        return
    table = report_table("", "weights", "registered", "AUC", "ECE", "Brier", "folder")
    for one in found:
        mean = one.manifest["metrics"]["mean"]
        figures = (_shown(mean[name]) for name in ("auc", "ece", "brier"))
        registered = f"{one.registered_at:%Y-%m-%d %H:%M}"
        mark = "in use" if one == promoted else ""
        table.add_row(mark, one.weights_sha256[:12], registered, *figures, one.path)
    console().print(table)
    if promoted is None:
        typer.echo(f"none is promoted: scorers use {load_settings().checkpoint}")


def promote(which: Which, *, reason: Reason = "promoted by hand") -> None:
    """Put a registered checkpoint into use, from the next batch on."""
    settings = load_settings()

    async def put(database: Database) -> CheckpointRecord:
        async with database.transaction() as conn:
            found = await checkpoints.find(conn, which)
            _check_present(found)
            await put_into_use(conn, found, reason, settings.checkpoint)
            return found

    typer.echo(f"in use: {run_with_database(settings, put).weights_sha256[:12]}")


def rollback(*, reason: Reason = "rolled back by hand") -> None:
    """Put the checkpoint before the present one back into use, from the next batch on."""

    async def back(database: Database) -> CheckpointRecord | None:
        async with database.transaction() as conn:
            return await checkpoints.roll_back(conn, reason)

    found = run_with_database(load_settings(), back)
    if found is None:
        raise InputError(
            "there is no earlier checkpoint to go back to", remedy="Promote another one"
        )
    typer.echo(f"in use: {found.weights_sha256[:12]}")


def history(*, as_json: AsJson = False) -> None:
    """List what was put into use when and why, newest first."""

    async def load(database: Database) -> list[checkpoints.Promotion]:
        async with database.transaction() as conn:
            return await checkpoints.promotions(conn)

    found = run_with_database(load_settings(), load)
    if as_json:
        for one in found:
            typer.echo(orjson.dumps(one).decode())
        return
    table = report_table("since", "weights", "why")
    for one in found:
        table.add_row(f"{one.promoted_at:%Y-%m-%d %H:%M}", one.weights_sha256[:12], one.reason)
    console().print(table)


def _check_present(found: CheckpointRecord) -> None:
    """Refuse a folder that holds something else by now: scorers would all refuse it."""
    held = read_manifest(Path(found.path)).weights_sha256
    if held != found.weights_sha256:
        raise CheckpointError(
            "the folder holds another checkpoint now",
            where=found.path,
            value=held[:12],
            remedy="Register it anew",
        )


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"
