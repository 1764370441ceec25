"""The records of a section of the page, which `page.html` turns into HTML, and their figures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from routoo.evaluation.bootstrap import Interval
from routoo.evaluation.report.plot import Plot

NARROW_PX, WIDE_PX = 328, 880
"""Widths that plots are drawn at: text in a picture grows and shrinks with it, so that one drawing
can't suit a phone and a desk."""
MISSING = "\u2013"
_THOUSAND_CALLS = 1000


def fixed(value: float, digits: int = 3) -> str:
    """Return a figure with so many decimals; a dash where there is none."""
    if math.isnan(value):
        return MISSING
    return f"{value:.{digits}f}" if math.isfinite(value) else "out of reach"


def signed(value: float) -> str:
    """Return a difference with its sign, to three decimals."""
    return f"{value:+.3f}" if math.isfinite(value) else fixed(value)


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


@dataclass(frozen=True, slots=True)
class FigureTable:
    """The figures of a section, as text."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    """The first cell names the row."""
    is_folded: bool = True
    """Whether the table stands behind a plot and opens on demand."""
    name: str = ""
    """What screen readers call it; the section's title where empty."""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One line of a plot's legend."""

    kind: str
    """CSS classes of the mark."""
    name: str

    @property
    def is_dot(self) -> bool:
        """Whether the mark is a dot and not a line."""
        return bool({"dot", "open"} & set(self.kind.split()))


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure of a section: a plot, or two drawings of it for narrow and wide screens."""

    svg: Markup
    title: str = ""
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A section: what it says, how it looks, and its figures."""

    title: str
    text: str
    table: FigureTable
    pictures: Sequence[Picture] = ()
    layout: str = ""
    """CSS class of the box around several pictures; none where empty."""
    legend: Sequence[LegendEntry] = ()
    note: str = ""


def both_widths(draw: Callable[[int], Plot]) -> Picture:
    """Return a picture drawn for a phone and for a desk; the page shows the one that fits."""
    return Picture(draw(NARROW_PX).svg("narrow") + draw(WIDE_PX).svg("wide"))
