"""Metrics scraped over HTTP, of a real database."""

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from routoo.domain.behaviour import EndpointBehaviour
from routoo.domain.calendar import Missed
from routoo.domain.completion import DeviationReason
from routoo.domain.endpoint import LimitField
from routoo.domain.job import Stage
from routoo.errors import ConfigError
from routoo.loop_thread import LoopThread
from routoo.settings import Settings
from routoo.store import endpoints, results, schedules
from routoo.store.batches.overview import _OVERVIEW
from routoo.store.database import Database
from routoo.store.evaluation import alerts, eval_runs
from tests.batch_factory import claim, dispatch, pool_of, result, score, select, submit
from tests.run_factory import add_set, begin, questions
from worker import metrics
from worker.metrics import serving_metrics

pytestmark = pytest.mark.anyio

Samples = dict[tuple[str, ...], float]
"""A metric's name and its labels' values, and its value."""
Scrape = Callable[[], Coroutine[Any, Any, Samples]]


async def get(port: int) -> Samples:
    async with aiohttp.ClientSession() as session:
        text = await (await session.get(f"http://127.0.0.1:{port}/metrics")).text()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread() as running:
        yield running


@pytest.fixture
async def served(loop: LoopThread, database_url: str) -> AsyncIterator[tuple[Database, Scrape]]:
    """The database that the server reads, and a scrape."""
    read = Database(database_url)
    loop.run(read.__aenter__())
    with serving_metrics(Settings(metrics_port=0), loop, read) as port:
        assert port is not None
        yield read, lambda: get(port)
    loop.run(read.__aexit__(None, None, None))


async def test_a_scrape_shows_how_far_open_batches_are_and_what_they_cost(
    db: Database, served: tuple[Database, Scrape]
) -> None:
    batch_id = await submit(db, 4, shard_size=2, budget_usd="1.5")
    await score(db, batch_id)
    await select(db, batch_id)
    await dispatch(db, await claim(db, batch_id, Stage.DISPATCH, 0))
    await submit(db, 1)  # without a budget
    seen = await served[1]()
    assert seen["routoo_database_reachable",] == 1
    assert seen["routoo_batches", "in_progress"] == 2
    assert seen["routoo_batches", "completed"] == 0
    assert seen["routoo_jobs_pending",] == 3
    assert seen["routoo_jobs_ended", "succeeded"] == 2
    assert seen["routoo_shards", "dispatch", "done"] == 1
    assert seen["routoo_shards", "dispatch", "parked"] == 0
    assert seen["routoo_limit_usd",] == 1.5
    assert seen["routoo_spent_usd",] == 0.02
    assert seen["routoo_calls_last_minute", "small", "succeeded"] == 2
    assert seen["routoo_call_latency_last_minute_seconds", "small", "succeeded"] == 0.25


async def test_a_batch_that_is_over_counts_among_the_batches_only(
    db: Database, served: tuple[Database, Scrape]
) -> None:
    batch_id = await submit(db, 2, budget_usd="1")
    await score(db, batch_id)
    await select(db, batch_id)
    await dispatch(db, await claim(db, batch_id, Stage.DISPATCH))
    seen = await served[1]()
    assert seen["routoo_batches", "completed"] == 1
    assert seen["routoo_jobs_ended", "succeeded"] == seen["routoo_spent_usd",] == 0
    assert seen["routoo_calls_last_minute", "small", "succeeded"] == 2


async def test_jobs_that_left_their_plan_are_counted_by_reason_and_by_what_it_changed(
    db: Database, served: tuple[Database, Scrape]
) -> None:
    batch_id = await submit(db, 5, shard_size=5)
    await score(db, batch_id)
    await select(db, batch_id)  # small for every job, at an expected quality of 0.5
    lease = await claim(db, batch_id, Stage.DISPATCH)
    left = {"model": "large", "reason": DeviationReason.UNAVAILABLE}
    async with db.transaction() as conn:
        by_quality = [
            replace(result(number), expected_quality=quality, **left)
            for number, quality in enumerate((0.3, 0.9, 0.95, 0.5))
        ]
        await results.save(conn, lease, [*by_quality, result(4)])
    seen = await served[1]()
    assert seen["routoo_jobs_ended", "succeeded"] == 5
    assert seen["routoo_jobs_deviated", "downgrade", "unavailable"] == 1
    assert seen["routoo_jobs_deviated", "upgrade", "unavailable"] == 2
    assert seen["routoo_jobs_deviated", "equal", "unavailable"] == 1
    assert seen["routoo_jobs_deviated", "downgrade", "budget"] == 0


async def test_a_scrape_reads_counts_and_no_results(db: Database) -> None:
    async with db.transaction() as conn:
        lines = await (await conn.execute(f"EXPLAIN {_OVERVIEW}".encode(), [[]])).fetchall()
    assert "batch_counts" in str(lines)
    assert " on results" not in str(lines)


async def test_a_schedules_last_run_and_alerts_of_every_kind_are_served(
    db: Database, served: tuple[Database, Scrape]
) -> None:
    eval_set, now = await add_set(db, questions(1)), datetime.now(UTC)
    new = schedules.NewSchedule(
        "nightly",
        "example",
        "0 0 1 1 *",
        "UTC",
        Missed.SKIP,
        pool_of("small").model_dump(mode="json"),
        now,
    )
    async with db.transaction() as conn:
        await schedules.add(conn, new)
        schedule = await schedules.find(conn, "nightly")
    for quality in (0.5, 0.75):
        run_id = await begin(db, eval_set, schedule_id=schedule.id)
        async with db.transaction() as conn:
            figures = {"quality": {"mean": quality}, "cost_usd": 0.01}
            await eval_runs.finish(conn, run_id, figures)
            await alerts.save(conn, run_id, "cost", "", "dearer", {})
    seen = await served[1]()
    assert seen["routoo_eval_quality_ratio", "nightly"] == 0.75
    assert seen["routoo_eval_cost_usd", "nightly"] == 0.01
    assert seen["routoo_eval_alerts_total", "cost"] == 2
    assert seen["routoo_eval_alerts_total", "quality"] == 0  # else its first rise goes unseen


async def test_an_open_breaker_is_served_without_the_addresss_query(
    db: Database, served: tuple[Database, Scrape]
) -> None:
    async with db.transaction() as conn:
        for key, pause_s in (("http://a/v1?key=s|m|K", 2.0), ("http://b/v1|m|", 0.0)):
            account = json.dumps({"breaker": {"pause_s": pause_s}})
            await conn.execute(
                "INSERT INTO endpoints (endpoint, account) VALUES (%s, %s)", [key, account]
            )
    seen = await served[1]()
    assert seen["routoo_endpoint_breaker_open", "http://a/v1|m|K"] == 1
    assert seen["routoo_endpoint_breaker_open", "http://b/v1|m|"] == 0


async def test_what_an_endpoint_billed_beyond_its_bound_is_served(
    db: Database, served: tuple[Database, Scrape]
) -> None:
    found = {"http://a/v1?key=s|m|K": EndpointBehaviour(LimitField.NONE, 7, 3590)}
    async with db.transaction() as conn:
        await endpoints.save_behaviour(conn, found)
    seen = await served[1]()
    assert seen["routoo_endpoint_extra_prompt_tokens", "http://a/v1|m|K"] == 7
    assert seen["routoo_endpoint_extra_completion_tokens", "http://a/v1|m|K"] == 3590
    assert seen["routoo_overrun_usd",] == 0


async def test_while_the_database_is_away_nothing_stale_is_served(
    served: tuple[Database, Scrape], loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_FRESH_S", 0.0)
    monkeypatch.setattr(metrics, "_IDLE_FACTOR", 0)
    read, scrape = served
    assert (await scrape())["routoo_database_reachable",] == 1
    loop.run(read.__aexit__(None, None, None))
    assert await scrape() == {("routoo_database_reachable",): 0}


async def test_scrapes_close_together_share_one_read(
    db: Database, served: tuple[Database, Scrape], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_FRESH_S", 600.0)
    before = await served[1]()
    await submit(db, 1)
    assert await served[1]() == before


async def test_a_port_that_is_taken_is_named(
    served: tuple[Database, Scrape], loop: LoopThread
) -> None:
    read, _ = served
    with serving_metrics(Settings(metrics_port=0), loop, read) as port:
        settings = Settings(metrics_port=port)
        with (
            pytest.raises(ConfigError, match="ROUTOO_METRICS_PORT"),
            serving_metrics(settings, loop, read),
        ):
            pass
