"""Several dispatcher processes against an endpoint that fails in every way, and what must hold.

The tests run it small; `python -m tests.integration.dispatch_proof` runs 10,000 jobs through four
processes at several budgets and prints what it saw.
"""

import argparse
import asyncio
import multiprocessing
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import psycopg

from routoo.domain.endpoint import Endpoint
from routoo.domain.job import Lease, ShardKey, Stage
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.domain.prediction import Assignment, Predictions
from routoo.store import assignments, batches, jobs, leases, predictions, shards
from routoo.store.database import Database
from tests.fakes.openai_process import FakeServerProcess
from tests.integration import dispatcher_process
from tests.services import database_server, databases, short_folder

PRICE_USD_PER_MTOK = Decimal(2)
FAULTS: list[dict[str, Any]] = [
    {"kind": "rate_limit", "every": 211, "retry_after": "0"},
    {"kind": "status", "every": 37, "status": 500},
    {"kind": "hang", "every": 307},
    {"kind": "reset", "every": 59},
    {"kind": "half_body", "every": 73},
    {"kind": "wrong_json", "every": 89},
    {"kind": "missing_usage", "every": 43},
    {"kind": "slow_headers", "every": 101, "delay_s": 0.5},
]
LOST_KINDS = {"hang", "reset"}
"""The endpoint notices later than its client that these calls are over."""


@dataclass(frozen=True)
class Run:
    """What is dispatched, and within which limits."""

    jobs: int
    processes: int = 4
    shard_size: int = 50
    concurrency: int = 100
    span_s: float = 6.0
    """The window in which the rates hold: shorter than a minute, so that a test sees several."""
    calls_per_span: int = 1_000
    tokens_per_span: int = 40_000
    budget_usd: Decimal | None = None
    median_latency_s: float = 0.05
    timeout_s: float = 3.0

    def pool(self, base_url: str) -> Pool:
        endpoint = Endpoint(
            base_url=base_url,
            max_concurrency=self.concurrency,
            requests_per_minute=self.calls_per_span * 60 / self.span_s,
            tokens_per_minute=self.tokens_per_span * 60 / self.span_s,
            timeout_s=self.timeout_s,
        )
        model = CandidateModel(
            name="m",
            endpoint=endpoint,
            price_usd_per_mtok=Tariff(prompt=PRICE_USD_PER_MTOK, completion=PRICE_USD_PER_MTOK),
            context_window_tokens=4096,
        )
        return Pool(models=(model,))


@dataclass(frozen=True)
class Seen:
    """The outcome by our tables and by the endpoint's own log."""

    taken_s: float
    statuses: dict[str, int]
    calls: int
    most_in_flight: int
    most_calls_a_span: int
    most_tokens_a_span: int
    billed_usd: Decimal
    spent_usd: Decimal
    reserved_usd: Decimal


def dispatch(database_url: str, run: Run) -> Seen:
    """Dispatch a batch with several processes, and read both sides' records."""
    latency_s = {"p50": run.median_latency_s, "p99": 4 * run.median_latency_s}
    script = {"models": {"m": {"latency_s": latency_s, "faults": FAULTS}}}
    with FakeServerProcess(script) as server:
        batch_id = asyncio.run(_prepare(database_url, run, server.base_url))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([dispatcher_process.__name__])
        arguments = (database_url, batch_id, run.span_s)
        processes = [
            context.Process(target=dispatcher_process.work, args=arguments)
            for _ in range(run.processes)
        ]
        started = time.monotonic()
        for process in processes:
            process.start()
        for process in processes:
            process.join(540)
        assert [process.exitcode for process in processes] == [0] * run.processes
        return _read(database_url, batch_id, server.log(), time.monotonic() - started, run)


async def _prepare(database_url: str, run: Run, base_url: str) -> UUID:
    async with Database(database_url) as db:
        new = batches.NewBatch("proof", run.pool(base_url), budget_usd=run.budget_usd)
        async with db.transaction() as conn:
            batch_id, _ = await batches.create(conn, new)
            async with jobs.copy_jobs(conn, batch_id) as copy:
                await copy.write([_job(number) for number in range(run.jobs)])
            await batches.seal(conn, batch_id, run.jobs, run.shard_size)
        for shard_no in range(-(-run.jobs // run.shard_size)):
            lease = await _claim(db, ShardKey(batch_id, Stage.SCORE, shard_no))
            async with db.transaction() as conn:
                await predictions.save(conn, lease, _predictions(lease.job_count))
                await shards.finish(conn, lease, shards.Done())
        lease = await _claim(db, ShardKey(batch_id, Stage.SELECT, 0))
        async with db.transaction() as conn:
            chosen = [Assignment(no, "m", 0.5, Decimal("0.0001")) for no in range(run.jobs)]
            await assignments.save(conn, lease, chosen, 1)
            await shards.finish(conn, lease, shards.Done())
    return batch_id


async def _claim(db: Database, key: ShardKey) -> Lease:
    async with db.transaction() as conn:
        lease = await leases.claim(conn, key, "prepares", 60.0)
    assert lease is not None
    return lease


def _job(number: int) -> jobs.JobInput:
    message = {"role": "user", "content": f"Question number {number} of many?"}
    body = orjson.dumps({"messages": [message], "max_tokens": 8}).decode()
    return jobs.JobInput(number, f"job-{number}", body)


def _predictions(count: int) -> Predictions:
    return Predictions(
        quality=np.full((count, 1), 0.5, np.float32),
        quality_std=np.zeros((count, 1), np.float32),
        completion_tokens=np.full((count, 1), 4, np.float32),
        novelty=np.zeros(count, np.float32),
        truncated=np.zeros(count, np.bool_),
    )


def _read(
    database_url: str, batch_id: UUID, log: list[dict[str, Any]], taken_s: float, run: Run
) -> Seen:
    with psycopg.connect(database_url) as conn:
        statuses = conn.execute(
            "SELECT status, count(*)::int FROM results WHERE batch_id = %s GROUP BY 1", [batch_id]
        ).fetchall()
        spent, reserved = conn.execute(
            "SELECT spent_usd, reserved_usd FROM ledgers WHERE batch_id = %s", [batch_id]
        ).fetchall()[0]
    tokens = np.array([row["prompt_tokens"] + row["completion_tokens"] for row in log])
    starts = np.array([row["started_at"] for row in log])
    return Seen(
        taken_s=taken_s,
        statuses=dict(statuses),
        calls=len(log),
        most_in_flight=_most_in_flight(log),
        most_calls_a_span=_most_in_span(starts, np.ones(len(log)), run.span_s),
        most_tokens_a_span=_most_in_span(starts, tokens, run.span_s),
        billed_usd=PRICE_USD_PER_MTOK * int(tokens.sum()) / 1_000_000,
        spent_usd=spent,
        reserved_usd=reserved,
    )


def _most_in_flight(log: list[dict[str, Any]]) -> int:
    known = [row for row in log if row["fault"] not in LOST_KINDS and row["ended_at"]]
    edges = [(row["started_at"], 1) for row in known] + [(row["ended_at"], -1) for row in known]
    return int(np.cumsum([step for _, step in sorted(edges)]).max())


def _most_in_span(starts: np.ndarray, amounts: np.ndarray, span_s: float) -> int:
    order = np.argsort(starts)
    starts, total = starts[order], np.concatenate([[0], np.cumsum(amounts[order])])
    ends = np.searchsorted(starts, starts + span_s, side="right")
    return int((total[ends] - total[np.arange(len(starts))]).max())


def main() -> None:
    """Run it in full and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=1_000)
    parser.add_argument("--calls-per-span", type=int, default=4_000)
    parser.add_argument("--median-latency-s", type=float, default=2.0)
    parser.add_argument("--budget-usd", type=Decimal)
    options = parser.parse_args()
    run = Run(
        options.jobs,
        shard_size=500,
        concurrency=options.concurrency,
        calls_per_span=options.calls_per_span,
        tokens_per_span=options.calls_per_span * 50,
        budget_usd=options.budget_usd,
        median_latency_s=options.median_latency_s,
        timeout_s=20.0,
    )
    with (
        short_folder() as folder,
        database_server(folder) as url,
        databases(url) as found,
        found.clone() as database_url,
    ):
        print(dispatch(database_url, run))


if __name__ == "__main__":
    main()
