"""Posts alerts to a webhook, signed, until it has accepted them.

The signature is an HMAC (RFC 2104) with SHA-256 over the timestamp, a full stop and the body, so
that a receiver can tell our calls from others' and an old call from a new one. A crash between a
call and its record in the database repeats the call: run_id, kind and subject identify it.
"""

import hashlib
import hmac
import time
from typing import Any

import aiohttp
import orjson
import structlog

from routoo.errors import ConfigError
from routoo.settings import Settings
from routoo.store.database import Database
from routoo.store.evaluation import alerts
from routoo.store.evaluation.alerts import AlertRecord

SIGNATURE = "X-Routoo-Signature"
TIMESTAMP = "X-Routoo-Timestamp"
MAX_CALLS = 10
"""Calls for one alert, the waits between them doubling, before it is given up."""
_TIMEOUT_S = 10.0
_ACCEPTED_BELOW = 300
"""A webhook that answers with a lower status has accepted the alert."""
_log = structlog.get_logger(__name__)


def check_webhook(settings: Settings) -> None:
    """Check that a webhook can be signed.

    Raises:
        ConfigError: There is a URL and no secret.
    """
    if settings.webhook_url is not None and settings.webhook_secret is None:
        raise ConfigError(
            "alerts would go out without a signature",
            where="ROUTOO_WEBHOOK_SECRET",
            remedy="Set it to a secret that the receiver knows, or unset ROUTOO_WEBHOOK_URL",
        )


async def deliver_alerts(db: Database, settings: Settings) -> int:
    """Post the alerts that are due; without a webhook none is.

    Returns:
        How many were accepted.
    """
    url, secret = settings.webhook_url, settings.webhook_secret
    if url is None or secret is None:
        return 0
    accepted = 0
    async with db.transaction() as conn:
        due = await alerts.undelivered(conn, MAX_CALLS)
        if not due:
            return 0
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for alert in due:
                done = await _call(session, url, secret.get_secret_value(), alert)
                await alerts.count_delivery(conn, alert, taken=done)
                accepted += done
    return accepted


async def _call(session: aiohttp.ClientSession, url: str, secret: str, alert: AlertRecord) -> bool:
    body, stamp = orjson.dumps(_facts(alert)), str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        TIMESTAMP: stamp,
        SIGNATURE: sign(secret, stamp, body),
    }
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            status = answer.status
    except (aiohttp.ClientError, TimeoutError) as error:
        _log.warning("webhook.away", reason=type(error).__name__, run=str(alert.run_id))
        return False
    if status >= _ACCEPTED_BELOW:
        _log.warning("webhook.refused", status=status, run=str(alert.run_id))
    return status < _ACCEPTED_BELOW


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature header of a call."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


def _facts(alert: AlertRecord) -> dict[str, Any]:
    return {
        "run_id": str(alert.run_id),
        "kind": alert.kind,
        "subject": alert.subject,
        "message": alert.message,
        "facts": alert.facts,
        "created_at": alert.created_at,
    }
