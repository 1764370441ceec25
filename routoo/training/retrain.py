"""What `routoo train --from-runs` learns from, and whether its checkpoint is put into use."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from routoo.console.run import run_with_database
from routoo.domain.tables import read_items, read_outcomes
from routoo.errors import InputError
from routoo.evaluation.bootstrap import MeanInterval, mean_interval
from routoo.evaluation_runs.graded_outcomes import (
    OutcomeTables,
    join_tables,
    load_graded_outcomes,
    without_evaluation_items,
)
from routoo.predictor.dataset import OutcomeMatrix, outcome_matrix
from routoo.predictor.manifest import read_manifest
from routoo.predictor.predictor import load_predictor
from routoo.settings import Settings, load_settings
from routoo.store import checkpoints
from routoo.store.checkpoints import CheckpointRecord
from routoo.store.database import Database
from routoo.training.promote import put_into_use, register_folder

MIN_ITEMS = 20
"""Held-out items without which nothing can be said of a new checkpoint."""


def training_tables(
    items: Sequence[Path], outcomes: Sequence[Path], console: Console, *, from_runs: bool
) -> OutcomeTables:
    """Return what to fit on: files, and with `from_runs` the graded answers of the store.

    With `from_runs` the items of evaluation sets are taken out of the files too.

    Raises:
        InputError: There is nothing to fit on.
    """
    files = None
    if bool(items) != bool(outcomes):
        raise InputError(
            "items and outcomes go together", remedy="Give both --items and --outcomes"
        )
    if items or outcomes:
        files = OutcomeTables(tuple(read_items(*items)), read_outcomes(*outcomes))
    if not from_runs:
        if files is None:
            raise InputError(
                "there is nothing to fit on", remedy="Give --items and --outcomes, or --from-runs"
            )
        return files

    async def load(database: Database) -> tuple[OutcomeTables, int]:
        async with database.transaction() as conn:
            found = await load_graded_outcomes(conn)
            if files is None:
                return found.training, len(found.evaluation.items)
            kept, taken = await without_evaluation_items(conn, files)
            return join_tables([kept, found.training]), taken + len(found.evaluation.items)

    tables, left_out = run_with_database(load_settings(), load)
    console.print(f"{left_out} evaluation items are kept out of the fit")
    if not tables.items:
        raise InputError(
            "no batch has graded answers to fit on",
            remedy="Grade batches with `routoo-producer grade`, or run a set that was added with "
            "--for-training",
        )
    return tables


def refuse_folder_in_use(folder: Path) -> None:
    """Refuse to write over a checkpoint that is registered, or that scorers use.

    The new one is compared with the one in use, and a rollback must find the old ones as they were.

    Raises:
        InputError: The folder holds such a checkpoint.
    """
    settings = load_settings()

    async def load(database: Database) -> list[CheckpointRecord]:
        async with database.transaction() as conn:
            return await checkpoints.list_all(conn)

    kept = {Path(one.path) for one in run_with_database(settings, load)}
    if folder.resolve() in {*kept, settings.checkpoint.resolve()}:
        raise InputError(
            "the folder holds a checkpoint that is registered or in use",
            value=str(folder),
            where="--out",
            remedy='Give each checkpoint a folder of its own, such as checkpoints/"$(date +%F)"',
        )


def promote_if_not_worse(folder: Path, device: str, console: Console) -> bool:
    """Register a checkpoint, and put it into use unless it does worse on evaluation items.

    Both checkpoints predict the graded answers to the items of evaluation sets, which neither was
    fitted on here; the mean of the differences of squared errors decides, item by item. Worse is a
    rise whose 95 % interval excludes none.

    Returns:
        Whether it is in use now.
    """
    settings = load_settings()

    async def held_out(database: Database) -> tuple[OutcomeTables, CheckpointRecord | None]:
        async with database.transaction() as conn:
            return (await load_graded_outcomes(conn)).evaluation, await checkpoints.promoted(conn)

    tables, promoted = run_with_database(settings, held_out)
    present = settings.checkpoint if promoted is None else Path(promoted.path)
    rise = compare_checkpoints(tables, present, folder, device)
    why = f"Brier score on evaluation items: {_shown(rise)}"
    better = rise is not None and rise.items >= MIN_ITEMS and not (rise.low > 0)
    _record(settings, folder, f"trained from runs; {why}" if better else None)
    if better:
        console.print(f"in use from the next batch on; {why}")
    else:
        reason = why if rise is not None else f"fewer than {MIN_ITEMS} graded evaluation items"
        text = f"registered and not promoted: {reason}; `routoo checkpoint promote` does so anyway"
        console.print(text)
    return better


def compare_checkpoints(
    tables: OutcomeTables, present: Path, new: Path, device: str
) -> MeanInterval | None:
    """Return how much the new checkpoint's squared error is above the present one's, an item.

    None where there are too few items, or no model that both know.
    """
    known = set(tables.outcomes.models)
    both = set(read_manifest(present).models) & set(read_manifest(new).models) & known
    if not both or len(tables.items) < MIN_ITEMS:
        return None
    matrix = outcome_matrix(tables.items, _only(tables, both).outcomes, sorted(both))
    errors = [_squared_error(folder, matrix, device) for folder in (new, present)]
    return mean_interval(errors[0] - errors[1])


def _only(tables: OutcomeTables, models: set[str]) -> OutcomeTables:
    keep = np.array([name in models for name in tables.outcomes.models], np.bool_)
    return OutcomeTables(tables.items, tables.outcomes.select(keep))


def _squared_error(folder: Path, matrix: OutcomeMatrix, device: str) -> np.ndarray:
    cache = load_settings().home / "cache" / "embeddings"
    predictor = load_predictor(folder, device=device, cache=cache)
    quality = predictor.predict(matrix.prompts, matrix.models).quality
    return np.asarray(np.nanmean((quality - matrix.score) ** 2, axis=1), np.float64)


def _record(settings: Settings, folder: Path, reason: str | None) -> None:
    """Register a checkpoint, and promote it where there is a reason to."""

    async def write(database: Database) -> None:
        async with database.transaction() as conn:
            found = await register_folder(conn, folder)
            if reason is not None:
                await put_into_use(conn, found, reason, settings.checkpoint)

    run_with_database(settings, write)


def _shown(rise: MeanInterval | None) -> str:
    if rise is None:
        return "not compared"
    between = f"95 % interval {rise.low:+.4f} to {rise.high:+.4f}"
    return f"{rise.mean:+.4f} against the present one ({between}, {rise.items} items)"
