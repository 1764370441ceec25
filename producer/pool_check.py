"""Finds, before a submission, models that can't be scored or run on priors, and dead endpoints."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from routoo.client.ping import check_answers, ping
from routoo.domain.model_prior import GENERAL_CHECKPOINT
from routoo.domain.pool import Pool
from routoo.errors import CheckpointError
from routoo.predictor.manifest import checkpoint_models
from routoo.settings import Settings
from routoo.store import checkpoints
from routoo.store.batches.records import BatchRecord
from routoo.store.database import Database

if TYPE_CHECKING:
    from routoo.predictor.placement import PlacedModel


_KIND_DEVIATION = 0.8
"""How far a kind of prompts that the general checkpoint never saw shifts all models' log-odds:
measured by `benchmarks/general.py --new-kind`."""


async def check_models(database: Database, pool: Pool, checkpoint: Path) -> list[str]:
    """Check that the checkpoint that will score a batch knows every model of its pool.

    Args:
        database: Where checkpoints are promoted.
        pool: The candidate models.
        checkpoint: The checkpoint of scorers while none is promoted.

    Returns:
        Notes for people: which models are placed by priors, or that the checkpoint is not on this
        machine, so that it can't be told.

    Raises:
        CheckpointError: Some models are known to no checkpoint, and there is no general one.
    """
    async with database.transaction() as conn:
        promoted = await checkpoints.promoted(conn)
    if promoted is not None:
        known, where = tuple(promoted.manifest["models"]), promoted.path
    else:
        where = str(checkpoint)
        try:
            known = checkpoint_models(checkpoint)
        except CheckpointError:
            note = f"checkpoint {where} can't be read here: whether it knows all models, scorers"
            return [f"{note} will find"]
    names = dict.fromkeys(model.predicted_as for model in pool.models)
    unknown = [name for name in names if name not in known]
    if not unknown:
        return []
    placed = await asyncio.to_thread(place_by_priors, pool, known, Path(where))
    if placed is None:
        _refuse(unknown, known, f"checkpoint {where}")
        return []
    return prior_notes(placed)


def place_by_priors(
    pool: Pool, known: Sequence[str], checkpoint: Path
) -> "list[PlacedModel] | None":
    """Return where a batch's scorers place the models that their checkpoint does not know.

    Args:
        pool: The candidate models.
        known: Names of the models that the checkpoint in use knows.
        checkpoint: The folder of that checkpoint; it need not be on this machine.

    Returns:
        The models that are placed; None where no general checkpoint is there.
    """
    from routoo.predictor.placement import read_placer  # needs NumPy, rarely

    for folder, names in ((checkpoint, known), (GENERAL_CHECKPOINT, ())):
        try:
            placer = read_placer(folder)
        except CheckpointError:
            continue
        if placer is not None:
            return placer.place([one for one in pool.models if one.predicted_as not in names])
    return None


async def priors_of(database: Database, batch: BatchRecord, default: Path) -> "list[PlacedModel]":
    """Return the models of a batch that are placed by priors; none where all are known.

    Args:
        database: Where checkpoints are promoted.
        batch: The batch or plan.
        default: The checkpoint of scorers while none is promoted.
    """
    async with database.transaction() as conn:
        promoted = await checkpoints.promoted(conn, at=batch.created_at)
    try:
        where = default if promoted is None else Path(promoted.path)
        known = checkpoint_models(where) if promoted is None else promoted.manifest["models"]
    except CheckpointError:
        return []
    if {model.predicted_as for model in batch.pool.models} <= set(known):
        return []
    return await asyncio.to_thread(place_by_priors, batch.pool, known, where) or []


def prior_notes(placed: "Sequence[PlacedModel]") -> list[str]:
    """Return in words which models run on priors, and what graded answers would improve."""
    head = (
        "this runs on priors: no trained checkpoint knows all models of the pool, so the general "
        "one places them (mean quality on its own prompts, 95 % interval)"
    )
    lines = [head]
    for one in placed:
        now, after = one.level, one.after_answers
        lines.append(
            f"  {one.name}: {now.quality:.2f} ({now.low:.2f} to {now.high:.2f}) by {one.by}; "
            f"50 graded answers would narrow that to about {after.high - after.low:.2f} from "
            f"{now.high - now.low:.2f}"
        )
    lines.append(
        "  `routoo onboard --pool POOL --items GRADED --budget-usd X` collects and learns them"
    )
    return lines


def shared_doubt(plan: Mapping[str, Any], placed: "Sequence[PlacedModel]") -> str | None:
    """Return in words what the plan's interval leaves out: errors that all estimates share.

    Args:
        plan: A plan's facts.
        placed: The models that were placed by priors.
    """
    widths = {one.name: one.level.high - one.level.low for one in placed}
    shares = {one["model"]: float(one["share"]) for one in plan.get("models", [])}
    own = sum((shares.get(name, 0.0) * width / 2) ** 2 for name, width in widths.items())
    if not own:
        return None
    mean = float(plan["expected_quality"])
    common = 1.96 * _KIND_DEVIATION * mean * (1 - mean)
    half = (own + common**2) ** 0.5
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    return (
        f"on priors the mean quality may be {low:.0%} to {high:.0%}: the plan's interval leaves "
        "out errors that all estimates share, such as prompts of a kind that the tables lack"
    )


async def check_pool(
    database: Database, pool: Pool, settings: Settings, *, asks_endpoints: bool = True
) -> list[str]:
    """Check before a submission that a pool can be scored, and that its endpoints answer.

    Args:
        database: Where checkpoints are promoted.
        pool: The candidate models.
        settings: The checkpoint of scorers, and how long an endpoint may take to answer.
        asks_endpoints: Whether endpoints are asked at all.

    Returns:
        Notes for people about what can't be told.

    Raises:
        CheckpointError: The checkpoint doesn't know a model of the pool.
        ConfigError: A model of the pool doesn't answer.
    """
    notes = await check_models(database, pool, settings.checkpoint)
    if settings.ping_timeout_s and asks_endpoints:
        notes += filter(None, [await check_endpoints(pool, settings)])
    return notes


async def check_checkpoint(database: Database, checkpoint: Path, *, is_named: bool) -> None:
    """Check that workers which are started on this machine will have a predictor.

    Args:
        database: Where checkpoints are promoted.
        checkpoint: The checkpoint of these workers while none is promoted.
        is_named: Whether it was asked for, and is no default.

    Raises:
        CheckpointError: None is promoted and this one can't be read, or another is promoted.
    """
    async with database.transaction() as conn:
        promoted = await checkpoints.promoted(conn)
    if promoted is None:
        try:
            checkpoint_models(checkpoint)
        except CheckpointError as error:
            raise CheckpointError(
                f"there is no predictor to score the prompts with: {error.what}",
                where=str(checkpoint),
                remedy="Name one with --checkpoint or ROUTOO_CHECKPOINT, fit one with "
                "`routoo train`, or put one into use with `routoo checkpoint promote`",
            ) from error
    elif is_named and promoted.path != str(checkpoint):
        raise CheckpointError(
            "another checkpoint is in use for all batches",
            value=str(checkpoint),
            where=f"checkpoint {promoted.path}",
            remedy="Put yours into use with `routoo checkpoint promote`, or leave --checkpoint out",
        )


def _refuse(unknown: Sequence[str], known: Sequence[str], where: str) -> None:
    raise CheckpointError(
        f"the checkpoint doesn't know {len(unknown)} of the pool's models, so no job can be scored",
        value=", ".join(unknown),
        where=where,
        remedy="Add them with `routoo onboard` or `routoo checkpoint add-model`, take them out "
        f"of the pool, or name them as the checkpoint does: {', '.join(known[:10])}",
    )


async def check_endpoints(pool: Pool, settings: Settings) -> str | None:
    """Check that every model of a pool has an endpoint that answers.

    Args:
        pool: The candidate models.
        settings: How long to wait for each endpoint, all at once, and which networks are blocked.

    Returns:
        A note for people where some could not be asked, since their keys are not on this machine.

    Raises:
        ConfigError: Some models don't answer.
    """
    found = await ping(
        pool.models, timeout_s=settings.ping_timeout_s, blocked=settings.blocked_networks
    )
    check_answers(found)
    unknown = sorted({name for one in found if one.is_unknown for name in one.models})
    if not unknown:
        return None
    return f"not asked whether they answer, since their keys are not set here: {', '.join(unknown)}"
