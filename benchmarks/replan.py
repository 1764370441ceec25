"""Measures a selection and a re-plan of one large batch by themselves: seconds, CPU, memory.

The batch has three models of different prices and a budget that pays for neither the cheapest nor
the dearest alone. Its predictor is that of `pipeline_scorer.py`. A share of its jobs then ends at
half of what was expected of them, by SQL: so the money that is left moves jobs. Selection and
re-plan are made by the stage itself, each in a process of its own whose peak memory is read.

    python benchmarks/replan.py --jobs 1000000 --json
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import orjson
import psycopg
from figures import Figure, show
from pipeline import request_text
from pipeline_scorer import HashedWords
from servers import cpu_s, database_pids, memory_mb, migrated_database

from routoo.domain.endpoint import Endpoint
from routoo.domain.job import SLA, Lease, ShardKey, Stage
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.pipeline.score import score_shard
from routoo.pipeline.select.shard import select_shard
from routoo.store import batches, jobs, leases, shards
from routoo.store.batches import replans
from routoo.store.database import Database
from worker.runtime import tune_garbage_collector

_PRICES_USD = {"small": "0.1", "middle": "0.3", "large": "1"}
"""Of a million completion tokens; prompts cost a quarter."""
_JOB_USD = Decimal("0.000009")
"""Budget a job: about what the middle model costs."""
_SHARD_SIZE = 1000
_LEASE_S = 3600.0
_END = """
    WITH ended AS (
        SELECT a.job_no, a.model, a.expected_cost_usd / 2 AS usd
        FROM assignments a WHERE a.batch_id = %(id)s AND a.job_no < %(jobs)s
    ), reserved AS (
        INSERT INTO reservations (batch_id, job_no, attempt_no, shard_no, model, worst_case_usd)
        SELECT %(id)s, job_no, 1, job_no / %(shard)s, model, usd * 4 FROM ended
    ), called AS (
        INSERT INTO attempts (batch_id, job_no, attempt_no, model, status, cost_usd, latency_s,
                              prompt_tokens, completion_tokens)
        SELECT %(id)s, job_no, 1, model, 'succeeded', usd, 0.5, 60, 6 FROM ended
    ), answered AS (
        INSERT INTO results (batch_id, job_no, status, model, answer, cost_usd, attempts)
        SELECT %(id)s, job_no, 'succeeded', model, 'yes', usd, 1 FROM ended
    )
    UPDATE ledgers SET spent_usd = (SELECT sum(usd) FROM ended) WHERE batch_id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one selection took."""

    wall_s: float
    cpu_s: float
    """Of its process."""
    database_cpu_s: float
    start_mb: float
    """Peak memory before it."""
    peak_mb: float


def main() -> None:
    """Measure and print; with `--select`, select for one prepared batch."""
    options = _options()
    if options.select:
        print(json.dumps(asdict(asyncio.run(_select(options.database_url, UUID(options.select))))))
        return
    with (
        tempfile.TemporaryDirectory(prefix="routoo-") as name,
        migrated_database(options.database_url, Path(name)) as url,
    ):
        Path(name).chmod(0o755)
        show(_figures(url, options), as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--ended", type=float, default=0.3, help="share of the jobs at the re-plan")
    parser.add_argument("--min-quality", type=float, help="of each job; default: none")
    parser.add_argument("--turns", type=int, default=1, help="re-plans, one after the other")
    parser.add_argument("--database-url", help="empty database; default: an embedded server")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--select", help=argparse.SUPPRESS)
    return parser.parse_args()


def _figures(url: str, options: argparse.Namespace) -> Iterator[Figure]:
    batch_id = asyncio.run(_submit(url, options))
    before = _size_bytes(url)
    began_s = time.perf_counter()
    asyncio.run(_score(url, batch_id, options.jobs))
    yield Figure("score", options.jobs / (time.perf_counter() - began_s), "jobs/s")
    yield Figure("scored_database", (_size_bytes(url) - before) / options.jobs, "bytes/job")
    yield from _stage("selection", url, batch_id)
    with psycopg.connect(url, autocommit=True) as conn:
        ended = {"id": batch_id, "jobs": int(options.ended * options.jobs), "shard": _SHARD_SIZE}
        conn.execute(_END, ended)
        conn.execute("VACUUM ANALYZE")
    for _ in range(options.turns):
        asyncio.run(_request(url, batch_id))
        yield from _stage("replan", url, batch_id)
        with psycopg.connect(url) as conn:
            moved = conn.execute("SELECT moved FROM replans ORDER BY revision DESC LIMIT 1")
            yield Figure("replan_moved", (moved.fetchone() or (0,))[0], "jobs")


def _stage(name: str, url: str, batch_id: UUID) -> Iterator[Figure]:
    done = subprocess.run(
        [sys.executable, __file__, "--database-url", url, "--select", str(batch_id)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    taken = Taken(**json.loads(done.stdout))
    yield Figure(name, taken.wall_s, "s")
    yield Figure(f"{name}_cpu", taken.cpu_s, "s")
    yield Figure(f"{name}_database_cpu", taken.database_cpu_s, "s")
    ratio = taken.peak_mb / taken.start_mb
    yield Figure(f"{name}_memory", taken.peak_mb, "MB", taken.start_mb, ratio)


async def _select(url: str, batch_id: UUID) -> Taken:
    tune_garbage_collector()
    async with Database(url) as db:
        async with db.transaction() as conn:
            batch = await batches.get(conn, batch_id)
        lease = await _claim(db, ShardKey(batch_id, Stage.SELECT, 0))
        start_mb, database_s = memory_mb(os.getpid(), peak=True), _database_cpu_s(url)
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        await select_shard(db, lease, batch)
        wall_s, used_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        database_s = _database_cpu_s(url) - database_s
        await _finish(db, lease)
    return Taken(wall_s, used_s, database_s, start_mb, memory_mb(os.getpid(), peak=True))


def _database_cpu_s(url: str) -> float:
    """Return the CPU of the server's processes that run now; 0 for one elsewhere."""
    with psycopg.connect(url, autocommit=True) as conn:
        return sum(cpu_s(pid) for pid in database_pids(conn) if pid != conn.info.backend_pid)


def _size_bytes(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    return int(row[0])


async def _submit(url: str, options: argparse.Namespace) -> UUID:
    new = batches.NewBatch("bench", _pool(), budget_usd=_JOB_USD * options.jobs)
    sla = jobs.NO_LIMITS
    if options.min_quality is not None:
        sla = SLA(min_quality=options.min_quality)
    async with Database(url) as db, db.transaction() as conn:
        batch_id, _ = await batches.create(conn, new)
        async with jobs.copy_jobs(conn, batch_id) as copy:
            for first in range(0, options.jobs, _SHARD_SIZE):
                numbers = range(first, min(first + _SHARD_SIZE, options.jobs))
                rows = [jobs.JobInput(no, f"task-{no}", _body(no), sla) for no in numbers]
                await copy.write(rows)
        await batches.seal(conn, batch_id, options.jobs, _SHARD_SIZE)
    return batch_id


def _body(number: int) -> str:
    messages = [{"role": "user", "content": request_text(number)}]
    return orjson.dumps({"messages": messages, "max_tokens": 64}).decode()


def _pool() -> Pool:
    return Pool(
        models=tuple(
            CandidateModel(
                name=name,
                endpoint=Endpoint(base_url="http://localhost:1/v1", max_concurrency=64),
                price_usd_per_mtok=Tariff(prompt=Decimal(usd) / 4, completion=Decimal(usd)),
                context_window_tokens=8192,
                max_completion_tokens=128,
            )
            for name, usd in _PRICES_USD.items()
        )
    )


async def _score(url: str, batch_id: UUID, job_count: int) -> None:
    async with Database(url) as db:
        async with db.transaction() as conn:
            batch = await batches.get(conn, batch_id)
        for shard_no in range(-(-job_count // _SHARD_SIZE)):
            lease = await _claim(db, ShardKey(batch_id, Stage.SCORE, shard_no))
            await score_shard(db, HashedWords(), lease, batch)
            await _finish(db, lease)


async def _request(url: str, batch_id: UUID) -> None:
    async with Database(url) as db, db.transaction() as conn:
        assert await replans.request(conn, batch_id, "the benchmark asks for it")


async def _claim(db: Database, key: ShardKey) -> Lease:
    async with db.transaction() as conn:
        lease = await leases.claim(conn, key, "benchmark", _LEASE_S)
    assert lease is not None
    return lease


async def _finish(db: Database, lease: Lease) -> None:
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())


if __name__ == "__main__":
    main()
