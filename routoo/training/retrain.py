"""Puts a newly trained checkpoint into use, unless it predicts evaluation items worse."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from routoo.domain.tables import OutcomeTables
from routoo.errors import InputError
from routoo.evaluation.bootstrap import MeanInterval, mean_interval
from routoo.evaluation_runs.graded_outcomes import load_graded_outcomes
from routoo.ports import Feedback
from routoo.predictor.dataset import OutcomeMatrix, outcome_matrix
from routoo.predictor.manifest import read_manifest
from routoo.predictor.predictor import load_predictor
from routoo.settings import Settings
from routoo.store import checkpoints
from routoo.store.database import Database
from routoo.training.promote import promote_checkpoint, register_folder

MIN_ITEMS = 20
"""Held-out items without which nothing can be said about a new checkpoint."""


async def check_folder_free(database: Database, folder: Path, default: Path) -> None:
    """Refuse to write over a checkpoint that is registered, or that scorers use.

    The new checkpoint is compared with the one in use, and a rollback must find the old ones
    unchanged.

    Args:
        database: Where checkpoints are registered.
        folder: Folder of the checkpoint to write.
        default: Folder that scorers use while no checkpoint is promoted.

    Raises:
        InputError: The folder holds such a checkpoint.
    """
    async with database.transaction() as conn:
        registered = [Path(one.path) for one in await checkpoints.list_all(conn)]
    if _is_one_of(folder, [*registered, default]):
        raise InputError(
            "the folder holds a checkpoint that is registered or in use",
            value=str(folder),
            where="--out",
            remedy='Give each checkpoint a folder of its own, such as checkpoints/"$(date +%F)"',
        )


async def promote_if_not_worse(
    database: Database, folder: Path, settings: Settings, device: str, feedback: Feedback
) -> bool:
    """Register a checkpoint, and put it into use unless it does worse on evaluation items.

    Both checkpoints predict the graded answers to the items of evaluation sets, which the new one
    was not fitted on. The mean over items of the differences of squared errors decides: the new
    checkpoint is worse if the whole 95 % interval of that mean is above 0.

    Args:
        database: Where answers are graded and checkpoints are registered.
        folder: The new checkpoint.
        settings: Name the checkpoint in use while none is promoted, and the home of the cache.
        device: Where backbones compute: cpu, cuda or auto.
        feedback: Is told what was decided, and why.

    Returns:
        Whether it is in use now.
    """
    async with database.transaction() as conn:
        tables = (await load_graded_outcomes(conn)).evaluation
        promoted = await checkpoints.promoted(conn)
    present = settings.checkpoint if promoted is None else Path(promoted.path)
    cache = settings.home / "cache" / "embeddings"
    rise = await asyncio.to_thread(compare_checkpoints, tables, (present, folder), device, cache)
    better = rise is not None and rise.items >= MIN_ITEMS and not rise.low > 0
    why = f"Brier score on evaluation items: {_describe(rise)}"
    async with database.transaction() as conn:
        found = await register_folder(conn, folder)
        if better:
            reason = f"trained from runs; {why}"
            await promote_checkpoint(conn, found, reason, settings.checkpoint)
    if better:
        feedback.note(f"in use from the next batch on; {why}")
    else:
        feedback.note(_why_not_promoted(rise, why))
    return better


def compare_checkpoints(
    tables: OutcomeTables, folders: tuple[Path, Path], device: str, cache: Path
) -> MeanInterval | None:
    """Return how far the new checkpoint's squared error is above the present one's, an item.

    Args:
        tables: Graded answers that neither was fitted on.
        folders: The present checkpoint and the new one.
        device: Where backbones compute.
        cache: Folder of cached embeddings.

    Returns:
        The mean with its 95 % interval; None where there are fewer than `MIN_ITEMS` items, or no
        model that both know.
    """
    models = set(tables.outcomes.models)
    models.intersection_update(*(read_manifest(folder).models for folder in folders))
    if not models or len(tables.items) < MIN_ITEMS:
        return None
    rows = np.array([name in models for name in tables.outcomes.models], np.bool_)
    matrix = outcome_matrix(tables.items, tables.outcomes.select(rows), sorted(models))
    present, new = (_squared_error(folder, matrix, device, cache) for folder in folders)
    return mean_interval(new - present)


def _is_one_of(folder: Path, others: Sequence[Path]) -> bool:
    return folder.resolve() in {other.resolve() for other in others}


def _squared_error(folder: Path, matrix: OutcomeMatrix, device: str, cache: Path) -> np.ndarray:
    predictor = load_predictor(folder, device=device, cache=cache)
    quality = predictor.predict(matrix.prompts, matrix.models).quality
    return np.asarray(np.nanmean((quality - matrix.score) ** 2, axis=1), np.float64)


def _why_not_promoted(rise: MeanInterval | None, why: str) -> str:
    reason = why if rise is not None else f"fewer than {MIN_ITEMS} graded evaluation items"
    how = "`routoo checkpoint promote` does so anyway"
    return f"registered and not promoted: {reason}; {how}"


def _describe(rise: MeanInterval | None) -> str:
    if rise is None:
        return "not compared"
    between = f"95 % interval {rise.low:+.4f} to {rise.high:+.4f}"
    return f"{rise.mean:+.4f} against the present one ({between}, {rise.items} items)"
