"""A scorecard as one HTML page that loads nothing: no script, no font, no picture from elsewhere.

`page.html` is the page's template, `page.css` its style sheet; each kind of plot has a module.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from routoo.evaluation.operating_point import OperatingPoint
from routoo.evaluation.pool_comparison import PoolComparison
from routoo.evaluation.report.bars import domains_section, models_section
from routoo.evaluation.report.expectations import cost_section, reliability_section
from routoo.evaluation.report.frontier import frontier_section, pairs_section
from routoo.evaluation.report.history import history_section
from routoo.evaluation.report.number_format import (
    between,
    fixed,
    percent,
    seconds,
    signed,
    usd_per_thousand,
)
from routoo.evaluation.report.palette import colour_rules
from routoo.evaluation.report.section import Section
from routoo.evaluation.scorecard import Scorecard

_MOST_RUNS = 60


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
        card=card, colours=colour_rules(), tiles=_tiles(card), sections=_sections(card)
    )


def _sections(card: Scorecard) -> list[Section]:
    sections = []
    if card.pool is not None:
        sections.append(frontier_section(card, card.pool))
    if any(row.share for row in card.models):
        sections.append(models_section(card))
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


def _tiles(card: Scorecard) -> list[Tile]:
    tiles = _operating_tiles(card.operating) if card.operating is not None else []
    if card.pool is not None:
        tiles += _pool_tiles(card.pool)
    if "ece" in card.mean:
        ece = card.mean["ece"]
        tiles.append(Tile("Calibration error", fixed(ece.value), between(ece)))
    return tiles


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
