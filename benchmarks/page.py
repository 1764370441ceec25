"""Measures how long the server takes to render the pages of a batch of a million jobs.

The batch is written with SQL: every job scored, assigned, called and answered or failed, so that
all tables and the sums that triggers keep are as a real batch leaves them. A page is asked for
through the application itself, without a network; the time is from the request to the whole page,
the database's share included; `processor` is what of it this process computed, which other load on
the machine doesn't lengthen. `status` is beside it: the query that reads the same figures.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import httpx2
import psycopg
from figures import Figure, show
from servers import migrated_database

from producer.gateway.app import create_app
from producer.gateway.options import GatewayOptions
from producer.progress import take_snapshot
from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.settings import Settings
from routoo.store import batches
from routoo.store.batches.progress import merge_counts
from routoo.store.database import Database, libpq_url

MODELS = ("small", "medium", "large")
_TIMES = 15


def main() -> None:
    """Measure and print."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="routoo-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with migrated_database(options.database_url, folder) as url:
            batch_id = _write_batch(url, options.jobs)
            show(asyncio.run(_measure(url, folder, batch_id, options.jobs)), as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--database-url", help="an empty database; it is filled")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _pool() -> Pool:
    return Pool(
        models=tuple(
            CandidateModel(
                name=name,
                endpoint=Endpoint(base_url="http://127.0.0.1:1/v1"),
                price_usd_per_mtok=Tariff(prompt=Decimal(price), completion=Decimal(price)),
                context_window_tokens=8192,
            )
            for price, name in enumerate(MODELS, 1)
        )
    )


_FACTS = (
    """
    INSERT INTO jobs (batch_id, job_no, custom_id, body)
    SELECT %(id)s, n, 'row-' || n,
           '{"messages": [{"role": "user", "content": "Why is that so, and since when?"}]}'::json
    FROM generate_series(0, %(jobs)s::int - 1) AS n
    """,
    """
    INSERT INTO predictions (batch_id, job_no, quality, quality_std, completion_tokens, novelty,
                             truncated)
    SELECT %(id)s, n, ARRAY[0.5, 0.7, 0.9]::real[], ARRAY[0.1, 0.1, 0.1]::real[],
           ARRAY[100, 100, 100]::real[], 0, false FROM generate_series(0, %(jobs)s::int - 1) AS n
    """,
    """
    INSERT INTO assignments (batch_id, job_no, revision, model, expected_quality,
                             expected_cost_usd)
    SELECT %(id)s, n, 1, (%(models)s::text[])[1 + n %% 3], 0.7, 0.001
    FROM generate_series(0, %(jobs)s::int - 1) AS n
    """,
    """
    INSERT INTO attempts (batch_id, job_no, attempt_no, model, status, cost_usd, latency_s)
    SELECT %(id)s, n, 1, (%(models)s::text[])[1 + n %% 3], 'succeeded', 0.001, 1
    FROM generate_series(%(first)s::int, %(last)s::int) AS n
    """,
    """
    INSERT INTO results (batch_id, job_no, status, model, answer, cost_usd, attempts, error_code,
                         error_message, reason, quality_change)
    SELECT %(id)s, n, CASE WHEN n %% 20 = 0 THEN 'failed' ELSE 'succeeded' END,
           (%(models)s::text[])[1 + n %% 3], 'Since then.', 0.001, 1,
           CASE WHEN n %% 20 = 0 THEN 'timeout' || n %% 100 END,
           CASE WHEN n %% 20 = 0 THEN 'it took too long' END,
           CASE WHEN n %% 10 = 1 THEN 'unavailable' END, CASE WHEN n %% 10 = 1 THEN -0.1 END
    FROM generate_series(%(first)s::int, %(last)s::int) AS n
    """,
)
_ENTRY_JOBS = 200
"""Jobs that a dispatcher writes in one statement, about."""


def _write_batch(url: str, jobs: int) -> UUID:
    """Write a batch that runs, nine tenths of it done, and return its id."""
    batch_id, pool = uuid4(), _pool()
    new = batches.NewBatch("a million jobs", pool, budget_usd=Decimal(2 * jobs) / 1000)

    async def create() -> UUID:
        async with Database(url) as database, database.transaction() as conn:
            made, _ = await batches.create(conn, new)
            await batches.seal(conn, made, jobs, 1000)
            await batches.save_plan(conn, made, _plan(pool, jobs))
            return made

    batch_id = asyncio.run(create())
    ended = jobs * 9 // 10
    values = {"id": batch_id, "jobs": jobs, "models": list(MODELS)}
    with psycopg.connect(libpq_url(url), autocommit=True) as conn:
        for statement in _FACTS[:3]:
            conn.execute(statement.encode(), values)
        for first in range(0, ended, _ENTRY_JOBS):
            part = values | {"first": first, "last": min(first + _ENTRY_JOBS, ended) - 1}
            with conn.transaction():
                for statement in _FACTS[3:]:
                    conn.execute(statement.encode(), part)
        conn.execute(
            "UPDATE shards SET state = CASE WHEN stage = 'dispatch' AND first_job >= %s"
            " THEN 'ready' ELSE 'done' END WHERE batch_id = %s",
            [ended, batch_id],
        )
        # The beat merges what is older than a minute; the last minute's entries stay as they are.
        conn.execute(
            "UPDATE batch_counts SET created_at = now() - interval '2 minutes'"
            " WHERE entry_no % 20 <> 0"
        )
        conn.execute("VACUUM ANALYZE")
    asyncio.run(_merge(url))
    return batch_id


async def _merge(url: str) -> None:
    async with Database(url) as database, database.transaction() as conn:
        await merge_counts(conn)


def _plan(pool: Pool, jobs: int) -> dict[str, object]:
    models = [
        {
            "model": model.name,
            "jobs": jobs // 3,
            "share": 1 / 3,
            "alone_quality": 0.5 + place / 5,
            "alone_cost_usd": jobs * 0.0005 * (place + 1),
        }
        for place, model in enumerate(pool.models)
    ]
    points = [
        {
            "cost_usd": jobs * (0.0005 + 0.00005 * step),
            "mean_quality": 0.5 + 0.02 * step,
            "shadow_price_per_usd": 1.0,
            "random_mix_quality": 0.5 + 0.019 * step,
        }
        for step in range(20)
    ]
    return {
        "status": "optimal",
        "advice": "",
        "jobs": jobs,
        "served": jobs,
        "no_eligible_model": 0,
        "unaffordable": 0,
        "expected_quality": 0.7,
        "expected_cost_usd": jobs * 0.001,
        "gap": 0.0,
        "shadow_price_per_usd": 1.0,
        "shadow_prices": {},
        "models": models,
        "forecast": {"frontier": points},
    }


async def _measure(url: str, home: Path, batch_id: UUID, jobs: int) -> list[Figure]:
    settings = Settings(home=home, database_url=url, broker_url="redis://127.0.0.1:1/0")
    options = GatewayOptions(pools={"default": _pool()})
    app = create_app(settings, url, options)
    figures = []
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://page.test"
        ) as client,
    ):
        await client.get(f"/login?token={options.sessions.one_time_token}")
        for name, path in (
            ("list of batches", "/batches"),
            (f"batch of {jobs:,} jobs", f"/batches/{batch_id}"),
            ("its jobs", f"/batches/{batch_id}/jobs"),
            ("its last jobs", f"/batches/{batch_id}/jobs?from={jobs - 40}"),
            ("jobs of one cause", f"/batches/{batch_id}/jobs?show=unanswered&cause=timeout20"),
            ("jobs not as planned", f"/batches/{batch_id}/jobs?show=deviated"),
            ("one job", f"/batches/{batch_id}/jobs/{jobs // 2}"),
        ):

            async def ask(path: str = path) -> None:
                answer = await client.get(path)
                assert answer.status_code == 200, answer.text

            figures += await _times(name, ask)
    async with Database(url) as database:

        async def snapshot() -> None:
            async with database.transaction() as conn:
                await take_snapshot(conn, await batches.get(conn, batch_id))

        figures += await _times("status", snapshot)
    return figures


async def _times(name: str, ask: Callable[[], Awaitable[None]]) -> list[Figure]:
    """Return the times that something takes once warmed up, and this process's share of them."""
    await ask()
    times_s, begun_cpu_s = [], time.process_time()
    for _ in range(_TIMES):
        begun_s = time.perf_counter()
        await ask()
        times_s.append(time.perf_counter() - begun_s)
    cpu_s = (time.process_time() - begun_cpu_s) / _TIMES
    return [
        Figure(f"{name}, median", statistics.median(times_s) * 1000, "ms"),
        Figure(f"{name}, fastest", min(times_s) * 1000, "ms"),
        Figure(f"{name}, processor", cpu_s * 1000, "ms"),
    ]


if __name__ == "__main__":
    main()
