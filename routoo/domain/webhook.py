"""Webhooks of batches: what they are told of, and which addresses they may have."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from routoo.domain.networks import is_loopback
from routoo.errors import InputError

_LONGEST_URL = 2_000


class WebhookEvent(StrEnum):
    """How a batch ended."""

    SUCCESS = "success"
    """Every job has an answer."""
    FAILURE = "failure"
    """The batch failed, was cancelled, or ended with jobs without an answer."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that is told of an end of a batch."""

    event: WebhookEvent
    url: str


def webhooks_of(
    on_success: Iterable[str] | None, on_failure: Iterable[str] | None
) -> tuple[Webhook, ...]:
    """Return who is told that every job has an answer, and who of any other end, by address."""
    urls = {WebhookEvent.SUCCESS: on_success, WebhookEvent.FAILURE: on_failure}
    return tuple(Webhook(event, url) for event, found in urls.items() for url in found or ())


def check_webhook_url(url: str, *, allow_http: bool, where: str) -> None:
    """Check that a webhook's address may be called.

    Args:
        url: The address.
        allow_http: Whether other machines may be called without encryption.
        where: The option that it is from.

    Raises:
        InputError: It is no address, holds a password, or is not encrypted and of another machine.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    # Whatever is wrong, the address may hold a secret, so it is not shown.
    if not host or parts.scheme not in {"http", "https"} or len(url) > _LONGEST_URL:
        what, remedy = "this is no address of a webhook", "Give https://HOST/PATH"
        raise InputError(what, where=where, remedy=remedy)
    if parts.username is not None or not url.isascii() or not url.isprintable() or " " in url:
        what = "the address holds a password or characters that can't be sent"
        remedy = "Leave them out: the receiver knows us by the signature"
        raise InputError(what, where=where, remedy=remedy)
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        what = "the address of another machine is not encrypted"
        remedy = "Give an https one, or set ROUTOO_WEBHOOK_ALLOW_HTTP=true"
        raise InputError(what, value=host, where=where, remedy=remedy)
