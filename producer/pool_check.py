"""Finds, before a submission, models that can't be scored and endpoints that don't answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from routoo.client.ping import check_answers, ping
from routoo.domain.pool import Pool
from routoo.errors import CheckpointError
from routoo.predictor.manifest import checkpoint_models
from routoo.settings import Settings
from routoo.store import checkpoints
from routoo.store.database import Database


async def check_models(database: Database, pool: Pool, checkpoint: Path) -> str | None:
    """Check that the checkpoint that will score a batch knows every model of its pool.

    Args:
        database: Where checkpoints are promoted.
        pool: The candidate models.
        checkpoint: The checkpoint of scorers while none is promoted.

    Returns:
        A note for people where that can't be told, because the checkpoint is not on this machine.

    Raises:
        CheckpointError: It doesn't know some of them.
    """
    async with database.transaction() as conn:
        promoted = await checkpoints.promoted(conn)
    if promoted is not None:
        known, where = tuple(promoted.manifest["models"]), f"checkpoint {promoted.path}"
    else:
        where = f"checkpoint {checkpoint}"
        try:
            known = checkpoint_models(checkpoint)
        except CheckpointError:
            return f"{where} can't be read here: whether it knows all models, scorers will find"
    _check_known(pool, known, where)
    return None


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
    notes = [await check_models(database, pool, settings.checkpoint)]
    if settings.ping_timeout_s and asks_endpoints:
        notes.append(await check_endpoints(pool, settings))
    return [note for note in notes if note is not None]


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


def _check_known(pool: Pool, known: Sequence[str], where: str) -> None:
    names = dict.fromkeys(model.predicted_as for model in pool.models)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CheckpointError(
            f"the checkpoint doesn't know {len(unknown)} of the pool's models, so no job can be "
            "scored",
            value=", ".join(unknown),
            where=where,
            remedy="Add them with `routoo checkpoint add-model` or `routoo train`, take them out "
            f"of the pool, or name them as the checkpoint does: {', '.join(known[:10])}",
        )


async def check_endpoints(
    pool: Pool, settings: Settings, *, environ: Mapping[str, str] | None = None
) -> str | None:
    """Check that every model of a pool has an endpoint that answers.

    Args:
        pool: The candidate models.
        settings: How long to wait for each endpoint, all at once, and which networks are blocked.
        environ: Where keys and proxies are looked up; the process's environment if unset.

    Returns:
        A note for people where some could not be asked, since their keys are not on this machine.

    Raises:
        ConfigError: Some models don't answer.
    """
    found = await ping(
        pool.models,
        timeout_s=settings.ping_timeout_s,
        environ=environ,
        blocked=settings.blocked_networks,
    )
    check_answers(found)
    unknown = sorted({name for one in found if one.is_unknown for name in one.models})
    if not unknown:
        return None
    return f"not asked whether they answer, since their keys are not set here: {', '.join(unknown)}"
