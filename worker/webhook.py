"""Tells alerts to a URL, signed, until it has taken them.

The signature is an HMAC (RFC 2104) with SHA-256 over the timestamp, a full stop and the body, so
that a receiver can tell ours from others' and an old call from a new one. A crash between a call
and its note in the database repeats the call: run_id, kind and subject tell a repetition.
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
MOST_CALLS = 10
"""Calls for one alert, the waits between them doubling, before it is given up."""
_TIMEOUT_S = 10.0
_TAKEN = 300
"""Answers below this status have taken the alert."""
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
    """Tell the alerts that are due; without a webhook none is.

    Returns:
        How many were taken.
    """
    url, secret = settings.webhook_url, settings.webhook_secret
    if url is None or secret is None:
        return 0
    taken = 0
    async with db.transaction() as conn:
        due = await alerts.undelivered(conn, MOST_CALLS)
        if not due:
            return 0
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for alert in due:
                done = await _call(session, url, secret.get_secret_value(), alert)
                await alerts.count_delivery(conn, alert, taken=done)
                taken += done
    return taken


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
    if status >= _TAKEN:
        _log.warning("webhook.refused", status=status, run=str(alert.run_id))
    return status < _TAKEN


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
