"""An account as JSON, and back."""

from dataclasses import asdict
from typing import Any

from routoo.limits.account import Account, Seat
from routoo.limits.breaker import Breaker
from routoo.limits.window import Window


def account_to_json(account: Account) -> dict[str, Any]:
    """Return an account as plain values."""
    return asdict(account)


def account_of_json(stored: dict[str, Any], span_s: float) -> Account:
    """Return the account that was stored; windows of another length start anew."""
    stored = {key: value for key, value in stored.items() if key != "span_s"}
    requests, tokens = Window(**stored.pop("requests")), Window(**stored.pop("tokens"))
    seats = {owner: Seat(**seat) for owner, seat in stored.pop("seats").items()}
    account = Account(span_s, seats=seats, **stored | {"breaker": Breaker(**stored["breaker"])})
    if requests.span_s == span_s:
        account.requests, account.tokens = requests, tokens
    return account
