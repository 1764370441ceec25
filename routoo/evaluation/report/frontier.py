"""The cost-quality plot: every router, every model, and the random mix of models."""

from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np

from routoo.evaluation.pool_comparison import (
    ORACLE,
    RANDOM_MIX,
    ROUND_ROBIN,
    Frontier,
    PoolComparison,
)
from routoo.evaluation.report.canvas import Canvas, Corner, plot_area
from routoo.evaluation.report.number_format import (
    MISSING,
    fixed,
    percent,
    signed,
    usd,
    with_interval,
)
from routoo.evaluation.report.panel import Table, both_widths, key, panel
from routoo.evaluation.scorecard import Scorecard
from routoo.statistics import Hull

_MIX_POINTS = 80
_KINDS = {ORACLE: "s5 dotted", RANDOM_MIX: "s1 dashed", ROUND_ROBIN: "s4 mixed"}
_OTHERS = ("s2 short", "s3 mixed", "s2 dotted", "s3 dashed")


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    kind: str
    points: list[Corner]


def frontier_panel(card: Scorecard, pool: PoolComparison) -> Element:
    """Return the plot of quality over cost with its table."""
    lines = _lines(pool)
    return panel(
        "Quality for money",
        f"Mean quality over mean cost, on the {pool.items:,} items that all models answered. "
        "Further up and further left is better; the shade is the router's 95 % interval.",
        [both_widths(lambda width: _draw(card, pool, lines, width)), _legend(lines)],
        _table(pool),
        "Gain is quality above the random mix at the same cost, mean over the budgets; headroom "
        f"its share of the oracle's. AIQ covers {usd(pool.cost_range_usd[0])} to "
        f"{usd(pool.cost_range_usd[1])} USD per 1,000 calls. The last three columns stand beside "
        f"{pool.reference}.",
    )


def label_of(name: str) -> str:
    """Return a router's name for readers."""
    return name.replace("_", " ")


def _lines(pool: PoolComparison) -> list[_Line]:
    others = iter(_OTHERS)
    lines = [_Line(RANDOM_MIX, _KINDS[RANDOM_MIX], _mix(pool))]
    for number, (name, frontier) in enumerate(pool.frontiers.items()):
        kind = _KINDS.get(name) or ("s0 main" if number == 0 else next(others, "s5 short"))
        lines.append(_Line(name, kind, _points(frontier)))
    return lines


def _points(frontier: Frontier) -> list[Corner]:
    pairs = zip(frontier.cost_usd.tolist(), frontier.quality.tolist(), strict=True)
    return sorted(pairs)


def _mix(pool: PoolComparison) -> list[Corner]:
    costs = np.array([single.cost_usd for single in pool.singles])
    hull = Hull.over(costs, np.array([single.quality.value for single in pool.singles]))
    at = np.linspace(hull.cost_usd[0], hull.cost_usd[-1], _MIX_POINTS)
    if costs.min() > 0:
        at = np.geomspace(hull.cost_usd[0], hull.cost_usd[-1], _MIX_POINTS)
    return list(zip(at.tolist(), hull.quality_at(at).tolist(), strict=True))


def _draw(card: Scorecard, pool: PoolComparison, lines: list[_Line], width: int) -> Element:
    canvas = _canvas(pool, lines, width)
    canvas.axes("USD per 1,000 calls", "quality", _usd_tick, lambda value: f"{value:.2g}")
    frontier = next(iter(pool.frontiers.values()))
    order = np.argsort(frontier.cost_usd)
    costs = frontier.cost_usd[order].tolist()
    low = list(zip(costs, frontier.low[order].tolist(), strict=True))
    canvas.band(low, list(zip(costs, frontier.high[order].tolist(), strict=True)), "s0")
    for line in reversed(lines):
        canvas.curve(line.points, line.kind)
    at = _operating_point(card, canvas)
    if at is not None:
        canvas.diamond(at, "dot s0", "the router at its operating point")
    _draw_singles(canvas, pool)
    if at is not None:
        canvas.name(at, "router", "strong")
    _name_singles(canvas, pool)
    return canvas.picture()


def _operating_point(card: Scorecard, canvas: Canvas) -> Corner | None:
    if card.operating is None:
        return None
    at = (card.operating.cost_usd.value, card.operating.quality.value)
    return at if np.isfinite(at).all() and canvas.x.low <= at[0] <= canvas.x.high else None


def _canvas(pool: PoolComparison, lines: list[_Line], width: int) -> Canvas:
    costs = [single.cost_usd for single in pool.singles]
    heights = [high for line in lines for _, high in line.points]
    heights += [single.quality.value for single in pool.singles]
    low, high, log = min(costs), max(costs), min(costs) > 0
    x = (low / 1.25, high * 1.25) if log else (low, high * 1.05 or 1.0)
    pad = 0.04 * max(max(heights) - min(heights), 0.05)
    y = (max(min(heights) - pad, 0.0), min(max(heights) + pad, 1.0))
    height = 380 if width < 500 else 470  # noqa: PLR2004 - a phone's picture stands upright
    label = (
        f"Quality over cost of {len(pool.singles)} models and {len(pool.frontiers)} ways to route"
    )
    return Canvas(width, height, *plot_area(width, height, x, y, log=log), label)


def _draw_singles(canvas: Canvas, pool: PoolComparison) -> None:
    for single in pool.singles:
        at = (single.cost_usd, single.quality.value)
        kind = "dot s1" if single.name == pool.reference else "open s1"
        canvas.dot(at, kind, f"{single.name}: {fixed(single.quality.value)}")


def _name_singles(canvas: Canvas, pool: PoolComparison) -> None:
    known = {pool.reference: 0, pool.strong: 1, pool.weak: 2}
    ranked = sorted(pool.singles, key=lambda one: (known.get(one.name, 3), -one.quality.value))
    for single in ranked:
        at = (single.cost_usd, single.quality.value)
        canvas.name(at, single.name, "strong" if single.name == pool.reference else "")


def _usd_tick(value: float) -> str:
    return f"{value * 1000:.3g}"


def _legend(lines: list[_Line]) -> Element:
    first = [line for line in lines if "main" in line.kind]
    rest = [line for line in lines if "main" not in line.kind]
    shown = [(line.kind, label_of(line.name)) for line in (*first, *rest)]
    return key([*shown, ("open s1", "a single model"), ("dot s1", "the reference model")])


def _table(pool: PoolComparison) -> Table:
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
                label_of(name),
                *own,
                with_interval(comparison.cost_ratio, 2),
                signed(comparison.gain.value),
                signed(comparison.gain_for_less.value),
            )
        )
    return Table((*columns, *beside), rows)
