"""Reads how far a batch has come, in one snapshot."""

from collections import Counter
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
class FailureCause:
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
    failures: tuple[FailureCause, ...] = ()
    """The reasons of jobs without an answer, the commonest first; twenty at most."""

    @property
    def ended(self) -> int:
        """Jobs that have a result."""
        return sum(self.results.values())


RECENT_S = 30.0
"""The window of the rate at which jobs end, in seconds."""
_WINDOW = f"interval '{RECENT_S} s'"
_MOST_FAILURES = 20

# Shards tell how many jobs are scored, and `batch_counts` how many ended how, without counting
# millions of rows on every poll.
_PROGRESS = """
SELECT b.status, b.error, b.job_count,
    (SELECT coalesce(sum(job_count), 0) FROM shards
     WHERE batch_id = b.id AND stage = 'score' AND state = 'done'),
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

_COUNTS = f"""
SELECT model, status, error_code, reason,
       sum(results)::int, sum(downgrades)::int, sum(upgrades)::int, sum(calls)::int, sum(cost_usd),
       coalesce(sum(results) FILTER (WHERE results > 0 AND created_at > now() - {_WINDOW}), 0)::int,
       extract(epoch FROM now() - min(first_at) FILTER (WHERE results > 0))::float
FROM batch_counts WHERE batch_id = %s
GROUP BY model, status, error_code, reason ORDER BY model, status, error_code, reason
"""

# A partial index leads to the first job of a reason. Results of old versions may have no code.
_EXAMPLES = """
SELECT coalesce(
    (SELECT error_message FROM results r WHERE r.batch_id = %(id)s AND r.status <> 'succeeded'
       AND r.error_code = wanted.code ORDER BY job_no LIMIT 1),
    (SELECT error_message FROM results r WHERE r.batch_id = %(id)s AND r.status <> 'succeeded'
       AND r.error_code IS NULL AND r.status = wanted.code ORDER BY job_no LIMIT 1), '')
FROM unnest(%(codes)s::text[]) WITH ORDINALITY AS wanted (code, position) ORDER BY position
"""

# What is younger tells the rate at which jobs end.
_MERGE = """
WITH old AS (
    DELETE FROM batch_counts c
    WHERE created_at < now() - interval '1 minute' AND batch_id = %s RETURNING c.*
)
INSERT INTO batch_counts (batch_id, model, status, error_code, reason, results, downgrades,
                          upgrades, calls, cost_usd, first_at, created_at)
SELECT batch_id, model, status, error_code, reason, sum(results), sum(downgrades), sum(upgrades),
       sum(calls), sum(cost_usd), min(first_at), max(created_at)
FROM old GROUP BY batch_id, model, status, error_code, reason
HAVING sum(results) <> 0 OR sum(calls) <> 0
"""
_MANY_ENTRIES = 500


@dataclass(frozen=True, slots=True)
class _Count:
    """Results or calls of a batch that are alike."""

    model: str | None
    status: str | None
    error_code: str | None
    reason: str | None
    results: int
    downgrades: int
    upgrades: int
    calls: int
    cost_usd: Decimal
    recent: int
    """Results of the last half minute."""
    since_first_s: float | None


async def deviations(conn: AsyncConnection, batch_id: UUID) -> Deviations:
    """Count the jobs of a batch that another model answered than planned."""
    return _deviations(await _counts(conn, batch_id))


async def models_answering(conn: AsyncConnection, batch_id: UUID) -> frozenset[str]:
    """Return the names of the models that answered jobs of a batch in the last five minutes."""
    cursor = await conn.execute(
        "SELECT DISTINCT model FROM batch_counts WHERE batch_id = %s AND status = 'succeeded'"
        " AND results > 0 AND created_at > now() - interval '5 minutes'",
        [batch_id],
    )
    return frozenset([model async for (model,) in cursor])


async def progress(conn: AsyncConnection, batch_id: UUID) -> Progress:
    """Return how far a batch has come.

    Raises:
        NotFoundError: There is no such batch.
    """
    cursor = await conn.execute(_PROGRESS, [batch_id])
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError("there is no such batch", value=str(batch_id))
    status, error, jobs, scored, shards, warnings, held, *money = row
    counts = await _counts(conn, batch_id)
    return Progress(
        status=BatchStatus(status),
        error=error,
        jobs=jobs,
        scored=scored,
        results=_results(counts),
        balance=Balance(*money),
        models=_shares(counts),
        shards=_by_stage(shards or []),
        budget_warnings=tuple(warnings or ()),
        at_providers=held,
        deviations=_deviations(counts),
        recent_per_s=_recent_per_s(counts),
        failures=await _failures(conn, batch_id, counts),
    )


async def merge_counts(conn: AsyncConnection, *, above: int = _MANY_ENTRIES) -> int:
    """Merge old entries of `batch_counts`, which only grow in number while batches run.

    Args:
        conn: A transaction of its own; any number of processes may merge at once.
        above: Entries that a batch may keep.

    Returns:
        Batches whose entries were merged.
    """
    cursor = await conn.execute(
        "SELECT batch_id FROM batch_counts WHERE created_at < now() - interval '1 minute'"
        " GROUP BY batch_id HAVING count(*) > %s",
        [above],
    )
    batches = [row[0] async for row in cursor]
    for batch_id in batches:
        await conn.execute(_MERGE, [batch_id])
    return len(batches)


async def _counts(conn: AsyncConnection, batch_id: UUID) -> list[_Count]:
    cursor = await conn.execute(_COUNTS.encode(), [batch_id])
    return [_Count(*row) async for row in cursor]


def _results(counts: list[_Count]) -> dict[ResultStatus, int]:
    found = dict.fromkeys(ResultStatus, 0)
    for one in counts:
        if one.status is not None:
            found[ResultStatus(one.status)] += one.results
    return found


def _shares(counts: list[_Count]) -> tuple[ModelShare, ...]:
    shares: dict[str, ModelShare] = {}
    for one in counts:
        if one.model is None:
            continue
        known = shares.get(one.model, ModelShare(one.model, 0, 0, Decimal(0)))
        answered = one.results if one.status == ResultStatus.SUCCEEDED else 0
        shares[one.model] = ModelShare(
            one.model,
            known.results + answered,
            known.attempts + one.calls,
            known.cost_usd + one.cost_usd,
        )
    return tuple(share for share in shares.values() if share.results or share.attempts)


def _deviations(counts: list[_Count]) -> Deviations:
    reasons: Counter[str] = Counter()
    for one in counts:
        if one.reason is not None and one.results:
            reasons[one.reason] += one.results
    return Deviations(
        downgrades=sum(one.downgrades for one in counts),
        upgrades=sum(one.upgrades for one in counts),
        reasons=dict(_commonest(reasons)),
    )


async def _failures(
    conn: AsyncConnection, batch_id: UUID, counts: list[_Count]
) -> tuple[FailureCause, ...]:
    causes: Counter[str] = Counter()
    for one in counts:
        if one.status not in {None, ResultStatus.SUCCEEDED} and one.results:
            causes[one.error_code or str(one.status)] += one.results
    found = _commonest(causes)[:_MOST_FAILURES]
    if not found:
        return ()
    values = {"id": batch_id, "codes": [code for code, _ in found]}
    cursor = await conn.execute(_EXAMPLES, values)
    examples = [row[0] async for row in cursor]
    return tuple(
        FailureCause(code, jobs, example)
        for (code, jobs), example in zip(found, examples, strict=True)
    )


def _commonest(counted: "Counter[str]") -> list[tuple[str, int]]:
    """Return what is counted above 0, the commonest first and equals by name."""
    above = [(name, count) for name, count in counted.items() if count > 0]
    return sorted(above, key=lambda one: (-one[1], one[0]))


def _recent_per_s(counts: list[_Count]) -> float | None:
    recent = sum(one.recent for one in counts)
    since_s = max((one.since_first_s or 0.0 for one in counts), default=0.0)
    window_s = min(RECENT_S, since_s)
    return recent / window_s if recent and window_s > 0 else None


def _by_stage(rows: list[tuple[Any, Any, int]]) -> dict[Stage, dict[ShardState, int]]:
    stages: dict[Stage, dict[ShardState, int]] = {stage: {} for stage in Stage}
    for stage, state, count in rows:
        stages[Stage(stage)][ShardState(state)] = count
    return stages
