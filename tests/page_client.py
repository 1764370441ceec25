"""A browser without a screen: it is let in, reads pages of the gateway and posts its forms."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from producer.gateway.app import create_app
from producer.gateway.options import GatewayOptions
from routoo.settings import Settings
from tests.batch_factory import pool_of


@dataclass(frozen=True)
class PageClient:
    """Somebody who looks at the page."""

    http: httpx2.AsyncClient
    csrf_token: str

    async def read(self, path: str, status: int = 200) -> str:
        """Return a page's text."""
        answer = await self.http.get(path)
        assert answer.status_code == status, (answer.status_code, answer.text[:2000])
        return answer.text

    async def post(self, path: str, status: int = 303, **fields: str) -> httpx2.Response:
        """Post a form of the page, with the token that the page gives it."""
        answer = await self.http.post(path, data={"csrf_token": self.csrf_token, **fields})
        assert answer.status_code == status, (answer.status_code, answer.text[:2000])
        return answer


@asynccontextmanager
async def page_of(
    database_url: str, home: Path, *, key: str | None = None
) -> AsyncIterator[PageClient]:
    """Yield somebody who was let in by the printed URL, or by a key."""
    settings = Settings(
        home=home,
        database_url=database_url,
        broker_url="redis://127.0.0.1:1/0",
        checkpoint=home / "no-checkpoint",
        ping_timeout_s=0,
    )
    options = GatewayOptions(pools={"default": pool_of("small", "large")})
    app = create_app(settings, database_url, options)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://page.test"
        ) as http,
    ):
        if key is None:
            answer = await http.get(f"/login?token={options.sessions.one_time_token}")
        else:
            answer = await http.post("/login", data={"key": key})
        assert answer.status_code == 303
        session = options.sessions.find(answer.cookies["routoo_session"])
        assert session is not None
        yield PageClient(http, session.csrf_token)
