"""Alerts posted to a webhook."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from routoo.client.http import HttpClient
from routoo.errors import ConfigError, InputError
from routoo.settings import Settings
from routoo.store.database import Database
from routoo.store.evaluation import alerts
from tests.dispatch_factory import rows
from tests.fakes.webhook_receiver import Receiver, receiving
from tests.run_factory import add_set, begin, questions
from worker.tasks import background_ticks
from worker.webhooks import RETRIES_S, check_webhook, deliver_alerts, signatures

pytestmark = pytest.mark.anyio
SECRET = "between us"  # noqa: S105 - of the test


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


async def raise_alert(db: Database) -> None:
    run_id = await begin(db, await add_set(db, questions(1)))
    async with db.transaction() as conn:
        await alerts.save(conn, run_id, "quality", "", "quality fell", {"mean": -0.1})


def settings(url: str, **changes: Any) -> Settings:
    return Settings(**{"webhook_url": url, "webhook_secret": SECRET} | changes)


async def told(db: Database, url: str) -> int:
    """Post the alerts that are due, as the beat does."""
    async with HttpClient() as http:
        return await deliver_alerts(db, settings(url), http)


async def let_time_pass(db: Database) -> None:
    async with db.transaction() as conn:
        due = "UPDATE eval_alerts SET next_try_at = now() WHERE next_try_at > now()"
        await conn.execute(due)


async def test_an_alert_is_posted_once_with_a_signature_that_holds(
    db: Database, receiver: Receiver
) -> None:
    await raise_alert(db)
    assert await told(db, receiver.url) == 1
    await let_time_pass(db)
    assert await told(db, receiver.url) == 0
    ((headers, body),) = receiver.calls
    message = json.loads(body)
    assert (message["type"], message["data"]["message"]) == ("alert.quality", "quality fell")
    stamp, message_id = headers["webhook-timestamp"], headers["webhook-id"]
    assert headers["webhook-signature"] == signatures(SECRET, message_id, stamp, body)


async def test_a_refused_alert_is_posted_again_later(db: Database, receiver: Receiver) -> None:
    await raise_alert(db)
    receiver.status = 500
    assert await told(db, receiver.url) == 1
    assert await told(db, receiver.url) == 0  # too soon
    query = "SELECT deliveries, error FROM eval_alerts WHERE error IS NOT NULL"
    assert await rows(db, query) == [(1, "it answered with status 500")]
    await let_time_pass(db)
    receiver.status = 200
    assert await told(db, receiver.url) == 1
    first, second = receiver.calls
    assert first[0]["webhook-id"] == second[0]["webhook-id"]
    assert await rows(db, query) == []


async def test_an_alert_is_given_up_after_the_last_wait(db: Database, receiver: Receiver) -> None:
    await raise_alert(db)
    receiver.status = 500
    for _ in range(len(RETRIES_S) + 3):
        await told(db, receiver.url)
        await let_time_pass(db)
    assert len(receiver.calls) == len(RETRIES_S) + 1


async def test_nothing_is_locked_while_a_receiver_takes_its_time_and_its_end_loses_no_alert(
    db: Database, receiver: Receiver
) -> None:
    await raise_alert(db)
    receiver.hangs = True
    calling = asyncio.create_task(told(db, receiver.url))
    async with asyncio.timeout(30):
        await receiver.called.wait()
    open_for = "SELECT count(*) FROM pg_stat_activity WHERE state ~ '^idle in transaction'"
    assert await rows(db, f"{open_for} AND datname = current_database()") == [(0,)]
    assert len(await rows(db, "SELECT deliveries FROM eval_alerts FOR UPDATE NOWAIT")) == 1
    calling.cancel()
    await asyncio.wait([calling])
    receiver.hangs = False
    assert await told(db, receiver.url) == 0  # it might still be calling
    await let_time_pass(db)
    assert await told(db, receiver.url) == 1


async def test_the_beat_posts_alerts(db: Database, database_url: str, receiver: Receiver) -> None:
    await raise_alert(db)
    with background_ticks(settings(receiver.url, recovery_interval_s=0.05), database_url):
        async with asyncio.timeout(30):
            await receiver.called.wait()


def test_a_webhook_without_a_secret_is_refused() -> None:
    with pytest.raises(ConfigError, match="ROUTOO_WEBHOOK_SECRET"):
        check_webhook(settings("http://127.0.0.1:1", webhook_secret=None))


def test_a_webhook_that_is_no_address_is_refused() -> None:
    with pytest.raises(InputError, match="ROUTOO_WEBHOOK_URL"):
        check_webhook(settings("ops.example/hook"))
