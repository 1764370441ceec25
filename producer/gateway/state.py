"""What a gateway process works with, for the routes to depend on, and how it is kept fresh."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, Request

from producer.gateway.live_calls import CallLedger, LiveCaller
from producer.gateway.live_choice import Chooser, LivePredictor
from producer.gateway.options import GatewayOptions
from producer.gateway.submitter import Submitter
from routoo.client.endpoints import ChatEndpoints
from routoo.client.http import HttpClient
from routoo.domain.pool import Pool
from routoo.domain.prediction import Experience
from routoo.errors import RoutooError
from routoo.pipeline.score import PredictorCache
from routoo.pipeline.select.experience import load_experience
from routoo.settings import Settings
from routoo.store import endpoints
from routoo.store.database import Database
from routoo.store.endpoints import DatabaseLimits
from routoo.store.keys import KeyRecord

_REFRESH_S = 15.0
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Live:
    """The parts of a gateway that answer single requests."""

    database: Database
    client: ChatEndpoints
    chooser: Chooser
    caller: LiveCaller
    _experience: dict[tuple[str, ...], tuple[Pool, Experience]] = field(default_factory=dict)

    async def experience_of(self, pool: Pool) -> Experience:
        """Return what is known of a pool's models; read at first, then kept fresh by `refresh`."""
        known = self._experience.get(pool.names)
        if known is None:
            known = await self._load(pool)
        return known[1]

    async def _load(self, pool: Pool) -> tuple[Pool, Experience]:
        async with self.database.transaction() as conn:
            found = (pool, await load_experience(conn, pool))
        self._experience[pool.names] = found
        return found

    async def refresh(self) -> None:
        """Read again what is known, now and then; ends only when cancelled."""
        while True:
            try:
                await self._exchange_behaviour()
                for pool, _ in list(self._experience.values()):
                    await self._load(pool)
            except RoutooError as error:
                _log.warning("gateway.not_refreshed", reason=str(error))
            await asyncio.sleep(_REFRESH_S)

    async def _exchange_behaviour(self) -> None:
        """Tell the other processes what endpoints were found to do, and learn it from them."""
        known = self.client.behaviour
        unsaved = dict(known.unsaved)
        async with self.database.transaction() as conn:
            if unsaved:
                await endpoints.save_behaviour(conn, unsaved)
            stored = await endpoints.load_behaviour(conn)
        known.saved(unsaved)
        known.update(stored)


@asynccontextmanager
async def opened_live(settings: Settings, database: Database) -> AsyncIterator[Live]:
    """Yield the parts; calls that ended are settled before the block's end returns."""
    ledger = CallLedger(database)
    limits = DatabaseLimits(database)
    http = HttpClient(max_bytes=settings.max_answer_bytes, blocked=settings.blocked_networks)
    async with ChatEndpoints(limits=limits, http=http) as client:
        threads = settings.scoring_threads
        predictor = LivePredictor(PredictorCache(database, settings.checkpoint, threads=threads))
        chooser = Chooser(predictor, client.behaviour)
        live = Live(database, client, chooser, LiveCaller(client, ledger))
        tasks = [asyncio.create_task(ledger.run()), asyncio.create_task(live.refresh())]
        try:
            yield live
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await ledger.flush()
            predictor.close()


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
