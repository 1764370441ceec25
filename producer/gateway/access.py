"""Checks who asks: programs by their key, browsers by their session.

A program's key may not come from a cookie and a browser's cookie opens no route of the API, so that
a foreign page can't spend money.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from producer.gateway.errors import ApiError
from producer.gateway.sessions import COOKIE, Session
from producer.gateway.state import Gateway, GatewayDep, gateway_of, is_same_origin
from routoo.domain.caller import OPERATOR, Caller, Scope
from routoo.store import keys
from routoo.store.keys import KeyRecord

KNOWN_FOR_S = 5.0
"""How long a key that was revoked may still make single calls, in seconds."""
_MOST_KNOWN = 10_000
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_NO_KEY = (
    "You didn't provide an API key. Send it in the header Authorization: Bearer KEY; "
    "`routoo-producer key add NAME` makes one."
)
_LOGIN_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Routoo</title>
<h1>Routoo</h1><form method="post" action="/login"><p><label>Key
<input type="password" name="key" autocomplete="current-password" required></label>
<button>Log in</button></p></form><p>Or open the URL that <code>routoo-producer serve</code>
printed; it works once.</p></html>"""

router = APIRouter(include_in_schema=False)


def require(scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """Return a dependency of API routes: who asks, by the key in the header Authorization.

    The dependency raises `ApiError`: 401 without a key that works, 403 where it lacks the scope.
    """

    async def caller_of(request: Request) -> Caller:
        if gateway_of(request).options.without_keys:
            _refuse_browsers(request)
        caller = await _caller_by_key(gateway_of(request), _bearer(request))
        _check_scope(caller, scope)
        return caller

    return caller_of


async def key_of(request: Request, scope: Scope) -> KeyRecord | None:
    """Return the key of a single call, None for the operator: at most some seconds old.

    Raises:
        ApiError: As the dependency of `require` does.
    """
    gateway, secret = gateway_of(request), _bearer(request)
    if gateway.options.without_keys:
        _refuse_browsers(request)
        return None
    found = gateway.known_keys.get(secret or "")
    if found is None or found[0] < time.monotonic():
        key = await _recognise(gateway, secret)
        if len(gateway.known_keys) >= _MOST_KNOWN:
            gateway.known_keys.clear()
        found = gateway.known_keys[secret or ""] = (time.monotonic() + KNOWN_FOR_S, key)
    _check_scope(found[1].caller, scope)
    return found[1]


def require_session(scope: Scope) -> Callable[[Request], Awaitable[Session]]:
    """Return a dependency of the page's routes: the browser's session.

    The dependency raises `ApiError`: 401 without a session, 403 where it lacks the scope or where
    another site's page asks for a change. Beside it, a form that changes something must carry the
    session's `csrf_token`, which the route checks.
    """

    async def session_of(request: Request) -> Session:
        gateway = gateway_of(request)
        session = gateway.options.sessions.find(request.cookies.get(COOKIE))
        if session is None or not await still_works(gateway, session):
            raise ApiError(401, "Log in first, at /login.")
        if request.method not in _SAFE_METHODS and not is_same_origin(request):
            raise ApiError(403, "The request comes from another site's page.")
        _check_scope(session.caller, scope)
        return session

    return session_of


@router.get("/login")
async def log_in_by_url(gateway: GatewayDep, token: str | None = None) -> Response:
    """Let a browser in that opens the printed URL, once; without a token show the form."""
    if token is None:
        return HTMLResponse(_LOGIN_PAGE)
    if not gateway.options.sessions.redeem(token):
        raise ApiError(401, "This URL was used before. Restart the gateway, or log in with a key.")
    return _let_in(gateway, OPERATOR)


@router.post("/login")
async def log_in_by_key(
    request: Request, gateway: GatewayDep, key: Annotated[str, Form()]
) -> Response:
    """Let a browser in whose person knows a key."""
    if not is_same_origin(request):
        raise ApiError(403, "The request comes from another site's page.")
    return _let_in(gateway, await _caller_by_key(gateway, key))


@router.post("/logout")
async def log_out(request: Request, gateway: GatewayDep) -> Response:
    """End the browser's session."""
    if is_same_origin(request) and COOKIE in request.cookies:
        gateway.options.sessions.close(request.cookies[COOKIE])
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE)
    return response


def _let_in(gateway: Gateway, caller: Caller) -> Response:
    response = RedirectResponse("/", status_code=303)
    cookie = gateway.options.sessions.open(caller)
    response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict")
    return response


def _bearer(request: Request) -> str | None:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" and secret.strip() else None


async def _caller_by_key(gateway: Gateway, secret: str | None) -> Caller:
    if gateway.options.without_keys:
        return OPERATOR
    return (await _recognise(gateway, secret)).caller


async def _recognise(gateway: Gateway, secret: str | None) -> KeyRecord:
    if secret is None:
        raise ApiError(401, _NO_KEY, headers={"WWW-Authenticate": "Bearer"})
    async with gateway.database.transaction() as conn:
        key = await keys.recognise(conn, secret)
    if key is None:
        message = "Incorrect API key provided: it is unknown here, or was revoked."
        headers = {"WWW-Authenticate": "Bearer"}
        raise ApiError(401, message, code="invalid_api_key", headers=headers)
    return key


async def still_works(gateway: Gateway, session: Session) -> bool:
    """Return whether the key that opened a session was not revoked; the operator has none."""
    key_id = session.caller.key_id
    if key_id is None:
        return True
    async with gateway.database.transaction() as conn:
        return await keys.is_valid(conn, key_id)


def _refuse_browsers(request: Request) -> None:
    """Refuse what a web page asks for where no key is needed: it is not its visitor who asks."""
    if "origin" in request.headers or "sec-fetch-site" in request.headers:
        raise ApiError(403, "Without keys the API answers programs alone, and no web page.")


def _check_scope(caller: Caller, scope: Scope) -> None:
    if not caller.allows(scope):
        raise ApiError(
            403,
            f"The key {caller.name} lacks the scope {scope}. Make one that has it with "
            f"`routoo-producer key add NAME --scope {scope}`.",
            code="missing_scope",
        )
