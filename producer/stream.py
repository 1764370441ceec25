"""Submits lines as they come, in small batches, so that no clock hour exceeds its budget.

The hour's budget is paced by the price of a dollar: every group of lines is selected at the current
price; then the price moves by how far the group's cost missed its share of the budget. The price is
the dual of the budget, learned online: dual mirror descent with the entropy as mirror, whose step
multiplies the price. The miss is counted in shares of the target and cut at one share, so that one
group moves the price by a factor of at most e^step, whatever units quality and money have.

Source: Balseiro, Lu and Mirrokni, Dual mirror descent for online allocation problems, ICML 2020;
for budgets paced over time Balseiro and Gur, Learning in repeated auctions with budgets, Management
Science 65 (2019). Their regret of order sqrt(T) is proved for steps that shrink with the horizon T.
An endless stream has none, so the step stays and the price follows a mix of jobs that changes.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import BinaryIO, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from producer.rows import jsonl_rows
from producer.rows.bad_rows import BadRow, ProblemList
from producer.rows.body import BodyCheck
from producer.rows.check import InputCheck, RowCheck
from producer.rows.formats import RawRow
from producer.rows.problems import ProblemKind, RowProblem
from producer.submit import BatchRequest
from routoo.domain.pool import Pool
from routoo.domain.prompt import bound_cost_usd, part_counts
from routoo.errors import InputError
from routoo.pipeline.request_facts import RequestKind
from routoo.pipeline.select import eligibility
from routoo.store import batches, streams
from routoo.store.database import Database
from routoo.store.jobs import JobInput, copy_jobs
from routoo.store.streams import Stream

STEP = 0.2
"""Largest change of the price's logarithm by one group."""
_SHORTEST_LEFT_S = 60.0
_MOST_HASTE = 4.0
"""Times the even rate at which money that was left over may be spent."""
_KIND = "stream"
_POLL_S = 0.25
_HOUR = timedelta(hours=1)
_LINE_POLL_S = 0.2


class Line(NamedTuple):
    """A line and its number."""

    number: int
    """From 1, counted over the whole source."""
    text: bytes


class LineFeed:
    """Reads lines in a thread of its own, a bounded number ahead of those taken.

    Args:
        stream: The pipe or file.
        skip: Number of lines at the start to leave out.
        follow: Wait for more at the end, for a file that another program writes. A last
            line without its line end is then not taken.
        most_ahead: Maximum number of lines read and not taken yet.
    """

    def __init__(
        self, stream: BinaryIO, *, skip: int = 0, follow: bool = False, most_ahead: int = 1000
    ) -> None:
        self._stream, self._skip, self._follow = stream, skip, follow
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[Line | OSError | None] = asyncio.Queue(most_ahead)
        self._ended = False
        # A daemon: a read that blocks for ever must not keep the program from ending.
        threading.Thread(target=self._read, name="line-feed", daemon=True).start()

    async def take(self, most: int, linger_s: float) -> list[Line]:
        """Return the next lines: the first, and those that come within a while after it.

        Args:
            most: Maximum number of lines to return.
            linger_s: How long to wait for more after the first line, in seconds.

        Returns:
            At least one line; an empty list only at the end of the source.

        Raises:
            InputError: The source can't be read.
        """
        taken: list[Line] = []
        if most > 0 and not self._ended:
            await self._take_one(taken)
        with suppress(TimeoutError):
            async with asyncio.timeout(linger_s):
                while len(taken) < most and not self._ended:
                    await self._take_one(taken)
        return taken

    async def _take_one(self, taken: list[Line]) -> None:
        line = await self._lines.get()
        if isinstance(line, OSError):
            raise InputError("the lines can't be read", value=line.strerror) from line
        if line is None:
            self._ended = True
        else:
            taken.append(line)

    def _read(self) -> None:
        # A closed loop raises the first, a closed file the second: nobody takes lines any more.
        with suppress(RuntimeError, ValueError):
            try:
                self._read_lines()
            except OSError as error:
                self._put(error)
            else:
                self._put(None)

    def _read_lines(self) -> None:
        number, rest = 0, b""
        while True:
            piece = self._stream.readline()
            if self._follow and not piece.endswith(b"\n"):
                rest += piece
                time.sleep(_LINE_POLL_S)
                continue
            if not piece:
                return
            number, text, rest = number + 1, rest + piece, b""
            if number > self._skip:
                self._put(Line(number, text))

    def _put(self, line: Line | OSError | None) -> None:
        asyncio.run_coroutine_threadsafe(self._lines.put(line), self._loop).result()


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A stream to open or to go on with."""

    batch: BatchRequest
    """Pool and limits of every batch; the stream sets each one's budget and aim."""
    budget_usd_per_hour: Decimal
    """Most that the calls of any clock hour may cost, in USD."""
    source: str
    """Where its lines come from; lines of the same source are taken once."""
    shard_size: int
    """Most jobs in a shard."""


class StreamBatch(NamedTuple):
    """A batch of a stream that was submitted."""

    batch_id: UUID
    job_count: int
    price_per_usd: float
    """Quality that a dollar had to buy; 0 where money was no limit."""
    budget_usd: Decimal
    """Its budget: the worst case of its calls."""
    free_usd: Decimal
    """The part of the hour's budget that is left."""


class _StreamJob(NamedTuple):
    """A job that waits to be submitted."""

    job: JobInput
    line: int
    """Its line in the source."""
    least_usd: Decimal
    """Worst-case cost of a call to the cheapest model that may answer it."""
    most_usd: Decimal
    """The same for the dearest model."""


class Streamer:
    """Turns lines into batches.

    Args:
        database: The store; migrated.
        request: The stream, its budget and its source.
        on_bad_row: Called for each row that can't become a job.
    """

    def __init__(
        self, database: Database, request: StreamRequest, on_bad_row: Callable[[BadRow], None]
    ) -> None:
        self._database, self._request, self._on_bad_row = database, request, on_bad_row

    async def open(self) -> Stream:
        """Create the stream or find it; its first `lines_taken` lines are submitted already."""
        async with self._database.transaction() as conn:
            name = self._request.batch.name or self._request.source
            return await streams.open_stream(
                conn, name, self._request.source, self._request.budget_usd_per_hour
            )

    async def send(self, stream: Stream, lines: Sequence[Line]) -> AsyncIterator[StreamBatch]:
        """Submit lines as money becomes available, each batch once the one before is planned.

        Yields:
            The batches; several where the hour's budget has no room for all lines at once.
        """
        jobs = self._read(lines)
        while jobs:
            group = await self._submit(stream, jobs)
            if group is None:
                await asyncio.sleep(_POLL_S)
                continue
            yield group
            jobs = jobs[group.job_count :]
            await self._planned(group.batch_id)
        async with self._database.transaction() as conn:  # bad rows at the end are dealt with, too
            await streams.advance(conn, stream, lines[-1].number)

    def _read(self, lines: Sequence[Line]) -> list[_StreamJob]:
        batch = self._request.batch
        body_check = BodyCheck(batch.pool, ignore_model=batch.ignore_model)
        check = RowCheck(body_check, batch.sla, datetime.now(UTC))
        input_check = InputCheck(check, ProblemList(self._request.source), self._on_bad_row)
        jobs = []
        for number, text in lines:
            row = RawRow(number, text, {}) if text.isspace() else jsonl_rows.raw_row(number, text)
            found = [] if text.isspace() else next(input_check.jobs([[row]]))
            for job in found:
                least_usd, most_usd = _bounds_usd(job, batch.pool)
                if least_usd > self._request.budget_usd_per_hour:
                    self._on_bad_row(BadRow(row, (_too_dear(least_usd),)))
                else:
                    jobs.append(_StreamJob(job, number, least_usd, most_usd))
        return jobs

    async def _submit(self, stream: Stream, jobs: Sequence[_StreamJob]) -> StreamBatch | None:
        """Submit as many jobs as the hour's money covers; None where it covers none."""
        async with self._database.transaction() as conn:
            stream, now = await streams.lock(conn, stream.id)
            hour = now.replace(minute=0, second=0, microsecond=0)
            claims = await streams.claims(conn, stream, hour, now)
            free_usd = stream.budget_usd_per_hour - claims.most_usd
            fitting = _fitting(jobs, free_usd)
            if not fitting:
                return None
            price = await _move_price(conn, stream)
            budget_usd = min(free_usd, sum((job.most_usd for job in fitting), Decimal(0)))
            batch_id = await self._create(conn, fitting, price, budget_usd)
            target_usd = share_usd(
                float(stream.budget_usd_per_hour - claims.expected_usd),
                left_s=(hour + _HOUR - now).total_seconds(),
                elapsed_s=(now - stream.paced_at).total_seconds(),
                budget_usd=float(stream.budget_usd_per_hour),
            )
            await streams.add_batch(conn, stream, batch_id, target_usd)
            await streams.advance(conn, stream, fitting[-1].line)
        return StreamBatch(batch_id, len(fitting), price, budget_usd, free_usd - budget_usd)

    async def _create(
        self,
        conn: AsyncConnection,
        jobs: Sequence[_StreamJob],
        price_per_usd: float,
        budget_usd: Decimal,
    ) -> UUID:
        batch = self._request.batch
        worth_usd = 1.0 / price_per_usd if price_per_usd > 0 else None
        new = batches.NewBatch(
            name=f"{batch.name or self._request.source}:{jobs[0].line}",
            pool=batch.pool,
            kind=_KIND,
            budget_usd=budget_usd,
            min_quality=batch.sla.min_quality,
            max_cost_usd=batch.sla.max_cost_usd,
            deadline=batch.sla.deadline,
            objective=replace(batch.objective, willingness_to_pay_usd=worth_usd),
            call_options=batch.call_options,
        )
        batch_id, _ = await batches.create(conn, new)
        await _copy(conn, batch_id, jobs)
        await batches.seal(conn, batch_id, len(jobs), self._request.shard_size)
        return batch_id

    async def _planned(self, batch_id: UUID) -> None:
        """Wait until a batch has its plan: the next one's price depends on it."""
        while True:
            async with self._database.transaction() as conn:
                if await streams.is_planned(conn, batch_id):
                    return
            await asyncio.sleep(_POLL_S)


async def _copy(conn: AsyncConnection, batch_id: UUID, jobs: Sequence[_StreamJob]) -> None:
    for number, one in enumerate(jobs):
        one.job.job_no = number
    async with copy_jobs(conn, batch_id) as copy:
        await copy.write([one.job for one in jobs])


async def _move_price(conn: AsyncConnection, stream: Stream) -> float:
    """Move the stream's price by the plans that were made at it, and return it."""
    price = stream.price_per_usd
    for plan in await streams.take_plans(conn, stream):
        if plan.cost_usd > 0:
            expected = {"quality": plan.quality, "cost_usd": plan.cost_usd}
            price = next_price(price, **expected, target_usd=plan.target_usd)
    await streams.set_price(conn, stream, price)
    return price


def _fitting(jobs: Sequence[_StreamJob], free_usd: Decimal) -> list[_StreamJob]:
    """Return the first jobs that the money covers, each at its cheapest model's worst case."""
    fitting, needed_usd = [], Decimal(0)
    for job in jobs:
        needed_usd += job.least_usd
        if needed_usd > free_usd:
            break
        fitting.append(job)
    return fitting


def _bounds_usd(job: JobInput, pool: Pool) -> tuple[Decimal, Decimal]:
    """Return the worst case of a call to the cheapest and the dearest model that may answer."""
    body = orjson.loads(job.body_json)
    (admitted,) = eligibility.usable([RequestKind.of(body, job.sla)], pool)
    kinds = part_counts(body).keys()
    costs_usd = [
        bound_cost_usd(body, model)
        for model, may in zip(pool.models, admitted, strict=True)
        if may and kinds <= model.part_kinds
    ]
    return min(costs_usd, default=Decimal(0)), max(costs_usd, default=Decimal(0))


def _too_dear(least_usd: Decimal) -> RowProblem:
    return RowProblem(
        ProblemKind.LIMIT_OUT_OF_RANGE,
        f"even the cheapest model's call may cost {least_usd} USD, more than a whole hour's budget",
        "Lower max_tokens, or raise --budget-usd-per-hour",
    )


def next_price(
    price_per_usd: float, *, quality: float, cost_usd: float, target_usd: float
) -> float:
    """Return the price for the next group.

    Args:
        price_per_usd: Quality that a dollar had to buy for this group; 0 while money was plenty.
        quality: Good answers that were expected of what was selected at that price.
        cost_usd: Expected cost of all its calls, in USD.
        target_usd: The group's share of the budget, in USD.

    Returns:
        A price that rises where the group cost more than its share and falls where it cost less.
        From 0 it starts at what a dollar bought on average.
    """
    if price_per_usd == 0.0:
        return quality / cost_usd if cost_usd > target_usd else 0.0
    if target_usd <= 0.0:
        return price_per_usd * math.exp(STEP)
    miss = (cost_usd - target_usd) / target_usd
    return price_per_usd * math.exp(STEP * min(max(miss, -1.0), 1.0))


def share_usd(left_usd: float, *, left_s: float, elapsed_s: float, budget_usd: float) -> float:
    """Return what may be spent on a group so that the hour's money lasts the hour.

    Args:
        left_usd: Of the hour's budget.
        left_s: Of the hour.
        elapsed_s: Since the group before.
        budget_usd: For a whole hour; bounds the haste with which leftovers are spent.
    """
    left_usd = max(left_usd, 0.0)
    rate = min(
        left_usd / max(left_s, _SHORTEST_LEFT_S), _MOST_HASTE * budget_usd / _HOUR.total_seconds()
    )
    return min(rate * elapsed_s, left_usd)
