"""The records of a section of the page, which `page.html` turns into HTML."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from routoo.evaluation.report.plot import Plot

NARROW_PX, WIDE_PX = 328, 880
"""Widths that plots are drawn at: text in a picture grows and shrinks with it, so that one drawing
can't suit a phone and a desk."""


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
