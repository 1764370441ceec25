"""Runs a real gateway in a thread of the test's process, with a pool of fake models."""

import asyncio
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import uvicorn

from producer.gateway.app import create_app
from producer.gateway.options import GatewayOptions
from routoo.domain.caller import Scope
from routoo.domain.pool import Pool
from routoo.settings import Settings
from routoo.store import keys
from routoo.store.database import Database

NO_BROKER = "redis://127.0.0.1:1/0"


def pool_of(base_url: str = "http://127.0.0.1:1/v1", **prices: str) -> Pool:
    """Return a pool of fake models, each at one price for prompt and completion."""
    models: list[dict[str, Any]] = [
        {
            "name": name,
            "endpoint": {"base_url": base_url, "max_concurrency": 8, "timeout_s": 20},
            "price_usd_per_mtok": {"prompt": price, "completion": price},
            "context_window_tokens": 4096,
            "max_completion_tokens": 20,
        }
        for name, price in (prices or {"small": "1", "large": "10"}).items()
    ]
    return Pool.model_validate({"models": models})


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that answers."""

    url: str
    database_url: str
    options: GatewayOptions
    server: uvicorn.Server

    @property
    def base_url(self) -> str:
        """What clients of OpenAI's API are given."""
        return f"{self.url}/v1"

    def add_key(
        self,
        name: str = "key",
        scopes: Collection[Scope] = (Scope.READ, Scope.SUBMIT),
        usd_per_day: str | None = None,
    ) -> str:
        """Make a key and return it."""
        return self.add_key_with_id(name, scopes, usd_per_day)[0]

    def add_key_with_id(
        self,
        name: str = "key",
        scopes: Collection[Scope] = (Scope.READ, Scope.SUBMIT),
        usd_per_day: str | None = None,
    ) -> tuple[str, UUID]:
        """Make a key and return it with its id."""
        secret = keys.new_secret()
        limit = None if usd_per_day is None else Decimal(usd_per_day)

        async def add() -> UUID:
            async with Database(self.database_url) as db, db.transaction() as conn:
                return await keys.add(conn, name, secret, scopes, limit)

        return secret, asyncio.run(add())


@contextmanager
def running_gateway(
    database_url: str,
    home: Path,
    *,
    pools: Mapping[str, Pool] | None = None,
    checkpoint: Path | None = None,
    **options: Any,
) -> Iterator[RunningGateway]:
    """Yield a gateway on a free port; no broker and no workers are needed."""
    settings = Settings(
        home=home,
        database_url=database_url,
        broker_url=NO_BROKER,
        checkpoint=checkpoint or home / "no-checkpoint",
        ping_timeout_s=0,
    )
    told = GatewayOptions(pools=pools or {"default": pool_of()}, **options)
    app = create_app(settings, database_url, told)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    app.state.is_stopping = lambda: server.should_exit
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Its signal handlers need the main thread: it is asked to stop by `should_exit`.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            port = listener.getsockname()[1]
            yield RunningGateway(f"http://127.0.0.1:{port}", database_url, told, server)
        finally:
            server.should_exit = True
            thread.join()
