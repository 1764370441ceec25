"""Reads how far a batch has come, in one snapshot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus, ResultStatus, ShardState, Stage
from routoo.errors import NotFoundError
from routoo.store.ledger import Balance


@dataclass(frozen=True, slots=True)
class ModelShare:
    """What one candidate model contributed so far."""

    model: str
    results: int
    """Jobs it answered."""
    attempts: int
    """Calls made to it, failed and lost ones too."""
    cost_usd: Decimal
    """Of all those calls, in USD."""


@dataclass(frozen=True, slots=True)
class Deviations:
    """Jobs that another model answered than the one that the first plan chose for them."""

    downgrades: int = 0
    """Those whose model is expected to answer worse than the planned one."""
    upgrades: int = 0
    """Those whose model is expected to answer better."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """All of them by the reason, as `DeviationReason` has it."""

    @property
    def jobs(self) -> int:
        """How many there are, those of equal expected quality included."""
        return sum(self.reasons.values())


@dataclass(frozen=True, slots=True)
class Failure:
    """A reason for which jobs ended without an answer."""

    error_code: str
    jobs: int
    example: str
    """What one of them says."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A batch's progress."""

    status: BatchStatus
    error: str | None
    jobs: int
    scored: int
    assigned: int
    """Jobs that were given a model."""
    results: dict[ResultStatus, int]
    """Jobs that ended, by how; every status is a key."""
    balance: Balance
    models: tuple[ModelShare, ...]
    """In alphabetical order; models that were never called are left out."""
    shards: dict[Stage, dict[ShardState, int]]
    """Shards by stage and state; absent states are left out."""
    budget_warnings: tuple[int, ...] = ()
    """Shares of the present budget that were used up and warned of, in per cent, ascending."""
    at_providers: int = 0
    """Jobs that providers' batches hold."""
    deviations: Deviations = field(default_factory=Deviations)
    recent_per_s: float | None = None
    """Jobs that ended a second in the last half minute; None where none did."""
    failures: tuple[Failure, ...] = ()
    """The commonest reasons of jobs without an answer."""

    @property
    def ended(self) -> int:
        """Jobs that have a result."""
        return sum(self.results.values())


RECENT_S = 30.0
"""The window of the rate at which jobs end, in seconds."""
_WINDOW = f"interval '{RECENT_S} s'"
_FAILURES_TOLD = 3

# Shards tell how many jobs are scored without counting millions of rows on every poll.
_PROGRESS = f"""
SELECT b.status, b.error, b.job_count,
    (SELECT coalesce(sum(job_count), 0) FROM shards
     WHERE batch_id = b.id AND stage = 'score' AND state = 'done'),
    (SELECT count(*) FROM assignments WHERE batch_id = b.id AND revision = 1),
    (SELECT json_agg(r) FROM
        (SELECT status, count(*) AS n,
                count(*) FILTER (WHERE created_at > now() - {_WINDOW}) AS recent,
                extract(epoch FROM now() - min(created_at))::float AS since_first_s
         FROM results WHERE batch_id = b.id GROUP BY status) AS r),
    (SELECT json_agg(json_build_array(stage, state, n)) FROM
        (SELECT stage, state, count(*) AS n FROM shards WHERE batch_id = b.id
         GROUP BY stage, state) AS s),
    (SELECT array_agg(percent ORDER BY percent) FROM budget_warnings w
     WHERE w.batch_id = b.id AND w.limit_usd = l.limit_usd),
    (SELECT count(*) FROM provider_batches p JOIN provider_rows USING (marker)
     WHERE p.batch_id = b.id AND p.state <> 'closed'),
    l.limit_usd, l.reserved_usd, l.spent_usd, l.overrun_usd
FROM batches b JOIN ledgers l ON l.batch_id = b.id WHERE b.id = %s
"""

_SHARES = """
SELECT model, coalesce(answered, 0), coalesce(calls, 0), coalesce(cost_usd, 0)
FROM (SELECT model, count(*) AS calls, sum(cost_usd) AS cost_usd
      FROM attempts WHERE batch_id = %(id)s GROUP BY model) AS a
FULL JOIN (SELECT model, count(*) AS answered FROM results
           WHERE batch_id = %(id)s AND status = 'succeeded' GROUP BY model) AS r USING (model)
ORDER BY model
"""


# Read from a partial index alone; it is empty in a batch that runs as planned.
_DEVIATIONS = """
SELECT reason, count(*), count(*) FILTER (WHERE quality_change < 0),
       count(*) FILTER (WHERE quality_change > 0)
FROM results WHERE batch_id = %s AND reason IS NOT NULL
GROUP BY reason ORDER BY count(*) DESC, reason
"""


async def deviations(conn: AsyncConnection, batch_id: UUID) -> Deviations:
    """Count the jobs of a batch that another model answered than planned."""
    rows = await (await conn.execute(_DEVIATIONS, [batch_id])).fetchall()
    return Deviations(
        downgrades=sum(row[2] for row in rows),
        upgrades=sum(row[3] for row in rows),
        reasons={row[0]: row[1] for row in rows},
    )


async def progress(conn: AsyncConnection, batch_id: UUID) -> Progress:
    """Return how far a batch has come.

    Raises:
        NotFoundError: There is no such batch.
    """
    cursor = await conn.execute(_PROGRESS.encode(), [batch_id])
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError("there is no such batch", value=str(batch_id))
    status, error, jobs, scored, assigned, ended, shards, warnings, held, *money = row
    shares = await (await conn.execute(_SHARES, {"id": batch_id})).fetchall()
    return Progress(
        status=BatchStatus(status),
        error=error,
        jobs=jobs,
        scored=scored,
        assigned=assigned,
        results=_counts(ended or []),
        balance=Balance(*money),
        models=tuple(ModelShare(*share) for share in shares),
        shards=_by_stage(shards or []),
        budget_warnings=tuple(warnings or ()),
        at_providers=held,
        deviations=await deviations(conn, batch_id),
        recent_per_s=_recent_per_s(ended or []),
        failures=await failures(conn, batch_id) if _failed(ended or []) else (),
    )


async def failures(conn: AsyncConnection, batch_id: UUID) -> tuple[Failure, ...]:
    """Return the commonest reasons for which jobs of a batch have no answer."""
    cursor = await conn.execute(
        """
        SELECT coalesce(error_code, status), count(*), coalesce(min(error_message), '')
        FROM results WHERE batch_id = %s AND status <> 'succeeded'
        GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %s
        """,
        [batch_id, _FAILURES_TOLD],
    )
    return tuple([Failure(*row) async for row in cursor])


def _counts(ended: list[dict[str, Any]]) -> dict[ResultStatus, int]:
    found = {row["status"]: row["n"] for row in ended}
    return {status: found.get(status, 0) for status in ResultStatus}


def _failed(ended: list[dict[str, Any]]) -> bool:
    return any(row["status"] != ResultStatus.SUCCEEDED for row in ended)


def _recent_per_s(ended: list[dict[str, Any]]) -> float | None:
    recent = sum(row["recent"] for row in ended)
    window_s = min(RECENT_S, max((row["since_first_s"] for row in ended), default=0.0))
    return recent / window_s if recent and window_s > 0 else None


def _by_stage(rows: list[tuple[Any, Any, int]]) -> dict[Stage, dict[ShardState, int]]:
    stages: dict[Stage, dict[ShardState, int]] = {stage: {} for stage in Stage}
    for stage, state, count in rows:
        stages[Stage(stage)][ShardState(state)] = count
    return stages
