"""The whole page."""

import math
from xml.etree.ElementTree import Element

from routoo.evaluation.operating_point import OperatingPoint
from routoo.evaluation.pool_comparison import PoolComparison
from routoo.evaluation.report.breakdown import domains_panel, drift_panel
from routoo.evaluation.report.frontier import frontier_panel
from routoo.evaluation.report.models import models_panel, pairs_panel
from routoo.evaluation.report.number_format import between, fixed, percent, seconds, signed, usd
from routoo.evaluation.report.style import style_sheet
from routoo.evaluation.report.tags import document, tag
from routoo.evaluation.report.trust import cost_panel, reliability_panel
from routoo.evaluation.scorecard import Scorecard

_MOST_RUNS = 60
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser itself refuses whatever the page would load."""


def render_page(card: Scorecard) -> str:
    """Return the scorecard as one HTML document that needs nothing but itself."""
    facts = [tag("li", f"{name} ", tag("b", value)) for name, value in card.facts.items() if value]
    main = tag(
        "main",
        tag("h1", card.title),
        tag("ul", *facts, class_="facts"),
        tag("div", *_tiles(card), class_="tiles"),
        *_panels(card),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", card.title),
        tag("style", style_sheet()),
    )
    return document(tag("html", head, tag("body", main), lang="en"))


def _panels(card: Scorecard) -> list[Element]:
    panels = []
    if card.pool is not None:
        panels.append(frontier_panel(card, card.pool))
    if any(row.share for row in card.models):
        panels.append(models_panel(card))
    if any(one.answers for one in card.reliability):
        panels.append(reliability_panel(card))
    if card.domains:
        panels.append(domains_panel(card.domains))
    if card.cost_bins:
        panels.append(cost_panel(card.cost_bins))
    if card.pool is not None and card.pool.pairs:
        panels.append(pairs_panel(card.pool))
    if len(card.history) > 1:
        panels.append(drift_panel(card.history[-_MOST_RUNS:]))
    return panels


def _tiles(card: Scorecard) -> list[Element]:
    tiles = _operating_tiles(card.operating) if card.operating is not None else []
    if card.pool is not None:
        tiles += _pool_tiles(card.pool)
    if "ece" in card.mean:
        ece = card.mean["ece"]
        tiles.append(_tile("Calibration error", fixed(ece.value), between(ece)))
    return tiles


def _operating_tiles(figures: OperatingPoint) -> list[Element]:
    ungraded = figures.items - figures.graded
    tiles = [
        _tile(
            "Quality",
            percent(figures.quality.value),
            f"{percent(figures.quality.low)} to "
            f"{percent(figures.quality.high)}; {percent(figures.expected_quality)} expected",
        ),
        _tile(
            "USD per 1,000 calls",
            usd(figures.cost_usd.value),
            f"{usd(figures.cost_usd.low)} to "
            f"{usd(figures.cost_usd.high)}; {usd(figures.expected_cost_usd)} expected",
        ),
    ]
    if ungraded:
        tiles.append(_tile("Items without a grade", f"{ungraded:,}", f"of {figures.items:,}"))
    if not math.isnan(figures.latency_p50_s):
        under = f"95 % within {seconds(figures.latency_p95_s)} s"
        tiles.append(_tile("Median latency, s", seconds(figures.latency_p50_s), under))
    return tiles


def _pool_tiles(pool: PoolComparison) -> list[Element]:
    first = next(iter(pool.comparisons))
    beside, frontier = pool.comparisons[first], pool.frontiers[first]
    return [
        _tile(
            f"Cost of matching {pool.reference}, of its own",
            percent(beside.cost_ratio.value, 0),
            f"{percent(beside.cost_ratio.low, 0)} to {percent(beside.cost_ratio.high, 0)}",
        ),
        _tile(
            f"Quality at {pool.reference}'s cost",
            signed(beside.gain.value),
            f"{signed(beside.gain.low)} to {signed(beside.gain.high)}",
        ),
        _tile("Gain over the random mix", signed(frontier.gain.value), between(frontier.gain)),
    ]


def _tile(name: str, value: str, under: str) -> Element:
    parts = [tag("div", name, class_="name"), tag("div", value, class_="value")]
    return tag("div", *parts, tag("div", under, class_="under"), class_="tile")
