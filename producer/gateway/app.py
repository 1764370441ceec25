"""Builds the gateway's application: OpenAI's API, and the page."""

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import swagger_ui_bundle
from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.routing import Route

from producer.gateway import access, batch_actions, batches, chat, files
from producer.gateway.errors import add_error_handlers
from producer.gateway.options import GatewayOptions
from producer.gateway.state import Gateway, GatewayDep, opened_live
from producer.gateway.submitter import Submitter
from producer.gateway.uploads import BodyLimit
from routoo.settings import Settings
from routoo.store.database import Database

_CONNECTIONS = 16
_UPLOADS = frozenset({files.UPLOAD_PATH, "/submit"})
"""Paths whose bodies are files, which have a limit of their own."""
_DOWNLOADS = 6
"""Files of results that are streamed at once: each holds a connection."""


def create_app(settings: Settings, database_url: str, options: GatewayOptions) -> FastAPI:
    """Return the application; it opens the database when it starts.

    Args:
        settings: Those of the deployment.
        database_url: A usable, migrated database.
        options: Pools, limits and who is let in.
    """
    lifespan = partial(_lifespan, settings, database_url, options)
    app = FastAPI(title="Routoo", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.is_stopping = lambda: False  # the server that runs it puts its own here
    app.add_middleware(BodyLimit, most_bytes=options.max_request_bytes, except_paths=_UPLOADS)
    add_error_handlers(app)
    add_docs(app)
    app.add_api_route("/healthz", healthz, include_in_schema=False)
    # The page comes first: it has a better form to log in by.
    app.include_router(importlib.import_module("producer.page.routes").router)
    for part in (access, files, batches, batch_actions, chat):
        app.include_router(part.router)
    # Found first, and without FastAPI's part, which takes longer than the rest of such a request:
    # its own route stays for the description.
    app.router.routes.insert(0, Route(chat.COMPLETIONS_PATH, chat.complete, methods=["POST"]))
    return app


@asynccontextmanager
async def _lifespan(
    settings: Settings, database_url: str, options: GatewayOptions, app: FastAPI
) -> AsyncIterator[None]:
    async with (
        Database(database_url, max_size=_CONNECTIONS) as database,
        opened_live(settings, database) as live,
    ):
        with Submitter(settings, database_url, options) as submitter:
            downloads = asyncio.Semaphore(_DOWNLOADS)
            parts = (database, submitter, downloads, live)
            app.state.gateway = Gateway(settings, options, *parts)
            yield


async def healthz(gateway: GatewayDep) -> JSONResponse:
    """Say that the gateway answers and reaches its database."""
    async with gateway.database.transaction() as conn:
        await conn.execute("SELECT 1")
    return JSONResponse({"status": "ok"})


_ASSETS = "/docs/assets"
_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
)
router = APIRouter(include_in_schema=False)


def add_docs(app: FastAPI) -> None:
    """Add /docs and the files that it shows itself with."""
    folder = next((Path(swagger_ui_bundle.__file__).parent / "vendor").glob("swagger-ui-*"))
    app.mount(_ASSETS, StaticFiles(directory=folder))
    app.include_router(router)


@router.get("/docs")
async def docs() -> HTMLResponse:
    """Show the API's description."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Routoo",
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon-32x32.png",
    )
    page.headers["Content-Security-Policy"] = _POLICY
    return page
