"""Whether a model can be asked: by its endpoints' breakers, and by how its last calls went."""

from dataclasses import dataclass

from psycopg import AsyncConnection

from routoo.domain.pool import CandidateModel

_LAST_CALLS = 20
_WINDOW = "1 minute"
_FEWEST = 5
"""Calls that tell something together."""
_DOWN_SHARE = 0.9
_ENDPOINTS_FAULT = ["endpoint_unavailable", "endpoint_timeout", "invalid_response"]


@dataclass(frozen=True, slots=True)
class Health:
    """The last calls to a model, of any batch."""

    calls: int
    failures: int
    """Of these, the ones that its endpoint is to blame for."""

    @property
    def down(self) -> bool:
        """Whether the endpoint doesn't answer; one that nobody called for a minute counts as up."""
        return self.calls >= _FEWEST and self.failures >= _DOWN_SHARE * self.calls


async def is_down(conn: AsyncConnection, model: CandidateModel) -> bool:
    """Return whether a model can't be asked: its breakers are open, or its last calls failed.

    A breaker that nobody has probed for a minute counts as closed: someone has to try.
    """
    keys = list(model.endpoint_keys)
    cursor = await conn.execute(
        """
        SELECT count(*) FROM endpoints
        WHERE endpoint = ANY(%s) AND (account #>> '{breaker,pause_s}')::float > 0
          AND extract(epoch FROM clock_timestamp() - %s::interval)
              < (account #>> '{breaker,open_until_s}')::float
        """,
        [keys, _WINDOW],
    )
    row = await cursor.fetchone()
    return (row is not None and row[0] == len(keys)) or (await health(conn, model.name)).down


async def health(conn: AsyncConnection, model: str) -> Health:
    """Return how the last calls to a model went."""
    cursor = await conn.execute(
        """
        SELECT count(*), count(*) FILTER (WHERE status = 'failed' AND error_code = ANY(%s))
        FROM (
            SELECT status, error_code FROM attempts
            WHERE model = %s AND created_at > clock_timestamp() - %s::interval
            ORDER BY created_at DESC LIMIT %s
        ) AS last
        """,
        [_ENDPOINTS_FAULT, model, _WINDOW, _LAST_CALLS],
    )
    row = await cursor.fetchone()
    return Health(*row) if row else Health(0, 0)
