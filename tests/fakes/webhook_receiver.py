"""A receiver of webhooks on a socket, which keeps what it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Receiver:
    """What was told, and what is answered."""

    status: int = 204
    calls: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """Headers and body of each call."""
    url: str = ""
    hangs: bool = False
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        self.calls.append(({**request.headers}, await request.read()))
        self.called.set()
        if self.hangs:
            await asyncio.sleep(60)
        headers = {"Location": self.url} if self.status == 307 else {}
        return web.Response(status=self.status, headers=headers)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Serve a receiver while the block runs."""
    found, app = Receiver(), web.Application()
    app.router.add_post("/told", found.take)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/told"
    try:
        yield found
    finally:
        await runner.cleanup()
