"""Alerts posted to a webhook."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from routoo.errors import ConfigError
from routoo.settings import Settings
from routoo.store.database import Database
from routoo.store.evaluation import alerts
from tests.fakes.webhook_receiver import Receiver, receiving
from tests.run_factory import add_set, begin, questions
from worker.background import check_webhook, deliver_alerts, sign
from worker.webhooks import signatures

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


async def test_an_alert_is_posted_once_with_a_signature_that_holds(
    db: Database, receiver: Receiver
) -> None:
    await raise_alert(db)
    assert await deliver_alerts(db, settings(receiver.url)) == 1
    assert await deliver_alerts(db, settings(receiver.url)) == 0
    ((headers, body),) = receiver.calls
    assert headers["X-Routoo-Signature"] == sign(SECRET, headers["X-Routoo-Timestamp"], body)
    assert json.loads(body)["message"] == "quality fell"
    stamp, message_id = headers["webhook-timestamp"], headers["webhook-id"]
    assert headers["webhook-signature"] == signatures(SECRET, message_id, stamp, body)


async def test_a_refused_alert_is_posted_again_later(db: Database, receiver: Receiver) -> None:
    await raise_alert(db)
    receiver.status = 500
    assert await deliver_alerts(db, settings(receiver.url)) == 0
    assert await deliver_alerts(db, settings(receiver.url)) == 0  # too soon: not even called
    receiver.status = 200
    async with db.transaction() as conn:
        await conn.execute("UPDATE eval_alerts SET created_at = created_at - interval '1 minute'")
    assert await deliver_alerts(db, settings(receiver.url)) == 1
    assert len(receiver.calls) == 2


def test_a_webhook_without_a_secret_is_refused() -> None:
    with pytest.raises(ConfigError, match="ROUTOO_WEBHOOK_SECRET"):
        check_webhook(settings("http://127.0.0.1:1", webhook_secret=None))
