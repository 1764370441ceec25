"""Streams: every line answered once, and no clock hour above its budget."""

import asyncio
import io
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from psycopg import AsyncConnection

from producer.rows.bad_rows import BadRow
from producer.stream import Line, LineFeed, StreamBatch, Streamer, StreamRequest
from producer.submit import BatchRequest
from routoo.domain.batch_options import CallOptions
from routoo.domain.job import Stage
from routoo.pipeline.score import score_shard
from routoo.store import batches, leases, shards, streams
from routoo.store.database import Database
from routoo.store.streams import Stream
from tests import batch_factory
from tests.dispatch_factory import billed_usd, claim, dispatch, pool_of, rows, select
from tests.fakes.openai_server import FakeServer
from tests.integration.test_pipeline_select import FixedPredictor

pytestmark = pytest.mark.anyio


def lines(count: int, first: int = 1) -> list[Line]:
    prompts = (f"Question number {number}?" for number in range(first, first + count))
    return [
        Line(number, orjson.dumps({"prompt": prompt, "max_tokens": 20}) + b"\n")
        for number, prompt in enumerate(prompts, first)
    ]


def request_of(server: FakeServer, budget_usd: str, source: str = "-") -> StreamRequest:
    return StreamRequest(
        BatchRequest(
            pool=pool_of(server),
            name="inbox",
            call_options=CallOptions(max_completion_tokens=20),
        ),
        Decimal(budget_usd),
        source,
        shard_size=1000,
    )


async def work(db: Database) -> None:
    """Do whatever shard is due, as workers would."""
    predictor = FixedPredictor([])
    while True:
        for stage in Stage:
            async with db.transaction() as conn:
                due = await leases.due(conn, stage, 10)
            for key in due:
                if stage is Stage.SELECT:
                    await select(db, key.batch_id)
                    continue
                lease = await claim(db, key)
                async with db.transaction() as conn:
                    batch = await batches.get(conn, key.batch_id)
                if stage is Stage.SCORE:
                    await score_shard(db, predictor, lease, batch)
                else:
                    assert await dispatch(db, lease)
                async with db.transaction() as conn:
                    await shards.finish(conn, lease, shards.Done())
        await asyncio.sleep(0.05)


async def send(streamer: Streamer, taken: Sequence[Line]) -> list[StreamBatch]:
    return [group async for group in streamer.send(await streamer.open(), taken)]


async def answered(db: Database, count: int) -> None:
    async with asyncio.timeout(30):
        while await rows(db, "SELECT count(*) FROM results") != [(count,)]:
            await asyncio.sleep(0.05)


async def test_every_line_is_answered_once_and_bad_ones_are_set_aside(db: Database) -> None:
    bad: list[BadRow] = []
    async with FakeServer() as server:
        working = asyncio.create_task(work(db))
        streamer = Streamer(db, request_of(server, "1"), bad.append)
        broken = [Line(21, b"{oops\n"), Line(22, b"\n")]
        groups = await send(streamer, [*lines(20), *broken, *lines(20, 23)])
        groups += await send(streamer, lines(5, 43))
        await answered(db, 45)
        working.cancel()
    assert [group.job_count for group in groups] == [40, 5]
    assert [one.row.line for one in bad] == [21]
    assert len(server.requests) == 45
    limits = "SELECT DISTINCT call_options ->> 'max_completion_tokens' FROM batches"
    assert await rows(db, limits) == [("20",)]
    async with db.transaction() as conn:
        stream = await streams.open_stream(conn, "inbox", "-", Decimal(1))
        elsewhere = await streams.open_stream(conn, "inbox", "/other.jsonl", Decimal(1))
    assert (stream.lines_taken, elsewhere.lines_taken) == (47, 0)


async def test_scarce_money_gets_a_price_waits_for_room_and_is_never_overspent(
    db: Database,
) -> None:
    # The worst case of ten jobs on the cheap model; what they really cost is a tenth of it.
    budget_usd = Decimal("0.0015")
    async with FakeServer() as server:
        working = asyncio.create_task(work(db))
        streamer = Streamer(db, request_of(server, str(budget_usd)), lambda _: None)
        groups = await send(streamer, lines(40))
        await answered(db, 40)
        working.cancel()
        assert billed_usd(server) <= budget_usd
    assert len(groups) > 2
    assert groups[0].price_per_usd == 0
    assert groups[-1].price_per_usd > 0
    assert sum(group.job_count for group in groups) == 40
    assert all(group.free_usd >= 0 for group in groups)
    statuses = await rows(db, "SELECT status, count(*) FROM results GROUP BY 1")
    assert statuses == [("succeeded", 40)]


async def test_a_stream_out_of_money_goes_on_when_the_next_hour_begins(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(streams, "lock", clock.lock)
    budget_usd, count = Decimal("0.0015"), 60
    async with FakeServer({"models": {"*": {"completion_tokens": 20}}}) as server:
        working = asyncio.create_task(work(db))
        streamer = Streamer(db, request_of(server, str(budget_usd)), lambda _: None)
        sending = asyncio.create_task(send(streamer, lines(count)))
        await clock.out_of_money(db, sending)
        first = len(server.requests)
        spent_usd = billed_usd(server)
        assert 0 < first < count
        assert spent_usd <= budget_usd
        clock.ahead += timedelta(hours=1)
        groups = await sending
        await answered(db, count)
        working.cancel()
        assert sum(group.job_count for group in groups) == count
        assert len(server.requests) == count
        assert billed_usd(server) - spent_usd <= budget_usd


class Clock:
    """The store's clock, set to ten minutes past the hour: no hour ends but by our will."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        self.ahead = now.replace(minute=10, second=0, microsecond=0) - now
        self._lock = streams.lock
        self._looks = 0

    async def lock(self, conn: AsyncConnection, stream_id: UUID) -> tuple[Stream, datetime]:
        stream, now = await self._lock(conn, stream_id)
        self._looks += 1
        return stream, now + self.ahead

    async def out_of_money(self, db: Database, sending: "asyncio.Task[list[StreamBatch]]") -> None:
        """Wait until every batch has ended, and the stream has looked for money since."""
        open_batches = "SELECT count(*) FROM stream_batches WHERE ended_at IS NULL"
        async with asyncio.timeout(60):
            while not sending.done():
                known = await rows(db, "SELECT count(*) FROM stream_batches")
                ended = await rows(db, open_batches) == [(0,)]
                looks = self._looks
                while self._looks < looks + 2 and not sending.done():
                    await asyncio.sleep(0.05)
                if ended and known == await rows(db, "SELECT count(*) FROM stream_batches"):
                    return


async def test_a_job_dearer_than_a_whole_hour_is_set_aside_and_blocks_nobody(db: Database) -> None:
    bad: list[BadRow] = []
    async with FakeServer() as server:
        working = asyncio.create_task(work(db))
        dear = orjson.dumps({"prompt": "Long?", "max_tokens": 4000})
        streamer = Streamer(db, request_of(server, "0.0005"), bad.append)
        await send(streamer, [Line(1, dear), *lines(1, 2)])
        await answered(db, 1)
        working.cancel()
    assert "more than a whole hour's budget" in str(bad[0].problems[0])


async def test_lines_of_a_growing_file_are_taken_whole_and_once(tmp_path: Path) -> None:
    path = tmp_path / "grows.jsonl"
    path.write_bytes(b"one\ntwo\nthr")
    with path.open("rb") as stream:
        feed = LineFeed(stream, skip=1, follow=True)
        assert await feed.take(10, 0.3) == [Line(2, b"two\n")]
        with path.open("ab") as more:
            more.write(b"ee\n")
        assert await feed.take(10, 0.1) == [Line(3, b"three\n")]


async def test_the_end_of_a_pipe_is_the_end_even_without_a_line_end() -> None:
    feed = LineFeed(io.BytesIO(b"one\ntwo"), most_ahead=1)
    assert [line.text for line in await feed.take(10, 5.0)] == [b"one\n", b"two"]
    assert await feed.take(10, 5.0) == []


async def _book(db: Database, batch_id: UUID, number: int, usd: Decimal, now: datetime) -> None:
    async with db.transaction() as conn:
        await conn.execute(
            "INSERT INTO attempts (batch_id, job_no, attempt_no, model, status, cost_usd,"
            " created_at) VALUES (%s, 0, %s, 'small', 'succeeded', %s, %s)",
            [batch_id, number, usd, now],
        )
        await conn.execute(
            "UPDATE ledgers SET spent_usd = spent_usd + %s WHERE batch_id = %s", [usd, batch_id]
        )


@pytest.mark.parametrize("seed", range(3))
async def test_no_clock_hour_books_more_than_its_budget_whatever_batches_do_when(
    db: Database, seed: int
) -> None:
    rng, budget_usd = random.Random(seed), Decimal(10)
    now = datetime(2026, 1, 1, 12, 50, tzinfo=UTC)
    async with db.transaction() as conn:
        stream = await streams.open_stream(conn, "inbox", "-", budget_usd)
    left: dict[UUID, Decimal] = {}
    for number in range(60):
        now += timedelta(minutes=rng.choice([0, 1, 7, 40]))
        hour = now.replace(minute=0)
        async with db.transaction() as conn:
            claims = await streams.claims(conn, stream, hour, now)
        free_usd = budget_usd - claims.most_usd
        assert free_usd >= 0
        if free_usd > 0 and rng.random() < 0.4:
            allotted = (free_usd * Decimal(rng.random())).quantize(Decimal("0.01"))
            batch_id = await batch_factory.submit(db, 1, budget_usd=str(allotted))
            async with db.transaction() as conn:
                await streams.add_batch(conn, stream, batch_id, 1.0)
                await conn.execute(
                    "UPDATE stream_batches SET submitted_at = %s WHERE batch_id = %s",
                    [now, batch_id],
                )
            left[batch_id] = allotted
        for batch_id in [one for one in left if rng.random() < 0.5]:
            usd = left[batch_id] if rng.random() < 0.5 else left[batch_id] / 2
            await _book(db, batch_id, number + 1, usd, now)
            left[batch_id] -= usd
            if rng.random() < 0.4:
                async with db.transaction() as conn:
                    await conn.execute(
                        "UPDATE batches SET status = 'completed' WHERE id = %s", [batch_id]
                    )
                del left[batch_id]
    hours = await rows(
        db, "SELECT date_trunc('hour', created_at), sum(cost_usd) FROM attempts GROUP BY 1"
    )
    assert len(hours) > 3
    assert max(usd for _, usd in hours) <= budget_usd
    assert max(usd for _, usd in hours) > budget_usd / 2
