"""Reads figures of all batches at one moment, in one statement: for monitoring, and as a list."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from itertools import product
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.completion import DeviationReason, QualityChange
from routoo.domain.job import BatchStatus, ResultStatus, ShardState, Stage
from routoo.store import columns
from routoo.store.evaluation.alerts import KINDS

_OPEN = [status.value for status in BatchStatus if not status.is_over]


@dataclass(frozen=True, slots=True)
class OpenMoney:
    """Money of the open batches together, in USD."""

    limit_usd: Decimal
    """Budgets; a batch without one adds nothing."""
    reserved_usd: Decimal
    """Worst case of the calls in flight."""
    spent_usd: Decimal
    """Cost of the calls that ended, as billed."""
    overrun_usd: Decimal
    """Of that, what was billed beyond the worst case of a call."""


@dataclass(frozen=True, slots=True)
class RecentCalls:
    """Calls to one model that ended one way within the last minute."""

    model: str
    status: str
    """succeeded, failed or lost."""
    calls: int
    mean_latency_s: float | None
    """None where no call was timed."""


@dataclass(frozen=True, slots=True)
class ScheduleFigures:
    """The last graded run of a schedule."""

    schedule: str
    quality: float | None
    """Mean, in [0, 1]; None where nothing could be graded."""
    cost_usd: float
    finished_at_s: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Overview:
    """All batches at one moment. An open batch is one that is not over."""

    batches: dict[BatchStatus, int]
    """Every status is a key."""
    jobs_pending: int
    """Jobs of open batches without a result."""
    results: dict[ResultStatus, int]
    """Jobs of open batches that ended, by how; every status is a key."""
    deviations: dict[tuple[DeviationReason, QualityChange], int]
    """Of these, jobs that another model answered than planned; every pair is a key."""
    shards: dict[tuple[Stage, ShardState], int]
    """Shards of open batches; every pair is a key."""
    money: OpenMoney
    calls: tuple[RecentCalls, ...]
    alerts: dict[str, int]
    """Alerts of evaluation runs by kind; every kind is a key."""
    schedules: tuple[ScheduleFigures, ...]
    endpoints: dict[str, bool]
    """Whether the breaker holds calls back, by endpoint's key."""
    extra_tokens: dict[str, tuple[int, int]]
    """Most prompt and completion tokens billed beyond a call's bound, by endpoint's key."""


# Results are not read: `batch_counts` has their sums. The calls are looked up model by model: the
# index on attempts begins with it.
_OVERVIEW = """
WITH open AS MATERIALIZED (SELECT id, job_count FROM batches WHERE status = ANY(%s)),
lately AS (
    SELECT DISTINCT e.model ->> 'name' AS model
    FROM batches b, jsonb_array_elements(b.pool -> 'models') AS e (model)
    WHERE b.id IN (SELECT id FROM open) OR b.completed_at > now() - interval '1 minute'
)
SELECT
    (SELECT json_agg(json_build_array(status, n)) FROM
        (SELECT status, count(*) AS n FROM batches GROUP BY status) AS b),
    (SELECT json_agg(json_build_array(status, n)) FROM
        (SELECT status, sum(results) AS n FROM open JOIN batch_counts ON batch_id = id
         WHERE status IS NOT NULL GROUP BY status) AS r),
    (SELECT json_agg(json_build_array(reason, worse, better, n)) FROM
        (SELECT reason, sum(downgrades) AS worse, sum(upgrades) AS better, sum(results) AS n
         FROM open JOIN batch_counts ON batch_id = id WHERE reason IS NOT NULL
         GROUP BY reason) AS d),
    (SELECT coalesce(sum(job_count), 0) FROM open),
    (SELECT json_agg(json_build_array(stage, state, n)) FROM
        (SELECT stage, state, count(*) AS n FROM shards WHERE batch_id IN (SELECT id FROM open)
         GROUP BY stage, state) AS s),
    (SELECT json_agg(json_build_array(model, status, n, mean)) FROM
        (SELECT model, status, count(*) AS n, avg(latency_s) AS mean
         FROM lately CROSS JOIN LATERAL
             (SELECT status, latency_s FROM attempts a
              WHERE a.model = lately.model AND created_at > now() - interval '1 minute') AS a
         GROUP BY model, status) AS c),
    (SELECT json_agg(json_build_array(kind, n)) FROM
        (SELECT kind, count(*) AS n FROM eval_alerts GROUP BY kind) AS a),
    (SELECT json_agg(json_build_array(name, figures #> '{quality,mean}', figures -> 'cost_usd',
                                      extract(epoch FROM finished_at))) FROM
        (SELECT DISTINCT ON (s.id) s.name, r.figures, r.finished_at
         FROM schedules s JOIN eval_runs r ON r.schedule_id = s.id AND r.state = 'finished'
         ORDER BY s.id, r.finished_at DESC) AS f),
    (SELECT json_agg(json_build_array(endpoint, (account #>> '{breaker,pause_s}')::float > 0))
     FROM endpoints),
    (SELECT json_agg(json_build_array(endpoint, extra_prompt_tokens, extra_completion_tokens))
     FROM endpoint_behaviour),
    coalesce(sum(limit_usd), 0), coalesce(sum(reserved_usd), 0),
    coalesce(sum(spent_usd + overrun_usd), 0), coalesce(sum(overrun_usd), 0)
FROM ledgers WHERE batch_id IN (SELECT id FROM open)
"""


async def overview(conn: AsyncConnection) -> Overview:
    """Return what is true now; within a transaction of its own it waits for nobody's locks."""
    row = (await (await conn.execute(_OVERVIEW, [_OPEN])).fetchall())[0]
    batches, results, deviations, jobs, shards, calls, alerts, schedules, *rest = row
    endpoints, extras, *money = rest
    ended = dict.fromkeys(ResultStatus, 0) | {ResultStatus(key): n for key, n in results or ()}
    return Overview(
        batches=dict.fromkeys(BatchStatus, 0) | {BatchStatus(key): n for key, n in batches or ()},
        jobs_pending=jobs - sum(ended.values()),
        results=ended,
        deviations=_by_change(deviations or ()),
        shards=dict.fromkeys(product(Stage, ShardState), 0)
        | {(Stage(stage), ShardState(state)): n for stage, state, n in shards or ()},
        money=OpenMoney(*money),
        calls=tuple(RecentCalls(*one) for one in calls or ()),
        alerts=dict.fromkeys(KINDS, 0) | dict(alerts or ()),
        schedules=tuple(ScheduleFigures(*one) for one in schedules or ()),
        endpoints=dict(endpoints or ()),
        extra_tokens={key: (prompt, completion) for key, prompt, completion in extras or ()},
    )


def _by_change(
    rows: Iterable[tuple[str, int, int, int]],
) -> dict[tuple[DeviationReason, QualityChange], int]:
    """Return the counts of deviations by reason and change; every pair is a key."""
    counts = dict.fromkeys(product(DeviationReason, QualityChange), 0)
    for name, worse, better, jobs in rows:
        reason = DeviationReason(name)
        counts[reason, QualityChange.DOWNGRADE] = worse
        counts[reason, QualityChange.UPGRADE] = better
        counts[reason, QualityChange.EQUAL] = jobs - worse - better
    return counts


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A batch as a list shows it."""

    id: UUID
    name: str
    kind: str
    status: BatchStatus
    jobs: int
    created_at: datetime
    submitted_at: datetime | None
    completed_at: datetime | None
    error: str | None
    limit_usd: Decimal | None
    spent_usd: Decimal
    """Cost of the calls that ended, as billed."""
    expected_cost_usd: float | None
    """By the plan; None before there is one, as are the next two."""
    expected_quality: float | None
    planned_s: float | None
    """When 95 % of the answers were to be there, in seconds from the start."""
    scored: int
    answered: int
    unanswered: int
    """Jobs that ended without an answer."""
    downgrades: int
    """Jobs that a model answered which is expected to be worse than the planned one."""
    recent: int
    """Jobs that ended within the last half minute."""
    since_first_s: float | None
    """Seconds since the first job ended."""

    def __post_init__(self) -> None:
        """Parse what the database keeps as text."""
        object.__setattr__(self, "status", BatchStatus(self.status))


@dataclass(frozen=True, slots=True)
class BatchFilter:
    """Which batches a list shows."""

    statuses: list[str] | None = None
    """None for all."""
    kind: str | None = None
    text: str | None = None
    """Part of the name, or start of the id."""
    key_id: UUID | None = None
    """Only those that this key submitted."""


# Only the lines that are shown are looked at closely.
_LINES = """
(SELECT b.id, b.name, b.kind, b.status, b.job_count AS jobs, b.created_at, b.submitted_at,
        b.completed_at, b.error, l.limit_usd, l.spent_usd + l.overrun_usd AS spent_usd,
        (b.plan ->> 'expected_cost_usd')::float8 AS expected_cost_usd,
        (b.plan ->> 'expected_quality')::float8 AS expected_quality,
        (b.plan #>> '{forecast,finish,p95_s}')::float8 AS planned_s,
        (SELECT coalesce(sum(job_count), 0) FROM shards
         WHERE batch_id = b.id AND stage = 'score' AND state = 'done') AS scored, c.*
 FROM (SELECT b.* FROM batches b JOIN ledgers l ON l.batch_id = b.id
       WHERE (%(statuses)s::text[] IS NULL OR status = ANY(%(statuses)s))
         AND (%(kind)s::text IS NULL OR kind = %(kind)s)
         AND (%(text)s::text IS NULL OR strpos(lower(name), lower(%(text)s)) > 0
              OR starts_with(id::text, lower(%(text)s)))
         {owned}
       ORDER BY created_at DESC, id LIMIT %(limit)s OFFSET %(offset)s) AS b
 JOIN ledgers l ON l.batch_id = b.id
 CROSS JOIN LATERAL (
    SELECT coalesce(sum(results) FILTER (WHERE status = 'succeeded'), 0)::int AS answered,
           coalesce(sum(results) FILTER (WHERE status <> 'succeeded'), 0)::int AS unanswered,
           coalesce(sum(downgrades), 0)::int AS downgrades,
           coalesce(sum(results) FILTER (WHERE results > 0
               AND created_at > now() - interval '30 s'), 0)::int AS recent,
           extract(epoch FROM now() - min(first_at) FILTER (WHERE results > 0))::float8
               AS since_first_s
    FROM batch_counts WHERE batch_id = b.id) AS c
) AS line ORDER BY created_at DESC, id
"""


async def list_lines(
    conn: AsyncConnection, wanted: BatchFilter, limit: int, offset: int = 0
) -> list[BatchLine]:
    """Return batches, newest first, with how far they are.

    Args:
        conn: A connection.
        wanted: Which batches.
        limit: Most of them.
        offset: How many to leave out before.
    """
    source = _LINES.replace("{owned}", "" if wanted.key_id is None else _OWNED)
    values = {**asdict(wanted), "limit": limit, "offset": offset}
    return await columns.select(conn, BatchLine, source, values)


_OWNED = "AND l.key_id = %(key_id)s"
