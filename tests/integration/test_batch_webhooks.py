"""Webhooks are told how batches ended: signed, and at least once, whatever is killed."""

import asyncio
import base64
import hashlib
import hmac
import json
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from routoo.client.http import HttpClient
from routoo.domain.batch_options import Objective
from routoo.domain.completion import Result
from routoo.domain.job import ResultStatus, Stage
from routoo.domain.networks import BlockedNetworks
from routoo.domain.webhook import Webhook, WebhookEvent, check_webhook_url
from routoo.errors import InputError
from routoo.settings import Settings
from routoo.store import batches, ledger, results, shards, webhooks
from routoo.store.batches import control, retry
from routoo.store.batches.plans import derive_plan
from routoo.store.database import Database
from tests import batch_factory as factory
from tests.dispatch_factory import rows
from tests.fakes.webhook_receiver import Receiver, receiving
from tests.integration.test_scheduled_batches import add as add_schedule
from tests.producer_command import ProducerCommand
from worker.tasks import background_ticks
from worker.webhooks import RETRIES_S, deliver, signatures

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of the test
DYING = """
import asyncio, sys
from routoo.client.http import HttpClient
from routoo.settings import load_settings
from routoo.store.database import Database
from worker.webhooks import deliver

async def main():
    async with Database(sys.argv[1]) as db, HttpClient() as http:
        await deliver(db, load_settings(), http)

asyncio.run(main())
"""


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


async def ended(db: Database, receiver: Receiver, *, answered: int = 2) -> UUID:
    """Return a batch of two jobs that has ended, with a webhook for each event."""
    batch_id = await factory.submit(db, 2, shard_size=4)
    async with db.transaction() as conn:
        hooks = [Webhook(event, f"{receiver.url}?on={event}") for event in WebhookEvent]
        await webhooks.add(conn, batch_id, hooks)
    assert await told(db) == 0  # it has not ended
    await factory.score(db, batch_id)
    await factory.select(db, batch_id)
    lease = await factory.claim(db, batch_id, Stage.DISPATCH)
    async with db.transaction() as conn:
        calls = [factory.reservation(n, "0.02") for n in range(answered)]
        await ledger.reserve(conn, lease, calls)
    async with db.transaction() as conn:
        await ledger.settle(conn, lease, [factory.attempt(n, "0.01") for n in range(answered)])
        done = [factory.result(n, "yes") for n in range(answered)]
        failed = [
            Result(n, ResultStatus.FAILED, factory.attempt(n, "0").cost_usd, 1)
            for n in range(answered, 2)
        ]
        await results.save(conn, lease, [*done, *failed])
        await shards.finish(conn, lease, shards.Done())
    return batch_id


async def told(db: Database, **changes: Any) -> int:
    """Call the webhooks that are due, as the beat does."""
    settings = Settings(**{"webhook_secret": SECRET} | changes)
    async with HttpClient(blocked=settings.blocked_networks) as http:
        return await deliver(db, settings, http)


async def let_time_pass(db: Database) -> None:
    async with db.transaction() as conn:
        due = "UPDATE batch_webhooks SET next_try_at = now() WHERE next_try_at > now()"
        await conn.execute(due)


async def test_the_end_of_a_batch_is_told_once_with_a_signature_that_holds(
    db: Database, receiver: Receiver
) -> None:
    batch_id = await ended(db, receiver)
    assert await told(db) == 1
    await let_time_pass(db)
    assert await told(db) == 0
    ((headers, body),) = receiver.calls
    message = json.loads(body)
    assert message["type"] == "batch.succeeded"
    assert message["data"]["batch_id"] == str(batch_id)
    assert message["data"] | {"jobs": 2, "answered": 2, "spent_usd": 0.02} == message["data"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert SECRET.encode() not in body


async def test_an_end_without_all_answers_is_told_to_the_other_and_again_until_accepted(
    db: Database, receiver: Receiver
) -> None:
    await ended(db, receiver, answered=1)
    receiver.status = 500
    assert await told(db) == 1
    assert await told(db) == 0  # too soon
    query = "SELECT event, deliveries, error FROM batch_webhooks WHERE error IS NOT NULL"
    assert await rows(db, query) == [("failure", 1, "it answered with status 500")]
    await let_time_pass(db)
    receiver.status = 200
    assert await told(db) == 1
    first, second = receiver.calls
    assert first[0]["webhook-id"] == second[0]["webhook-id"]
    counts = json.loads(second[1])["data"]["results"]
    assert counts | {"succeeded": 1, "failed": 1} == counts
    assert await rows(db, query) == []


async def test_a_worker_that_is_killed_while_it_calls_loses_no_end(
    db: Database, database_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ended(db, receiver)
    monkeypatch.setenv("ROUTOO_WEBHOOK_SECRET", SECRET)
    receiver.hangs = True
    dying = await asyncio.create_subprocess_exec(sys.executable, "-c", DYING, database_url)
    async with asyncio.timeout(60):
        await receiver.called.wait()
    dying.kill()
    await dying.wait()
    receiver.hangs = False
    assert await told(db) == 0  # it might still be calling
    await let_time_pass(db)
    assert await told(db) == 1
    first, second = receiver.calls
    assert first[0]["webhook-id"] == second[0]["webhook-id"]
    assert await rows(db, "SELECT count(delivered_at) FROM batch_webhooks") == [(1,)]


async def test_a_batch_that_was_opened_again_tells_its_next_end_too(
    db: Database, receiver: Receiver
) -> None:
    batch_id = await ended(db, receiver, answered=1)
    await told(db)
    async with db.transaction() as conn:
        await retry.reopen(conn, batch_id, {ResultStatus.FAILED}, "again")
    assert await told(db) == 0
    async with db.transaction() as conn:
        again = "UPDATE batches SET status = 'completed', completed_at = now() WHERE id = %s"
        await conn.execute(again, [batch_id])
    assert await told(db) == 1
    assert await told(db) == 0
    assert len({headers["webhook-id"] for headers, _ in receiver.calls}) == 2


async def test_a_failed_batch_is_told_of_once_its_calls_are_settled(
    db: Database, receiver: Receiver
) -> None:
    batch_id = await factory.submit(db, 2, shard_size=4)
    await factory.score(db, batch_id)
    await factory.select(db, batch_id)
    lease = await factory.claim(db, batch_id, Stage.DISPATCH)
    async with db.transaction() as conn:
        await webhooks.add(conn, batch_id, [Webhook(WebhookEvent.FAILURE, receiver.url)])
        await ledger.reserve(conn, lease, [factory.reservation(0, "0.02")])
        await control.fail(conn, batch_id, "no key")
        # As a newer version may have written it.
        await conn.execute("UPDATE batches SET pool = '{}' WHERE id = %s", [batch_id])
    assert await told(db) == 0
    async with db.transaction() as conn:
        await ledger.settle(conn, lease, [factory.attempt(0, "0.01")])
        await shards.finish(conn, lease, shards.HandedBack())
    assert await told(db) == 1
    ((_, body),) = receiver.calls
    facts = json.loads(body)["data"]
    assert facts | {"status": "failed", "error": "no key", "spent_usd": 0.01} == facts


async def test_a_plan_for_another_aim_keeps_the_webhooks(db: Database, receiver: Receiver) -> None:
    source_id = await ended(db, receiver)
    async with db.transaction() as conn:
        source = await batches.get(conn, source_id)
        plan_id = await derive_plan(conn, source, Decimal(1), Objective(), 4)
    query = "SELECT event, url FROM batch_webhooks WHERE batch_id = %s ORDER BY event"
    assert await rows(db, query, plan_id) == await rows(db, query, source_id)


async def test_an_address_gets_into_no_message(db: Database, receiver: Receiver) -> None:
    await ended(db, receiver)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no HTTP\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hidden?token=hidden"
        async with db.transaction() as conn:
            await conn.execute("UPDATE batch_webhooks SET url = %s", [url])
        assert await told(db) == 1
    ((error,),) = await rows(db, "SELECT error FROM batch_webhooks WHERE event = 'success'")
    assert error
    assert "hidden" not in error


async def test_a_call_is_given_up_after_days_or_where_nobody_is_there_any_more(
    db: Database, receiver: Receiver
) -> None:
    await ended(db, receiver)
    receiver.status = 307  # not followed
    for _ in range(len(RETRIES_S) + 3):
        await told(db)
        await let_time_pass(db)
    assert len(receiver.calls) == len(RETRIES_S) + 1
    await ended(db, receiver)
    receiver.status = 410
    for _ in range(2):
        await told(db)
        await let_time_pass(db)
    assert len(receiver.calls) == len(RETRIES_S) + 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"webhook_secret": None}, "ROUTOO_WEBHOOK_SECRET is not set"),
        ({"blocked_networks": BlockedNetworks.parse("private")}, "BLOCKED_NETWORKS"),
    ],
)
async def test_what_may_not_be_called_is_not_and_says_why(
    db: Database, receiver: Receiver, changes: dict[str, Any], words: str
) -> None:
    await ended(db, receiver)
    await told(db, **changes)
    assert not receiver.calls
    ((error,),) = await rows(db, "SELECT error FROM batch_webhooks WHERE event = 'success'")
    assert words in error


def test_a_signature_is_that_of_the_standard_s_own_example() -> None:
    message_id, stamp = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330"
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signatures(SECRET, message_id, stamp, body) == expected
    both = signatures(f"{SECRET} plain", message_id, stamp, body)
    assert both.startswith(f"{expected} v1,")


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("https://example.com/hook?team=1", True),
        ("http://localhost:8000/", True),
        ("http://127.0.0.1/x", True),
        ("http://[::1]:9/x", True),
        ("http://example.com/hook", False),
        ("https://user:secret@example.com/hook", False),
        ("ftp://example.com", False),
        ("https://", False),
        ("https://example.com:port/", False),
        ("https://example.com/a b", False),
        ("nonsense", False),
    ],
)
def test_only_encrypted_addresses_and_this_machine_are_called(url: str, is_allowed: bool) -> None:
    if is_allowed:
        check_webhook_url(url, allow_http=False, where="--on-success")
        return
    with pytest.raises(InputError) as refused:
        check_webhook_url(url, allow_http=False, where="--on-success")
    assert "secret" not in str(refused.value)
    if url.startswith("http://"):
        check_webhook_url(url, allow_http=True, where="--on-success")


async def test_the_beat_submits_what_is_scheduled_and_tells_what_ended(
    db: Database, database_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    await ended(db, receiver)
    (tmp_path / "in.jsonl").write_text('{"prompt": "x"}\n')
    await add_schedule(db, files=str(tmp_path / "*.jsonl"))
    settings = Settings(webhook_secret=SECRET, recovery_interval_s=0.05)  # type: ignore[arg-type]
    with background_ticks(settings, database_url):
        async with asyncio.timeout(60):
            await receiver.called.wait()
            while not await rows(db, "SELECT FROM schedule_batches"):
                await asyncio.sleep(0.05)
    assert len(receiver.calls) == 1


async def test_a_submission_keeps_its_webhooks(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    command = ProducerCommand(database_url, tmp_path)
    (tmp_path / "a.jsonl").write_text('{"prompt": "x"}\n')
    ours = ("--on-success", "https://a.example/x", "--on-failure", "https://b.example/y")
    assert command.run("submit", "a.jsonl", *ours).returncode == 0
    assert await rows(db, "SELECT event, url FROM batch_webhooks ORDER BY event") == [
        ("failure", "https://b.example/y"),
        ("success", "https://a.example/x"),
    ]
    refusal = command.refusal("submit", "a.jsonl", "--on-failure", "http://b.example")
    assert "ROUTOO_WEBHOOK_ALLOW_HTTP" in refusal
