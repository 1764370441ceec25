"""Reads figures of all batches at one moment, in one statement, for monitoring."""

from dataclasses import dataclass
from decimal import Decimal
from itertools import product

from psycopg import AsyncConnection

from routoo.domain.completion import DeviationReason, QualityChange
from routoo.domain.job import BatchStatus, ResultStatus, ShardState, Stage
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


# Of results, only indexes are read: the primary key, and two that leave out jobs that were answered
# as planned. The calls are looked up model by model: the index on attempts begins with it.
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
    (SELECT count(*) FROM open JOIN results ON batch_id = id),
    (SELECT json_agg(json_build_array(status, n)) FROM
        (SELECT status, count(*) AS n FROM open JOIN results ON batch_id = id
         WHERE status <> 'succeeded' GROUP BY status) AS r),
    (SELECT json_agg(json_build_array(reason, change, n)) FROM
        (SELECT reason, CASE sign(quality_change) WHEN -1 THEN 'downgrade' WHEN 1 THEN 'upgrade'
                        ELSE 'equal' END AS change, count(*) AS n
         FROM open JOIN results ON batch_id = id WHERE reason IS NOT NULL GROUP BY 1, 2) AS d),
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
    batches, ended, unanswered, deviations, jobs, shards, calls, alerts, *rest = row
    schedules, endpoints, extras, *money = rest
    results = dict.fromkeys(ResultStatus, 0) | {ResultStatus(key): n for key, n in unanswered or ()}
    results[ResultStatus.SUCCEEDED] = ended - sum(results.values())
    return Overview(
        batches=dict.fromkeys(BatchStatus, 0) | {BatchStatus(key): n for key, n in batches or ()},
        jobs_pending=jobs - ended,
        results=results,
        deviations=dict.fromkeys(product(DeviationReason, QualityChange), 0)
        | {(DeviationReason(why), QualityChange(change)): n for why, change, n in deviations or ()},
        shards=dict.fromkeys(product(Stage, ShardState), 0)
        | {(Stage(stage), ShardState(state)): n for stage, state, n in shards or ()},
        money=OpenMoney(*money),
        calls=tuple(RecentCalls(*one) for one in calls or ()),
        alerts=dict.fromkeys(KINDS, 0) | dict(alerts or ()),
        schedules=tuple(ScheduleFigures(*one) for one in schedules or ()),
        endpoints=dict(endpoints or ()),
        extra_tokens={key: (prompt, completion) for key, prompt, completion in extras or ()},
    )
