"""Keeps the accounts of endpoints, which all processes share through the database.

One round of reports is one short transaction: the accounts' rows are locked in one order, answered
and written back. Nothing is flushed for it: what a crash of the server loses is the count of its
last half second, and it takes longer than that to come back.
"""

from collections.abc import Sequence

import orjson
from psycopg import AsyncConnection

from routoo.limits.account import WINDOW_S, Account, account_of_json, account_to_json
from routoo.limits.records import Grant, Report
from routoo.store.database import Database
from routoo.store.encoding import json_rows


class DatabaseLimits:
    """Implements `routoo.ports.SharedLimits`.

    Args:
        db: The database that all processes of the deployment share.
        span_s: Length of the window that the rates hold in, in seconds; the same in all of them.
    """

    def __init__(self, db: Database, *, span_s: float = WINDOW_S) -> None:
        self._db, self._span_s = db, span_s

    async def exchange(self, reports: Sequence[Report]) -> list[Grant]:
        """Take reports in, and say for each what its process may do next.

        Raises:
            StoreError: The database can't be reached or refused.
        """
        async with self._db.transaction() as conn:
            await conn.execute("SET LOCAL synchronous_commit = off")
            names = sorted({report.endpoint for report in reports})
            accounts, now_s = await self._lock(conn, names)
            if len(accounts) < len(names):
                await self._open(conn, [name for name in names if name not in accounts])
                accounts, now_s = await self._lock(conn, names)
            grants = [accounts[report.endpoint].answer(report, now_s) for report in reports]
            await conn.execute(
                """
                UPDATE endpoints SET account = row.account
                FROM json_to_recordset(%s::json) AS row(endpoint text, account jsonb)
                WHERE endpoints.endpoint = row.endpoint
                """,
                [
                    json_rows(
                        {"endpoint": name, "account": account_to_json(account)}
                        for name, account in accounts.items()
                    )
                ],
            )
        return grants

    async def _lock(
        self, conn: AsyncConnection, names: Sequence[str]
    ) -> tuple[dict[str, Account], float]:
        cursor = await conn.execute(
            "SELECT endpoint, account::text FROM endpoints WHERE endpoint = ANY(%s)"
            " ORDER BY endpoint FOR NO KEY UPDATE",
            [names],
        )
        accounts = {
            endpoint: account_of_json(orjson.loads(account), self._span_s)
            async for endpoint, account in cursor
        }
        # Read after the locks are had: the accounts' clock must not run behind who came before.
        cursor = await conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        row = await cursor.fetchone()
        return accounts, row[0] if row else 0.0

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
