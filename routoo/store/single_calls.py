"""Single completions and their money: reserved where their key has a limit, then settled.

Settling the same call twice moves no money again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from psycopg import AsyncConnection

from routoo.store import columns
from routoo.store.encoding import json_rows


@dataclass(frozen=True, slots=True)
class SettledCall:
    """A single completion that ended, as its row has it."""

    id: UUID
    key_id: UUID | None
    model: str
    worst_case_usd: Decimal
    status: str
    """succeeded or failed."""
    cost_usd: Decimal
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_s: float | None
    error_code: str | None


_TODAY = "(now() AT TIME ZONE 'UTC')::date"
_SPENT = f"CASE day WHEN {_TODAY} THEN {{column}} ELSE 0 END"
_USED = f"reserved_usd + {_SPENT.format(column='spent_usd + overrun_usd')}"

_RESERVE = f"""
    WITH paid AS (
        UPDATE key_ledgers SET reserved_usd = reserved_usd + %(worst)s, day = {_TODAY},
            spent_usd = {_SPENT.format(column="spent_usd")},
            overrun_usd = {_SPENT.format(column="overrun_usd")}
        WHERE key_id = %(key_id)s AND (limit_usd IS NULL OR {_USED} + %(worst)s <= limit_usd)
        RETURNING 1
    )
    INSERT INTO single_calls (id, key_id, model, worst_case_usd)
    SELECT %(id)s, %(key_id)s, %(model)s, %(worst)s FROM paid
""".encode()

# Of calls that were reserved, their worst case is freed and counts as spent at most; of those that
# were not, since their key has no limit, the cost counts as spent.
_MOVE = f"""
    UPDATE key_ledgers k SET reserved_usd = reserved_usd - sums.freed, day = {_TODAY},
        spent_usd = {_SPENT.format(column="spent_usd")} + sums.spent,
        overrun_usd = {_SPENT.format(column="overrun_usd")} + sums.overrun
    FROM (SELECT key_id, sum(freed) AS freed, sum(spent) AS spent, sum(overrun) AS overrun
          FROM ended GROUP BY key_id ORDER BY key_id) AS sums
    WHERE k.key_id = sums.key_id
"""
_COLUMNS = columns.listed(columns.names(SettledCall))
_SETTLE = f"""
    WITH wanted AS (SELECT * FROM {columns.recordset(SettledCall)}),
    settled AS (
        UPDATE single_calls c SET settled_at = clock_timestamp(), status = w.status,
            cost_usd = w.cost_usd, prompt_tokens = w.prompt_tokens,
            completion_tokens = w.completion_tokens, latency_s = w.latency_s,
            error_code = w.error_code
        FROM wanted w WHERE c.id = w.id AND c.settled_at IS NULL
        RETURNING c.key_id, c.worst_case_usd AS freed,
            least(c.cost_usd, c.worst_case_usd) AS spent,
            greatest(c.cost_usd - c.worst_case_usd, 0) AS overrun
    ), added AS (
        INSERT INTO single_calls ({_COLUMNS}, settled_at)
        SELECT {_COLUMNS}, clock_timestamp() FROM wanted w
        WHERE NOT EXISTS (SELECT FROM single_calls c WHERE c.id = w.id)
        ON CONFLICT DO NOTHING
        RETURNING key_id, 0::numeric AS freed, cost_usd AS spent, 0::numeric AS overrun
    ), ended AS (SELECT * FROM settled UNION ALL SELECT * FROM added)
    {_MOVE}
""".encode()
_WRITE_OFF = f"""
    WITH ended AS (
        UPDATE single_calls SET settled_at = clock_timestamp(), status = 'lost',
            cost_usd = worst_case_usd, error_code = 'lost'
        WHERE settled_at IS NULL
          AND created_at < clock_timestamp() - make_interval(secs => %s)
        RETURNING key_id, worst_case_usd AS freed, worst_case_usd AS spent, 0::numeric AS overrun
    ) {_MOVE}
""".encode()


async def reserve(
    conn: AsyncConnection, call_id: UUID, key_id: UUID, model: str, worst_case_usd: Decimal
) -> bool:
    """Set the worst case of a call aside; False where its key may not spend that much today.

    Send the call after the commit.
    """
    values = {"id": call_id, "key_id": key_id, "model": model, "worst": worst_case_usd}
    return bool((await conn.execute(_RESERVE, values)).rowcount)


async def settle(conn: AsyncConnection, calls: Sequence[SettledCall]) -> None:
    """Record calls that ended, and what they cost; the same call may come again."""
    await conn.execute(_SETTLE, {"rows": json_rows(calls)})


async def write_off(conn: AsyncConnection, older_than_s: float) -> None:
    """Count calls that a dead gateway left as spent at their worst case.

    Args:
        conn: A transaction.
        older_than_s: Age at which no call can be in flight any more, in seconds.
    """
    await conn.execute(_WRITE_OFF, [older_than_s])
