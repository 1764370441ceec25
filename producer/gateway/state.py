"""What a gateway process works with, for the routes to depend on."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from producer.gateway.live import Live
from producer.gateway.options import GatewayOptions
from producer.gateway.submitter import Submitter
from routoo.settings import Settings
from routoo.store.database import Database
from routoo.store.keys import KeyRecord


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of a running gateway."""

    settings: Settings
    options: GatewayOptions
    database: Database
    submitter: Submitter
    """Reads the rows of batches and submits them."""
    downloads: asyncio.Semaphore
    """Limits the downloads that run at once, because each holds a connection."""
    live: Live
    """Answers single requests."""
    known_keys: dict[str, tuple[float, KeyRecord]] = field(default_factory=dict)
    """Keys that made single calls lately, each with the monotonic time to look it up again."""
    sizes: dict[tuple[str, datetime], int] = field(default_factory=dict)
    """Sizes of the files of results that were counted."""


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that answers a request."""
    gateway: Gateway = request.app.state.gateway
    return gateway


async def _gateway_of(request: Request) -> Gateway:
    """Return the gateway; a coroutine, since FastAPI runs plain functions in threads."""
    return gateway_of(request)


GatewayDep = Annotated[Gateway, Depends(_gateway_of)]
"""Type of a route's parameter that receives the gateway."""


def is_same_origin(request: Request) -> bool:
    """Return whether a request comes from a page of ours, or from no page at all."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
