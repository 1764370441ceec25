"""Saves what endpoints were found to do, for all processes that call them."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor

from routoo.domain.behaviour import EndpointBehaviour
from routoo.domain.endpoint import LimitField
from routoo.store.database import libpq_url
from routoo.store.encoding import json_rows

_CONNECT_TIMEOUT_S = 2

_SELECT = b"""
SELECT endpoint, limit_field, extra_prompt_tokens, extra_completion_tokens FROM endpoint_behaviour
"""


_SAVE = b"""
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


async def save(conn: AsyncConnection, found: Mapping[str, EndpointBehaviour]) -> None:
    """Record what was found, by the endpoints' keys; what was found before it stays.

    Args:
        conn: A transaction.
        found: Each already merged with what its finder knew.
    """
    await conn.execute(
        _SAVE,
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


async def ask(conn: AsyncConnection) -> AsyncCursor:
    """Read all that was found; `read` takes it from the cursor, in a pipeline later on."""
    return await conn.execute(_SELECT)


async def read(cursor: AsyncCursor) -> dict[str, EndpointBehaviour]:
    """Return what was found, by the endpoints' keys, from the cursor of `ask`."""
    return _of_rows(await cursor.fetchall())


def _of_rows(rows: Sequence[tuple[Any, ...]]) -> dict[str, EndpointBehaviour]:
    return {
        endpoint: EndpointBehaviour(LimitField(field) if field else None, prompt, completion)
        for endpoint, field, prompt, completion in rows
    }


async def load(conn: AsyncConnection) -> dict[str, EndpointBehaviour]:
    """Return what was found, by the endpoints' keys: few endpoints are here at all."""
    return await read(await ask(conn))


def load_if_reachable(url: str) -> dict[str, EndpointBehaviour]:
    """Return the same for a command that needs no database: nothing where none is there."""
    try:
        with psycopg.connect(libpq_url(url), connect_timeout=_CONNECT_TIMEOUT_S) as conn:
            return _of_rows(conn.execute(_SELECT).fetchall())
    except psycopg.Error:
        return {}
