"""Writes a scorecard as one HTML page that loads nothing: no script, no font, no picture.

`page.html` is the page's template, `page.css` its style sheet, and `chart.css` the one of plots;
each kind of plot has a module.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from routoo.evaluation.operating_point import OperatingPoint, SameCost
from routoo.evaluation.pool_comparison import (
    ORACLE,
    RANDOM_MIX,
    ROUND_ROBIN,
    Frontier,
    PoolComparison,
)
from routoo.evaluation.report.cascade_section import cascade_sections
from routoo.evaluation.report.plot import Plot, Point, plot_area
from routoo.evaluation.report.section import (
    MISSING,
    FigureTable,
    LegendEntry,
    Section,
    between,
    both_widths,
    fixed,
    percent,
    seconds,
    signed,
    usd_per_thousand,
    with_interval,
)
from routoo.evaluation.report.sections import (
    budgets_section,
    cost_section,
    decisions_section,
    domains_section,
    history_section,
    models_section,
    reliability_section,
)
from routoo.evaluation.scorecard import Scorecard
from routoo.statistics import Hull

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
        sections.append(budgets_section(card.pool))
    if card.cascade is not None:
        sections += cascade_sections(card.cascade)
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


_MIX_POINTS = 80
_KINDS = {ORACLE: "s5 dotted", RANDOM_MIX: "s1 dashed", ROUND_ROBIN: "s4 mixed"}
_PHONE_PX = 500
"""Below this width a picture stands upright."""
_OTHERS = ("s2 short", "s3 mixed", "s2 dotted", "s3 dashed")


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    kind: str
    points: list[Point]


def frontier_section(card: Scorecard, pool: PoolComparison) -> Section:
    """Return the plot of quality over cost with its table."""
    lines = _lines(pool)
    low, high = (usd_per_thousand(cost) for cost in pool.cost_range_usd)
    return Section(
        "Quality for money",
        f"Mean quality over mean cost, on the {pool.items:,} items that all models answered. "
        "Further up and further left is better; the shade is the router's 95 % interval.",
        _table(pool),
        [both_widths(lambda width: _draw(card, pool, lines, width))],
        legend=_legend(lines),
        note="Gain is quality above the random mix at the same cost, mean over the budgets; "
        f"headroom its share of the oracle's. AIQ covers {low} to {high} USD per 1,000 calls. The "
        f"last three columns stand beside {pool.reference}.",
    )


def pairs_section(pool: PoolComparison) -> Section:
    """Return the table of APGR and CPT; three figures a router need no plot."""
    rows = [
        (
            _label(name),
            with_interval(one.apgr),
            with_interval(one.cpt50),
            with_interval(one.cpt80),
        )
        for name, one in pool.pairs.items()
    ]
    return Section(
        "One weak and one strong model",
        f"{pool.weak} answers unless the router expects enough of {pool.strong}. APGR is the "
        "mean share of the gap recovered over all shares of strong calls (0.5 by chance); CPT "
        "the least share of strong calls that recovers half, or 80 %, of it.",
        FigureTable(
            ("routed by", "APGR", "CPT(50 %)", "CPT(80 %)"),
            rows,
            is_folded=False,
            name="APGR and CPT",
        ),
    )


def _label(name: str) -> str:
    """Return a router's name for readers."""
    return name.replace("_", " ")


def _lines(pool: PoolComparison) -> list[_Line]:
    others = iter(_OTHERS)
    lines = [_Line(RANDOM_MIX, _KINDS[RANDOM_MIX], _mix(pool))]
    for number, (name, frontier) in enumerate(pool.frontiers.items()):
        kind = _KINDS.get(name) or ("s0 main" if number == 0 else next(others, "s5 short"))
        lines.append(_Line(name, kind, _points(frontier)))
    return lines


def _points(frontier: Frontier) -> list[Point]:
    pairs = zip(frontier.cost_usd.tolist(), frontier.quality.tolist(), strict=True)
    return sorted(pairs)


def _mix(pool: PoolComparison) -> list[Point]:
    costs = np.array([single.cost_usd for single in pool.singles])
    hull = Hull.over(costs, np.array([single.quality.value for single in pool.singles]))
    at = np.linspace(hull.cost_usd[0], hull.cost_usd[-1], _MIX_POINTS)
    if costs.min() > 0:
        at = np.geomspace(hull.cost_usd[0], hull.cost_usd[-1], _MIX_POINTS)
    return list(zip(at.tolist(), hull.quality_at(at).tolist(), strict=True))


def _draw(card: Scorecard, pool: PoolComparison, lines: list[_Line], width: int) -> Plot:
    plot = _empty_plot(pool, lines, width)
    plot.draw_axes("USD per 1,000 calls", "quality", _usd_tick, lambda value: f"{value:.2g}")
    frontier = next(iter(pool.frontiers.values()))
    order = np.argsort(frontier.cost_usd)
    costs = frontier.cost_usd[order].tolist()
    low = list(zip(costs, frontier.low[order].tolist(), strict=True))
    plot.band(low, list(zip(costs, frontier.high[order].tolist(), strict=True)), "s0")
    for line in reversed(lines):
        plot.curve(line.points, line.kind)
    at = _operating_point(card, plot)
    if at is not None:
        plot.diamond(at, "dot s0", "the router at its operating point")
    _draw_singles(plot, pool)
    if at is not None:
        plot.label(at, "router", "strong")
    _name_singles(plot, pool)
    return plot


def _operating_point(card: Scorecard, plot: Plot) -> Point | None:
    if card.operating is None:
        return None
    at = (card.operating.cost_usd.value, card.operating.quality.value)
    return at if np.isfinite(at).all() and plot.x.low <= at[0] <= plot.x.high else None


def _empty_plot(pool: PoolComparison, lines: list[_Line], width: int) -> Plot:
    costs = [single.cost_usd for single in pool.singles]
    heights = [high for line in lines for _, high in line.points]
    heights += [single.quality.value for single in pool.singles]
    low, high, log = min(costs), max(costs), min(costs) > 0
    x = (low / 1.25, high * 1.25) if log else (low, high * 1.05 or 1.0)
    pad = 0.04 * max(max(heights) - min(heights), 0.05)
    y = (max(min(heights) - pad, 0.0), min(max(heights) + pad, 1.0))
    height = 380 if width < _PHONE_PX else 470
    description = (
        f"Quality over cost of {len(pool.singles)} models and {len(pool.frontiers)} ways to route"
    )
    return Plot(width, height, *plot_area(width, height, x, y, log=log), description)


def _draw_singles(plot: Plot, pool: PoolComparison) -> None:
    for single in pool.singles:
        at = (single.cost_usd, single.quality.value)
        kind = "dot s1" if single.name == pool.reference else "open s1"
        plot.dot(at, kind, f"{single.name}: {fixed(single.quality.value)}")


def _name_singles(plot: Plot, pool: PoolComparison) -> None:
    known = {pool.reference: 0, pool.strong: 1, pool.weak: 2}
    ranked = sorted(pool.singles, key=lambda one: (known.get(one.name, 3), -one.quality.value))
    for single in ranked:
        at = (single.cost_usd, single.quality.value)
        plot.label(at, single.name, "strong" if single.name == pool.reference else "")


def _usd_tick(value: float) -> str:
    return f"{value * 1000:.3g}"


def _legend(lines: list[_Line]) -> list[LegendEntry]:
    first = [line for line in lines if "main" in line.kind]
    rest = [line for line in lines if "main" not in line.kind]
    shown = [(line.kind, _label(line.name)) for line in (*first, *rest)]
    singles = (("open s1", "a single model"), ("dot s1", "the reference model"))
    return [LegendEntry(kind, name) for kind, name in (*shown, *singles)]


def _table(pool: PoolComparison) -> FigureTable:
    columns = ("routed by", "gain over the mix", "least gain", "headroom", "AIQ")
    beside = ("cost of its quality", "quality at its cost", "at 0.75 of its cost")
    rows = []
    for name, comparison in pool.comparisons.items():
        frontier = pool.frontiers.get(name)
        own = (MISSING,) * 4
        if frontier is not None:
            own = (
                with_interval(frontier.gain),
                signed(frontier.least_gain.value),
                percent(frontier.headroom.value),
                with_interval(frontier.aiq),
            )
        rows.append(
            (
                _label(name),
                *own,
                with_interval(comparison.cost_ratio, 2),
                signed(comparison.gain.value),
                signed(comparison.gain_for_less.value),
            )
        )
    return FigureTable((*columns, *beside), rows)
