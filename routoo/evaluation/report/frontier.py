"""Draws routers beside the pool's models: the cost-quality plot, and one weak-strong pair."""

from dataclasses import dataclass

import numpy as np

from routoo.evaluation.pool_comparison import (
    ORACLE,
    RANDOM_MIX,
    ROUND_ROBIN,
    Frontier,
    PoolComparison,
)
from routoo.evaluation.report.plot import Plot, Point, plot_area
from routoo.evaluation.report.section import (
    MISSING,
    FigureTable,
    LegendEntry,
    Section,
    both_widths,
    fixed,
    percent,
    signed,
    usd_per_thousand,
    with_interval,
)
from routoo.evaluation.scorecard import Scorecard
from routoo.statistics import Hull

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
