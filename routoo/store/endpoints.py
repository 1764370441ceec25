"""Keeps what is known of endpoints: their accounts, and what calls showed of them.

All processes share both through the database. One round of reports about accounts is one short
transaction: the accounts' rows are locked in one order, answered and written back. Only one that
gives a process more slots is flushed, so that a crash of the server forgets none; what else it
loses is the count of its last half second.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import psycopg
import structlog
from psycopg import AsyncConnection, AsyncCursor

from routoo.domain.absence import Absence, AbsenceReason
from routoo.domain.behaviour import EndpointBehaviour
from routoo.domain.endpoint import LimitField
from routoo.domain.pool import CandidateModel, Pool
from routoo.limits.account import WINDOW_S, Account, SlotLease
from routoo.limits.breaker import Breaker
from routoo.limits.records import EndpointReport, Grant
from routoo.limits.sliding_window import SlidingWindow
from routoo.store import columns
from routoo.store.database import Database, libpq_url
from routoo.store.encoding import json_rows

_log = structlog.get_logger(__name__)


_WRITE_BACK = b"""
    UPDATE endpoints SET account = row.account
    FROM json_to_recordset(%s::json) AS row(endpoint text, account jsonb)
    WHERE endpoints.endpoint = row.endpoint
"""
_CONNECT_TIMEOUT_S = 2

_SELECT_BEHAVIOUR = b"""
SELECT endpoint, limit_field, extra_prompt_tokens, extra_completion_tokens FROM endpoint_behaviour
"""


_SAVE_BEHAVIOUR = b"""
    INSERT INTO endpoint_behaviour AS known
        (endpoint, limit_field, extra_prompt_tokens, extra_completion_tokens)
    SELECT * FROM json_to_recordset(%s::json) AS row(endpoint text, limit_field text,
        extra_prompt_tokens int, extra_completion_tokens int)
    ORDER BY endpoint
    ON CONFLICT (endpoint) DO UPDATE SET
        limit_field = CASE WHEN 'none' IN (known.limit_field, excluded.limit_field) THEN 'none'
            ELSE coalesce(excluded.limit_field, known.limit_field) END,
        extra_prompt_tokens = greatest(known.extra_prompt_tokens, excluded.extra_prompt_tokens),
        extra_completion_tokens =
            greatest(known.extra_completion_tokens, excluded.extra_completion_tokens),
        changed_at = now()
"""


class DatabaseLimits:
    """Implements `routoo.ports.SharedLimits`.

    Args:
        db: The database that all processes of the deployment share.
        span_s: Length of the window that the rates hold in, in seconds; the same in all of them.
    """

    def __init__(self, db: Database, *, span_s: float = WINDOW_S) -> None:
        self._db, self._span_s = db, span_s

    async def exchange(self, reports: Sequence[EndpointReport]) -> list[Grant]:
        """Take reports in, and say for each what its process may do next.

        Raises:
            StoreError: The database can't be reached or refused.
        """
        async with self._db.transaction() as conn:
            await conn.execute("SET LOCAL synchronous_commit = off")
            names = sorted({report.endpoint for report in reports})
            accounts, clock = await self._lock(conn, names)
            if len(accounts) < len(names):
                await self._open(conn, [name for name in names if name not in accounts])
                accounts, clock = await self._lock(conn, names)
            held = [accounts[one.endpoint].slots_of(one.owner) for one in reports]
            grants = [accounts[report.endpoint].answer(report, *clock) for report in reports]
            if any(grant.slots > slots for grant, slots in zip(grants, held, strict=True)):
                await conn.execute("SET LOCAL synchronous_commit = on")
            await self._write_back(conn, accounts)
        return grants

    @staticmethod
    async def _write_back(conn: AsyncConnection, accounts: Mapping[str, Account]) -> None:
        rows = (
            {"endpoint": name, "account": account_to_json(account)}
            for name, account in accounts.items()
        )
        await conn.execute(_WRITE_BACK, [json_rows(rows)])

    async def _lock(
        self, conn: AsyncConnection, names: Sequence[str]
    ) -> tuple[dict[str, Account], tuple[float, float]]:
        """Lock accounts; return them, what time it is, and since when the server has been up."""
        cursor = await conn.execute(
            "SELECT endpoint, account::text FROM endpoints WHERE endpoint = ANY(%s)"
            " ORDER BY endpoint FOR NO KEY UPDATE",
            [names],
        )
        accounts = {
            endpoint: _read(endpoint, account, self._span_s) async for endpoint, account in cursor
        }
        # Read after the locks are had: the accounts' clock must not run behind who came before.
        cursor = await conn.execute(
            "SELECT extract(epoch FROM clock_timestamp())::float8,"
            " extract(epoch FROM pg_postmaster_start_time())::float8"
        )
        row = await cursor.fetchone()
        return accounts, (row[0], row[1]) if row else (0.0, 0.0)

    async def _open(self, conn: AsyncConnection, names: Sequence[str]) -> None:
        fresh = account_to_json(Account(self._span_s))
        await conn.execute(
            """
            INSERT INTO endpoints (endpoint, account)
            SELECT * FROM json_to_recordset(%s::json) AS row(endpoint text, account jsonb)
            ON CONFLICT DO NOTHING
            """,
            [json_rows({"endpoint": name, "account": fresh} for name in names)],
        )


_PROBE_DUE_S = 60.0
"""A breaker that was due for a probe so long ago counts as closed: someone has to try."""


async def absence(conn: AsyncConnection, model: CandidateModel) -> Absence | None:
    """Return why all of a model's endpoints take no calls for now; None where one works."""
    keys = list(model.endpoint_keys)
    cursor = await conn.execute(
        "SELECT account::text, extract(epoch FROM clock_timestamp())::float8 FROM endpoints"
        " WHERE endpoint = ANY(%s)",
        [keys],
    )
    found = [
        _absence(account_of_json(orjson.loads(account), WINDOW_S), now_s)
        async for account, now_s in cursor
    ]
    known = [one for one in found if one is not None]
    if len(known) < len(keys):
        return None
    return min(known, key=lambda one: float("inf") if one.rest_s is None else one.rest_s)


def _read(endpoint: str, account: str, span_s: float) -> Account:
    """Return a stored account, or a new one: what can't be read must not stop all endpoints."""
    try:
        return account_of_json(orjson.loads(account), span_s)
    except (KeyError, TypeError, ValueError) as error:
        _log.warning("endpoint.account_unreadable", endpoint=endpoint, reason=str(error))
        return Account(span_s)


def _absence(account: Account, now_s: float) -> Absence | None:
    breaker = account.breaker
    if account.held_since_s:
        return Absence(
            AbsenceReason.UNAVAILABLE, account.held_s(now_s), message="a person paused it"
        )
    if breaker.is_open and now_s < breaker.open_until_s + _PROBE_DUE_S:
        reason = AbsenceReason.DENIED if account.denied else AbsenceReason.UNAVAILABLE
        return Absence(reason, breaker.outage_s(now_s), message=account.denied)
    rest_s = account.asked_until_s - now_s
    if rest_s < 1 or now_s >= account.paused_until_s + _PROBE_DUE_S:
        return None
    return Absence(AbsenceReason.RATE_LIMITED, 0.0, rest_s, f"it asked to wait {rest_s:.0f} s")


async def open_denied(conn: AsyncConnection, pool: Pool) -> None:
    """Let the endpoints of a pool that denied every request be called again at once."""
    keys = [key for model in pool.models for key in model.endpoint_keys]
    await conn.execute(
        """
        UPDATE endpoints SET account = jsonb_set(
            jsonb_set(account, '{denied}', '""'), '{breaker,pause_s}', '0')
        WHERE endpoint = ANY(%s) AND coalesce(account ->> 'denied', '') <> ''
        """,
        [keys],
    )


async def load_accounts(conn: AsyncConnection) -> tuple[dict[str, Account], float]:
    """Return the accounts of all endpoints by their keys, and the time by their clock."""
    cursor = await conn.execute(
        "SELECT endpoint, account::text, extract(epoch FROM clock_timestamp())::float8"
        " FROM endpoints ORDER BY endpoint"
    )
    rows = await cursor.fetchall()
    accounts = {key: account_of_json(orjson.loads(text), WINDOW_S) for key, text, _ in rows}
    return accounts, rows[0][2] if rows else 0.0


_HOLD = b"""
    UPDATE endpoints SET account = jsonb_set(account, '{held_since_s}', to_jsonb(CASE
        WHEN NOT %(held)s THEN 0::float8
        WHEN coalesce((account ->> 'held_since_s')::float8, 0) > 0
            THEN (account ->> 'held_since_s')::float8
        ELSE extract(epoch FROM clock_timestamp())::float8 END))
    WHERE endpoint = %(endpoint)s
"""


async def hold(conn: AsyncConnection, endpoint: str, *, held: bool) -> None:
    """Let no call to an endpoint start from now on, or let them start again.

    Calls in flight end. Jobs wait for it as for an endpoint that is away: as long as their patience
    and their deadline allow. Repeating it does nothing.

    Args:
        conn: A transaction.
        endpoint: Its key.
        held: Whether calls are held back.
    """
    await conn.execute(
        "INSERT INTO endpoints (endpoint, account) VALUES (%s, %s::jsonb) ON CONFLICT DO NOTHING",
        [endpoint, orjson.dumps(account_to_json(Account(WINDOW_S))).decode()],
    )
    await conn.execute(_HOLD, {"endpoint": endpoint, "held": held})


# The JSON's keys are older than the fields' names. They stay, so that processes of two versions can
# share an account while one replaces the other.
_JSON_KEYS = {
    "aimd_limit": "bearable",
    "decreased_at_s": "backed_off_at_s",
    "header_requests_per_minute": "learnt_requests_per_minute",
    "header_tokens_per_minute": "learnt_tokens_per_minute",
}
_PLAIN_FIELDS = ("refused", "paused_until_s")
_NEWER_FIELDS = (
    *(
        "asked_until_s",
        "denied",
        "reported_at_s",
        "held_since_s",
    ),
    *("header_requests_period_s", "header_tokens_period_s", "rate_per_s", "slot_s"),
)
"""Fields that processes of an older version neither read nor keep."""


_BREAKER, _WINDOW = columns.names(Breaker), columns.names(SlidingWindow)


def account_to_json(account: Account) -> dict[str, Any]:
    """Return an account as the JSON object that the column `endpoints.account` holds."""
    return {
        "span_s": account.span_s,
        "seats": {
            owner: {
                "places": lease.slots,
                "wanted": lease.wanted,
                "expires_at_s": lease.expires_at_s,
            }
            for owner, lease in account.leases.items()
        },
        **{key: getattr(account, name) for name, key in _JSON_KEYS.items()},
        **{name: getattr(account, name) for name in (*_PLAIN_FIELDS, *_NEWER_FIELDS)},
        "breaker": _by_name(account.breaker, _BREAKER),
        "requests": _by_name(account.requests, _WINDOW),
        "tokens": _by_name(account.tokens, _WINDOW),
    }


def _by_name(record: object, names: Iterable[str]) -> dict[str, Any]:
    """Return fields by name; `asdict` would copy each number of a window by itself."""
    return {name: getattr(record, name) for name in names}


def account_of_json(stored: Mapping[str, Any], span_s: float) -> Account:
    """Return the account that `account_to_json` gave.

    Args:
        stored: The JSON object.
        span_s: Length of the window in seconds; windows stored with another one start empty.
    """
    account = Account(
        span_s,
        leases={
            owner: SlotLease(lease["places"], lease["wanted"], lease["expires_at_s"])
            for owner, lease in stored["seats"].items()
        },
        breaker=Breaker(**stored["breaker"]),
        **{name: stored[key] for name, key in _JSON_KEYS.items()},
        **{name: stored[name] for name in _PLAIN_FIELDS},
        **{name: stored[name] for name in _NEWER_FIELDS if name in stored},
    )
    requests, tokens = SlidingWindow(**stored["requests"]), SlidingWindow(**stored["tokens"])
    if requests.span_s == span_s:
        account.requests, account.tokens = requests, tokens
    return account


async def save_behaviour(conn: AsyncConnection, found: Mapping[str, EndpointBehaviour]) -> None:
    """Record what was found, by the endpoints' keys; what was found before it stays.

    Args:
        conn: A transaction.
        found: Each already merged with what its finder knew.
    """
    await conn.execute(
        _SAVE_BEHAVIOUR,
        [
            json_rows(
                {
                    "endpoint": endpoint,
                    "limit_field": one.limit_field,
                    "extra_prompt_tokens": one.extra_prompt_tokens,
                    "extra_completion_tokens": one.extra_completion_tokens,
                }
                for endpoint, one in found.items()
            )
        ],
    )


async def ask_behaviour(conn: AsyncConnection) -> AsyncCursor:
    """Ask for all that was found; `read_behaviour` reads the answer, in a pipeline later on."""
    return await conn.execute(_SELECT_BEHAVIOUR)


async def read_behaviour(cursor: AsyncCursor) -> dict[str, EndpointBehaviour]:
    """Return what was found, by the endpoints' keys, from the cursor of `ask_behaviour`."""
    return _behaviour_of_rows(await cursor.fetchall())


def _behaviour_of_rows(rows: Sequence[tuple[Any, ...]]) -> dict[str, EndpointBehaviour]:
    return {
        endpoint: EndpointBehaviour(LimitField(field) if field else None, prompt, completion)
        for endpoint, field, prompt, completion in rows
    }


async def load_behaviour(conn: AsyncConnection) -> dict[str, EndpointBehaviour]:
    """Return what was found, by the endpoints' keys: few endpoints are here at all."""
    return await read_behaviour(await ask_behaviour(conn))


def load_behaviour_if_reachable(url: str) -> dict[str, EndpointBehaviour]:
    """Return the same for a command that needs no database: nothing where none is there."""
    try:
        with psycopg.connect(libpq_url(url), connect_timeout=_CONNECT_TIMEOUT_S) as conn:
            return _behaviour_of_rows(conn.execute(_SELECT_BEHAVIOUR).fetchall())
    except psycopg.Error:
        return {}
