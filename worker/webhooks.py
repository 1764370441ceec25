"""Tells webhooks how batches ended and what evaluation runs warn of, each at least once.

Calls are signed, and made again until they are accepted. Each is counted in a transaction that ends
before it is made: nothing is locked while a receiver takes its time.

The scheme is that of Standard Webhooks (standardwebhooks.com, version 1): the headers `webhook-id`,
`webhook-timestamp` and `webhook-signature`, an HMAC-SHA256 of id, timestamp and body.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import orjson
import structlog
from multidict import CIMultiDict
from psycopg import AsyncConnection
from yarl import URL

from routoo.client.access import Access
from routoo.client.http import HttpClient, HttpTarget
from routoo.domain.job import BatchStatus, ResultStatus
from routoo.domain.webhook import WebhookEvent, check_webhook_url
from routoo.errors import ConfigError, DatabaseUnavailableError, EndpointError, InputError
from routoo.settings import Settings
from routoo.store import webhooks
from routoo.store.batches.progress import progress
from routoo.store.database import Database
from routoo.store.evaluation import alerts
from routoo.store.evaluation.alerts import AlertRecord
from routoo.store.webhooks import DueWebhook

RETRIES_S = (30.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Waits after calls that were not accepted, in seconds; after the last one it is given up. The
first is longer than a call can take, so that no other worker calls meanwhile."""
_TIMEOUT_S = 10.0
_MOST_BYTES = 64 * 1024
_ACCEPTED = range(200, 300)
_GONE = 410
_LOOK_EVERY_S = 1.0
_LONGEST_ERROR = 500
_ADDRESS = re.compile(r"https?://[^\s'\"<>]+")
_KEY_MARK = "whsec_"
_NO_SECRET = "ROUTOO_WEBHOOK_SECRET is not set where the beat runs"  # noqa: S105 - a message
_log = structlog.get_logger(__name__)


class _Note(Protocol):
    """Notes in the database why a call was not accepted, None where it was."""

    async def __call__(
        self, conn: AsyncConnection, *, error: str | None, gives_up: bool
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class _Message:
    """What an address is told, by a call that the database has counted."""

    id: str
    """The same for every call of one message."""
    url: str
    allow_http: bool
    """Whether it may be another machine's and not encrypted."""
    body: bytes
    about: Mapping[str, str]
    """What the log says of it."""
    note: _Note


def check_webhook(settings: Settings) -> None:
    """Check that alerts can be signed and have an address; it is the operator's, and may be http.

    Raises:
        ConfigError: There is a URL for them and no secret.
        InputError: It is no URL.
    """
    if settings.webhook_url is None:
        return
    check_webhook_url(settings.webhook_url, allow_http=True, where="ROUTOO_WEBHOOK_URL")
    if settings.webhook_secret is None:
        raise ConfigError(
            "alerts would go out without a signature",
            where="ROUTOO_WEBHOOK_SECRET",
            remedy="Set it to a secret that the receiver knows, or unset ROUTOO_WEBHOOK_URL",
        )


async def deliver_forever(db: Database, settings: Settings) -> None:
    """Tell webhooks about batches and runs within seconds of their end."""
    async with (
        HttpClient(max_bytes=_MOST_BYTES, blocked=settings.blocked_networks) as http,
        HttpClient(max_bytes=_MOST_BYTES) as ours,
    ):
        while True:
            wait_s = _LOOK_EVERY_S
            try:
                while await deliver_alerts(db, settings, ours) + await deliver(db, settings, http):
                    pass
            except DatabaseUnavailableError:
                pass
            except Exception:  # noqa: BLE001 - the beat's other work goes on
                _log.exception("webhooks.failed")
                wait_s = settings.recovery_interval_s
            await asyncio.sleep(wait_s)


async def deliver(db: Database, settings: Settings, http: HttpClient) -> int:
    """Call the webhooks of batches that are due.

    Returns:
        How many were called.
    """
    async with db.transaction() as conn:
        found = [await _claimed(conn, settings, due) for due in await webhooks.lock_due(conn)]
    return await _call_all(db, settings, http, [one for one in found if one is not None])


async def deliver_alerts(db: Database, settings: Settings, http: HttpClient) -> int:
    """Post the alerts that are due; without ROUTOO_WEBHOOK_URL none is.

    Returns:
        How many were posted.
    """
    if settings.webhook_url is None:
        return 0
    async with db.transaction() as conn:
        due = await alerts.lock_due(conn)
        for alert in due:
            await alerts.claim(conn, alert, retry_s=_retry_s(alert.deliveries))
    messages = [_of_alert(alert, settings.webhook_url) for alert in due]
    return await _call_all(db, settings, http, messages)


async def _call_all(
    db: Database, settings: Settings, http: HttpClient, messages: Sequence[_Message]
) -> int:
    """Make the calls of messages; a process that dies here has counted them, and they are repeated.

    Returns:
        How many were made.
    """
    await asyncio.gather(*(_call(db, settings, http, message) for message in messages))
    return len(messages)


async def _claimed(conn: AsyncConnection, settings: Settings, due: DueWebhook) -> _Message | None:
    """Return what a webhook is to be told; None where this end is not what it is for."""
    facts = await _facts(conn, due)
    if facts is None:
        await webhooks.pass_over(conn, due)
        return None
    await webhooks.claim(conn, due, retry_s=_retry_s(due.deliveries))
    return _Message(
        due.message_id,
        due.url,
        allow_http=settings.webhook_allow_http,
        body=orjson.dumps(facts, default=float),
        about={"batch": str(due.batch_id)},
        note=partial(webhooks.note_answer, due=due),
    )


def _of_alert(alert: AlertRecord, url: str) -> _Message:
    facts = {
        "type": f"alert.{alert.kind}",
        "timestamp": alert.created_at,
        "data": {
            "run_id": str(alert.run_id),
            "kind": alert.kind,
            "subject": alert.subject,
            "message": alert.message,
            "facts": alert.facts,
        },
    }
    return _Message(
        alert.message_id,
        url,
        allow_http=True,
        body=orjson.dumps(facts),
        about={"run": str(alert.run_id), "alert": alert.kind},
        note=partial(alerts.note_answer, alert=alert),
    )


def _retry_s(deliveries: int) -> float | None:
    return RETRIES_S[deliveries] if deliveries < len(RETRIES_S) else None


async def _facts(conn: AsyncConnection, due: DueWebhook) -> dict[str, Any] | None:
    now = await progress(conn, due.batch_id)
    answered = now.results[ResultStatus.SUCCEEDED]
    succeeded = now.status is BatchStatus.COMPLETED and answered == now.jobs
    if succeeded != (due.event is WebhookEvent.SUCCESS):
        return None
    return {
        "type": "batch.succeeded" if succeeded else "batch.failed",
        "timestamp": due.ended_at,
        "data": {
            "batch_id": str(due.batch_id),
            "name": due.name,
            "status": now.status,
            "error": None if now.error is None else now.error[:_LONGEST_ERROR],
            "jobs": now.jobs,
            "answered": answered,
            "results": {str(status): count for status, count in now.results.items()},
            "spent_usd": now.balance.spent_usd + now.balance.overrun_usd,
            "budget_usd": now.balance.limit_usd,
            "created_at": due.created_at,
            "completed_at": due.ended_at,
        },
    }


async def _call(db: Database, settings: Settings, http: HttpClient, message: _Message) -> None:
    error, gives_up = await _post(settings, http, message)
    async with db.transaction() as conn:
        await message.note(conn, error=error, gives_up=gives_up)
    if error is not None:
        # The address may hold a token, so only its host is logged.
        host = URL(message.url).host
        _log.warning("webhook.refused", **message.about, host=host, reason=error)


async def _post(settings: Settings, http: HttpClient, message: _Message) -> tuple[str | None, bool]:
    """Return why a webhook did not accept a call, None where it did, and whether it never will."""
    if settings.webhook_secret is None:
        return _NO_SECRET, False
    try:
        check_webhook_url(message.url, allow_http=message.allow_http, where="webhook")
        target = _target(message, settings.webhook_secret.get_secret_value())
        reply = await http.send(target, message.body, timeout_s=_TIMEOUT_S)
    except (EndpointError, InputError) as error:
        # What the receiver answered with may be quoted with the address, which may hold a token.
        what = _ADDRESS.sub(str(URL(message.url, encoded=True).host), error.what)
        return what[:_LONGEST_ERROR], isinstance(error, InputError)
    if reply.status in _ACCEPTED:
        return None, False
    return f"it answered with status {reply.status}", reply.status == _GONE


def _target(message: _Message, secrets: str) -> HttpTarget:
    stamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message.id,
        "webhook-timestamp": stamp,
        "webhook-signature": signatures(secrets, message.id, stamp, message.body),
    }
    url = URL(message.url, encoded=True)
    access = Access({}, None, None, None)
    return HttpTarget(url, CIMultiDict(headers), access, f"webhook at {url.host}")


def signatures(secrets: str, message_id: str, timestamp: str, body: bytes) -> str:
    """Return the signatures of a message, with a space between them.

    Args:
        secrets: One or, while one is changed for another, several with spaces between them: a text,
            or `whsec_` and the key in base64.
        message_id: The header `webhook-id`.
        timestamp: The header `webhook-timestamp`, in seconds since the epoch.
        body: The message.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.new(_key(one), signed, hashlib.sha256).digest() for one in secrets.split())
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def _key(secret: str) -> bytes:
    if secret.startswith(_KEY_MARK):
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(secret.removeprefix(_KEY_MARK), validate=True)
    return secret.encode()
