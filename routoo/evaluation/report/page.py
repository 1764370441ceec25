"""Writes a scorecard as one HTML page that loads nothing: no script, no font, no picture.

`page.html` is the page's template, `page.css` its style sheet, and `chart.css` the one of plots;
each kind of plot has a module.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from routoo.evaluation.operating_point import OperatingPoint
from routoo.evaluation.pool_comparison import PoolComparison
from routoo.evaluation.report.frontier import frontier_section, pairs_section
from routoo.evaluation.report.section import (
    Section,
    between,
    fixed,
    percent,
    seconds,
    signed,
    usd_per_thousand,
)
from routoo.evaluation.report.sections import (
    cost_section,
    decisions_section,
    domains_section,
    history_section,
    models_section,
    reliability_section,
)
from routoo.evaluation.same_cost import SameCost
from routoo.evaluation.scorecard import Scorecard

CHART_RULES = Path(__file__).with_name("chart.css")
"""Style sheet of the plots, which the page beside the API uses too."""
_MOST_RUNS = 60
LIGHT = {
    "page": "#f6f7f9",
    "card": "#ffffff",
    "ink": "#14181f",
    "muted": "#4d5663",
    "grid": "#e3e7ec",
    "frame": "#c9d0d9",
    "s0": "#0a5cad",
    "s1": "#b0480a",
    "s2": "#00705a",
    "s3": "#9a3d87",
    "s4": "#7a5f00",
    "s5": "#5b6573",
}
DARK = {
    "page": "#0e1217",
    "card": "#171c23",
    "ink": "#eceff4",
    "muted": "#aab4c1",
    "grid": "#2a313b",
    "frame": "#3d4653",
    "s0": "#6db3ff",
    "s1": "#ff9d6b",
    "s2": "#43cfae",
    "s3": "#e89fdb",
    "s4": "#e3bf4f",
    "s5": "#a3aebc",
}
TEXT = ("ink", "muted")
"""Colours of text: at least 4.5 to 1 on a card and on the page."""
MARKS = ("s0", "s1", "s2", "s3", "s4", "s5")
"""Colours of marks and lines: at least 3 to 1 on a card."""


def colour_rules() -> str:
    """Return the colours as CSS: light by default, dark where the reader's system asks for it."""
    series = "".join(f".{name}{{--c:var(--{name})}}" for name in MARKS)
    light, dark = _properties(LIGHT), _properties(DARK)
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{series}"


def _properties(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


@dataclass(frozen=True, slots=True)
class Tile:
    """One of the figures at the top of the page."""

    name: str
    value: str
    under: str
    """Its interval, or what it stands beside."""


def render_page(card: Scorecard) -> str:
    """Return the scorecard as one HTML document that needs nothing but itself."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("page.html").render(
        card=card, colours=colour_rules(), tiles=card_tiles(card), sections=card_sections(card)
    )


def card_sections(card: Scorecard) -> list[Section]:
    """Return the sections of a scorecard that were measured, in the order of the page."""
    sections = []
    if card.pool is not None:
        sections.append(frontier_section(card, card.pool))
    if any(row.share for row in card.models):
        sections.append(models_section(card))
    if card.decisions:
        sections.append(decisions_section(card.decisions, card.same_cost))
    if any(one.answers for one in card.reliability):
        sections.append(reliability_section(card))
    if card.domains:
        sections.append(domains_section(card.domains))
    if card.cost_bins:
        sections.append(cost_section(card.cost_bins))
    if card.pool is not None and card.pool.pairs:
        sections.append(pairs_section(card.pool))
    if len(card.history) > 1:
        sections.append(history_section(card.history[-_MOST_RUNS:]))
    return sections


def card_tiles(card: Scorecard) -> list[Tile]:
    """Return the figures at the top of the page."""
    tiles = _operating_tiles(card.operating) if card.operating is not None else []
    if card.pool is not None:
        tiles += _pool_tiles(card.pool)
    if card.same_cost is not None and card.same_cost.best_single is not None:
        tiles.append(_single_tile(card.same_cost))
    if "ece" in card.mean:
        ece = card.mean["ece"]
        tiles.append(Tile("Calibration error", fixed(ece.value), between(ece)))
    return tiles


def _single_tile(same_cost: SameCost) -> Tile:
    gain = same_cost.over_single
    return Tile(
        f"Over {same_cost.best_single}, the best single model at this cost",
        signed(gain.mean),
        f"{signed(gain.low)} to {signed(gain.high)}",
    )


def _operating_tiles(figures: OperatingPoint) -> list[Tile]:
    ungraded = figures.items - figures.graded
    quality, cost = figures.quality, figures.cost_usd
    tiles = [
        Tile(
            "Quality",
            percent(quality.value),
            f"{percent(quality.low)} to {percent(quality.high)}; "
            f"{percent(figures.expected_quality)} expected",
        ),
        Tile(
            "USD per 1,000 calls",
            usd_per_thousand(cost.value),
            f"{usd_per_thousand(cost.low)} to {usd_per_thousand(cost.high)}; "
            f"{usd_per_thousand(figures.expected_cost_usd)} expected",
        ),
    ]
    if ungraded:
        tiles.append(Tile("Items without a grade", f"{ungraded:,}", f"of {figures.items:,}"))
    if not math.isnan(figures.latency_p50_s):
        under = f"95 % within {seconds(figures.latency_p95_s)} s"
        tiles.append(Tile("Median latency, s", seconds(figures.latency_p50_s), under))
    return tiles


def _pool_tiles(pool: PoolComparison) -> list[Tile]:
    first = next(iter(pool.comparisons))
    beside, frontier = pool.comparisons[first], pool.frontiers[first]
    return [
        Tile(
            f"Cost of matching {pool.reference}, of its own",
            percent(beside.cost_ratio.value, 0),
            f"{percent(beside.cost_ratio.low, 0)} to {percent(beside.cost_ratio.high, 0)}",
        ),
        Tile(
            f"Quality at {pool.reference}'s cost",
            signed(beside.gain.value),
            f"{signed(beside.gain.low)} to {signed(beside.gain.high)}",
        ),
        Tile("Gain over the random mix", signed(frontier.gain.value), between(frontier.gain)),
    ]
