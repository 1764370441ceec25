"""Parts of the page: a heading, pictures, and the table behind them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from routoo.evaluation.report.tags import Child, tag

NARROW_PX, WIDE_PX = 328, 880
"""Widths that plots are drawn at: text in a picture grows and shrinks with it, so that one drawing
can't suit a phone and a desk."""


@dataclass(frozen=True, slots=True)
class Table:
    """Figures behind a plot."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    """The first cell names the row."""


def panel(
    title: str, lead: str, pictures: Iterable[Element], table: Table, note: str = ""
) -> Element:
    """Return a section: what it says, how it looks, and its figures."""
    parts: list[Child] = [tag("h2", title), tag("p", lead, class_="lead"), *pictures]
    if note:
        parts.append(tag("p", note, class_="note"))
    return tag("section", *parts, behind(table, title))


def behind(table: Table, title: str) -> Element:
    """Return a table that opens on demand and scrolls within itself where it is too wide."""
    head = tag("tr", *(tag("th", name, scope="col") for name in table.columns))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in table.rows
    ]
    whole = tag("table", tag("thead", head), tag("tbody", *body))
    scroll = tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=title)
    return tag("details", tag("summary", "Figures behind this plot"), scroll)


def both_widths(draw: Callable[[int], Element]) -> Element:
    """Return a picture drawn for a phone and for a desk; the page shows the one that fits."""
    narrow, wide = draw(NARROW_PX), draw(WIDE_PX)
    narrow.set("class", "narrow")
    wide.set("class", "wide")
    return tag("figure", narrow, wide)


def key(entries: Sequence[tuple[str, str]]) -> Element:
    """Return the legend of lines: each one's classes and name."""
    return tag("ul", *(_entry(kind, name) for kind, name in entries), class_="key")


def _entry(kind: str, name: str) -> Element:
    shape = (
        tag("circle", cx=13, cy=6, r=5, class_=kind)
        if {"dot", "open"} & set(kind.split())
        else tag("line", x1=1, y1=6, x2=25, y2=6, class_=f"line {kind}")
    )
    swatch = tag("svg", shape, class_="swatch", aria_hidden="true", viewBox="0 0 26 12")
    return tag("li", swatch, name)
