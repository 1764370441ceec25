"""Draws the page's charts as SVG: bars, and the frontier of quality over dollars.

Marks carry classes and no styles: the page's policy allows none in a page.
"""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from routoo.console import formatting
from routoo.evaluation.report.plot import Plot, Point, element, plot_area
from routoo.evaluation.report.section import LegendEntry, Picture, both_widths

_BAR_PX, _BAR_HEIGHT_PX = 100, 8
_PHONE_PX = 500
_CENT_USD = 0.01


def bar(parts: Sequence[tuple[float, str]], label: str, mark: float | None = None) -> Markup:
    """Return a bar of several parts, each a share of its length.

    Args:
        parts: Share in [0, 1] and class of each, from the left.
        label: What it shows, for those who can't see it.
        mark: Share at which a line stands, such as what was planned.
    """
    drawn, left = [element("rect", class_="track", width=_BAR_PX, height=_BAR_HEIGHT_PX)], 0.0
    for share, kind in parts:
        width = max(0.0, min(share, 1.0 - left / _BAR_PX)) * _BAR_PX
        size = {"x": f"{left:.2f}", "width": f"{width:.2f}", "height": _BAR_HEIGHT_PX}
        drawn.append(element("rect", class_=kind, **size))
        left += width
    if mark is not None:
        at = max(0.0, min(mark, 1.0)) * _BAR_PX
        drawn.append(
            element("rect", class_="mark", x=f"{at - 0.4:.2f}", width="0.8", height=_BAR_HEIGHT_PX)
        )
    looks = {"class_": "meter", "role": "img", "preserveAspectRatio": "none"}
    return element(
        "svg", *drawn, **looks, aria_label=label, viewBox=f"0 0 {_BAR_PX} {_BAR_HEIGHT_PX}"
    )


def frontier_legend(plan: dict[str, Any]) -> list[LegendEntry]:
    """Return what the chart of a plan's frontier shows."""
    points = _frontier(plan)
    lines = [("s0 main", "best that the money buys", "mean_quality")]
    lines += [("s2 dotted", "without judging answers", "direct_quality")]
    lines += [("s5 dashed", "random mix of models", "random_mix_quality")]
    drawn = [LegendEntry(kind, name) for kind, name, key in lines if _line(points, key)]
    return [*drawn, LegendEntry("open s5", "one model for all"), LegendEntry("dot s0", "this plan")]


def _frontier(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return plan.get("forecast", {}).get("frontier") or []


def _line(points: Sequence[dict[str, Any]], key: str) -> list[Point]:
    """Return a line through the points of a frontier that know a quality."""
    return [(one["cost_usd"], one[key]) for one in points if one.get(key) is not None]


def frontier_picture(plan: dict[str, Any], spent_usd: float | None = None) -> Picture | None:
    """Return expected quality over dollars: the frontier, single models, and the plan.

    Args:
        plan: The plan as the batch keeps it.
        spent_usd: What was spent so far, drawn as a line; None draws none.
    """
    if not plan.get("served") or not plan.get("models"):
        return None
    return both_widths(lambda width: _draw(plan, spent_usd, width))


def _draw(plan: dict[str, Any], spent_usd: float | None, width: int) -> Plot:
    frontier = _frontier(plan)
    alone = [(one["alone_cost_usd"], one["alone_quality"]) for one in plan["models"]]
    chosen = (plan["expected_cost_usd"], plan["expected_quality"])
    best = _line(frontier, "mean_quality")
    plot = _empty([*alone, chosen, *best], len(plan["models"]), width)
    plot.draw_axes("expected cost of the batch", "quality", _usd_tick, lambda value: f"{value:.0%}")
    if spent_usd:
        at = plot.x(min(max(spent_usd, plot.x.low), plot.x.high))
        plot.line((at, plot.y.start_px), (at, plot.y.end_px), "faint")
    for key, kind in (("random_mix_quality", "s5 dashed"), ("direct_quality", "s2 dotted")):
        plot.curve(_line(frontier, key), kind)
    plot.curve(best, "s0 main")
    for model, point in zip(plan["models"], alone, strict=True):
        plot.dot(point, "open s5", f"only {model['model']}: {point[1]:.1%} for ${point[0]:.4g}")
    plot.diamond(chosen, "dot s0", f"this plan: {chosen[1]:.1%} for ${chosen[0]:.4g}")
    plot.label(chosen, "this plan", "strong")
    for model, point in zip(plan["models"], alone, strict=True):
        plot.label(point, model["model"])
    return plot


def _empty(points: Sequence[Point], models: int, width: int) -> Plot:
    costs, heights = [cost for cost, _ in points], [height for _, height in points]
    low, high, log = min(costs), max(costs), min(costs) > 0 and max(costs) > 20 * min(costs)
    x = (low / 1.3, high * 1.4) if log else (0.0, high * 1.12 or 1.0)
    pad = 0.08 * max(max(heights) - min(heights), 0.05)
    y = (max(min(heights) - pad, 0.0), min(max(heights) + pad, 1.0))
    height = 300 if width < _PHONE_PX else 360
    described = f"Expected quality over dollars: {models} models alone, the frontier, and the plan"
    return Plot(width, height, *plot_area(width, height, x, y, log=log), described)


def _usd_tick(value: float) -> str:
    return formatting.usd(value) if 0 < value < _CENT_USD else f"${value:,.4g}"
