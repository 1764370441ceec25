"""How reports write figures: decimals, signs, intervals, and USD per 1,000 calls."""

import math

from routoo.evaluation.bootstrap import Interval

MISSING = "\u2013"
_THOUSAND_CALLS = 1000


def fixed(value: float, digits: int = 3) -> str:
    """Return a figure with so many decimals; a dash where there is none."""
    if math.isnan(value):
        return MISSING
    return f"{value:.{digits}f}" if math.isfinite(value) else "out of reach"


def signed(value: float, digits: int = 3) -> str:
    """Return a difference with its sign."""
    return f"{value:+.{digits}f}" if math.isfinite(value) else fixed(value)


def percent(value: float, digits: int = 1) -> str:
    """Return a share in per cent."""
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else fixed(value)


def between(interval: Interval, digits: int = 3) -> str:
    """Return an interval's two ends."""
    return f"{fixed(interval.low, digits)} to {fixed(interval.high, digits)}"


def with_interval(interval: Interval, digits: int = 3) -> str:
    """Return a figure and its interval."""
    return f"{fixed(interval.value, digits)} [{between(interval, digits)}]"


def usd_per_thousand(value: float) -> str:
    """Return USD for a thousand calls from USD a call, three digits that count."""
    if math.isnan(value):
        return MISSING
    amount = value * _THOUSAND_CALLS
    if amount == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(amount))))
    return f"{amount:,.{min(digits, 8)}f}"


def seconds(value: float) -> str:
    """Return a time in seconds."""
    return MISSING if math.isnan(value) else f"{value:.3g}"
