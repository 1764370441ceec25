"""Renders the page's templates, and answers what goes wrong with a page as well.

Everything is escaped: prompts, answers, names and error messages are other people's text. The
policy lets the browser load nothing but files of ours and run no script that stands in a page, so
that text which slipped through could do nothing.
"""

import secrets
import unicodedata
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from producer.gateway.access import require_session
from producer.gateway.errors import ApiError, api_error
from producer.gateway.sessions import Session
from producer.gateway.state import Gateway, gateway_of
from producer.page.charts import bar
from routoo.console import formatting
from routoo.domain.caller import Scope
from routoo.errors import RoutooError
from routoo.evaluation.report import page as report

_FOLDER = Path(__file__).parent
STATIC = _FOLDER / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_UNAUTHORISED = 401
_MOST_CHARACTERS = 20_000
"""Of a text that a page shows; the rest is told, and served by a page of its own."""
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def plain(text: object) -> str:
    """Return text for one line: without control characters and marks that turn its direction."""
    kept = (sign if _is_shown(sign) else "\N{REPLACEMENT CHARACTER}" for sign in str(text))
    return " ".join("".join(kept).split())


def _is_shown(sign: str) -> bool:
    return sign.isspace() or unicodedata.category(sign) not in {"Cc", "Cf", "Cs", "Co", "Cn"}


def sentence(text: object) -> str:
    """Return text for one line that begins and ends as a sentence does."""
    line = plain(text)
    end = "" if not line or line[-1] in ".!?" else "."
    return f"{line[:1].upper()}{line[1:]}{end}"


def long_text(text: object) -> Markup:
    """Return a text of several lines, escaped, with what it leaves out named."""
    whole = str(text).encode("utf-8", "replace").decode()
    shown = "".join(
        sign if sign in "\n\t" or _is_shown(sign) else "\N{REPLACEMENT CHARACTER}"
        for sign in whole[:_MOST_CHARACTERS]
    )
    left = len(whole) - _MOST_CHARACTERS
    note = Markup('<p class="note">{:,} more characters are left out here.</p>').format(left)
    block = Markup('<pre class="text" dir="auto" tabindex="0">{}</pre>').format(shown)
    return block + (note if left > 0 else "")


def usd(amount: Decimal | float | None) -> str:
    """Return an amount of dollars: cents, and more digits where it is small."""
    if amount is None:
        return "\N{EN DASH}"
    value = Decimal(str(amount))
    if abs(value) >= 1:
        return f"${value:,.2f}"
    whole, point, digits = formatting.usd(value).partition(".")
    return f"{whole}.{digits.rstrip('0').ljust(2, '0')}" if point else whole


def ago(instant: datetime | None) -> str:
    """Return how long ago an instant was, in the largest unit that counts."""
    if instant is None:
        return "\N{EN DASH}"
    seconds = (datetime.now(UTC) - instant).total_seconds()
    for unit_s, name in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {name} ago"
    return "just now"


def about(seconds: float | None) -> str:
    """Return a duration as roughly as an estimate is."""
    if seconds is None:
        return "\N{EN DASH}"
    for unit_s, name in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{max(seconds, 1):.0f} s"


def time_element(instant: datetime | None) -> Markup:
    """Return an instant as an element that says it exactly when pointed at."""
    if instant is None:
        return Markup("\N{EN DASH}")
    exact = f"{instant:%Y-%m-%d %H:%M:%S} UTC"
    written = Markup('<time datetime="{}" title="{}">{}</time>')
    return written.format(instant.isoformat(), exact, ago(instant))


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader([_FOLDER / "templates", Path(report.__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "plain": plain,
        "sentence": sentence,
        "long_text": long_text,
        "usd": usd,
        "percent": formatting.percent,
        "duration": formatting.duration,
        "about": about,
        "ago": ago,
        "when": time_element,
        "count": lambda number: f"{number:,}",
        "words": lambda name: str(name).replace("_", " "),
    }
    found.globals["bar"] = bar
    return found


_TEMPLATES = _environment()


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of a browser that was let in."""

    request: Request
    gateway: Gateway
    session: Session

    def page(self, template: str, *, status: int = 200, **values: object) -> HTMLResponse:
        """Return a whole page."""
        return HTMLResponse(self.part(template, **values), status, HEADERS)

    def part(self, template: str, **values: object) -> str:
        """Return a template's text; it may be a part of a page."""
        known = {"visit": self, "csrf_token": self.session.csrf_token}
        return _TEMPLATES.get_template(template).render(**known, **values)

    @property
    def path(self) -> str:
        """Path of the page."""
        return self.request.url.path

    @property
    def is_admin(self) -> bool:
        """Whether the person may see and change everything."""
        return self.session.caller.is_admin

    @property
    def may_submit(self) -> bool:
        """Whether the person may spend money."""
        return self.session.caller.allows(Scope.SUBMIT)


def visit_with(scope: Scope) -> Callable[..., Coroutine[Any, Any, Visit]]:
    """Return a dependency of routes: the visit, of a person who has a scope."""
    let_in = require_session(scope)

    async def visit_of(request: Request, session: Annotated[Session, Depends(let_in)]) -> Visit:
        return Visit(request, gateway_of(request), session)

    return visit_of


Reading = Annotated[Visit, Depends(visit_with(Scope.READ))]
"""A visit that may look at batches."""
Submitting = Annotated[Visit, Depends(visit_with(Scope.SUBMIT))]
"""A visit that may spend money."""
Administering = Annotated[Visit, Depends(visit_with(Scope.ADMIN))]
"""A visit that may look at and change what is everybody's."""


def check_token(visit: Visit, token: object) -> None:
    """Refuse a form that no page of this session made.

    Raises:
        ApiError: It carries another token, or none.
    """
    given = token.encode() if isinstance(token, str) else b""
    if not secrets.compare_digest(given, visit.session.csrf_token.encode()):
        raise ApiError(403, "The form is of another session. Load the page again.")


class PageRoute(APIRoute):
    """A route whose errors are pages: who isn't let in gets to log in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler with errors turned into pages."""
        answer = super().get_route_handler()

        async def answer_with_page(request: Request) -> Response:
            try:
                return await answer(request)
            except ApiError as error:
                if error.status == _UNAUTHORISED:
                    return RedirectResponse("/login", 303, HEADERS)
                return error_page(error.status, error.message)
            except RoutooError as error:
                return error_page(api_error(error).status, str(error))
            except RequestValidationError as error:
                return error_page(404 if _is_address(error) else 400, "This asks for nothing here.")

        return answer_with_page


def _is_address(error: RequestValidationError) -> bool:
    """Return whether the address itself is wrong."""
    return any(one["loc"][0] == "path" for one in error.errors())


def error_page(status: int, message: str) -> HTMLResponse:
    """Return a page that says what went wrong and what to do."""
    text = _TEMPLATES.get_template("error.html").render(status=status, message=message)
    return HTMLResponse(text, status, HEADERS)


def login_page(message: str | None = None, status: int = 200) -> HTMLResponse:
    """Return the form that lets a person in."""
    text = _TEMPLATES.get_template("login.html").render(message=message)
    return HTMLResponse(text, status, HEADERS)
