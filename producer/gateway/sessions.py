"""Lets browsers in: a one-time token in the printed URL, or a key, opens a session.

Sessions live in the memory of the process: after a restart a browser comes in anew.
"""

import hashlib
import secrets
import time
from dataclasses import dataclass, field

from routoo.domain.caller import Caller

COOKIE = "routoo_session"
_LASTS_S = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that was let in."""

    caller: Caller
    csrf_token: str
    """What a form must carry to change something."""
    ends_at_s: float
    """By the monotonic clock."""


@dataclass(slots=True)
class Sessions:
    """The sessions of one process, under the hashes of their cookies."""

    one_time_token: str | None = field(default_factory=lambda: secrets.token_urlsafe(32))
    """What the printed URL holds; None once it was used."""
    _sessions: dict[str, Session] = field(default_factory=dict)

    def redeem(self, token: str) -> bool:
        """Return whether a token is the one-time token, which it uses up."""
        expected = self.one_time_token
        if expected is None or not secrets.compare_digest(token.encode(), expected.encode()):
            return False
        self.one_time_token = None
        return True

    def open(self, caller: Caller) -> str:
        """Open a session and return its cookie's value."""
        now_s = time.monotonic()
        for key in [key for key, one in self._sessions.items() if one.ends_at_s <= now_s]:
            del self._sessions[key]
        cookie = secrets.token_urlsafe(32)
        csrf_token = secrets.token_urlsafe(32)
        self._sessions[_hash(cookie)] = Session(caller, csrf_token, now_s + _LASTS_S)
        return cookie

    def find(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie, None where it has none or it is over."""
        session = None if cookie is None else self._sessions.get(_hash(cookie))
        return session if session is not None and session.ends_at_s > time.monotonic() else None

    def close(self, cookie: str) -> None:
        """End a session."""
        self._sessions.pop(_hash(cookie), None)


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
