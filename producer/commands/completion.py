"""Completes names of batches in a shell: quickly, and silently where that can't be done."""

import contextlib

_PATIENCE_S = 1.0
_MOST = 30


def complete_batches(incomplete: str) -> list[str]:
    """Return names and ids of the newest batches that begin with what was typed.

    Starts no server; returns nothing where the database is away or slow.
    """
    found: list[str] = []
    # A shell that waits for words has no use for any error.
    with contextlib.suppress(Exception):
        import asyncio

        found = asyncio.run(_names(incomplete))
    return found


async def _names(incomplete: str) -> list[str]:
    import asyncio

    import psycopg

    from routoo.embedded.stack import database_url
    from routoo.settings import load_settings
    from routoo.store import batches
    from routoo.store.database import libpq_url

    url = libpq_url(database_url(load_settings()))
    async with asyncio.timeout(_PATIENCE_S):
        async with await psycopg.AsyncConnection.connect(url) as conn:
            return await batches.names_like(conn, incomplete, _MOST)
