"""Serves the API's description at /docs from files of our own: no foreign assets."""

from pathlib import Path

import swagger_ui_bundle
from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

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
