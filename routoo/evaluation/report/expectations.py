"""Expected beside actual: reliability diagrams of quality, and cost in groups of items."""

from routoo.evaluation.operating_point import CostBin
from routoo.evaluation.quality_metrics import Reliability
from routoo.evaluation.report.number_format import fixed, usd_per_thousand, with_interval
from routoo.evaluation.report.plot import Axis, Plot, Point, plot_area
from routoo.evaluation.report.section import (
    FigureTable,
    LegendEntry,
    Picture,
    Section,
    both_widths,
)
from routoo.evaluation.scorecard import Scorecard

_MOST = 12
_SMALL_PX = 168
_PHONE_PX = 500
"""Below this width a picture stands upright."""
_SMALLEST_BIN = 10
"""Bins with fewer answers stand in the table only: their dots would be noise."""
_AS_EXPECTED = LegendEntry("s5 dotted", "as expected")


def reliability_section(card: Scorecard) -> Section:
    """Return one small diagram a model: actual over expected quality."""
    share = {row.name: row.share for row in card.models}
    measured = [one for one in card.reliability if one.answers]
    ranked = sorted(measured, key=lambda one: (-share.get(one.model, 0.0), one.model))
    more = f" The {_MOST} most asked of {len(ranked)} models are drawn." if ranked[_MOST:] else ""
    return Section(
        "Can the expectations be trusted?",
        "Of the answers that were expected to be right so often, this share was. Dots on the "
        "diagonal are honest; below it the router hoped for too much."
        f"{more}{_mean_figures(card)}",
        FigureTable(
            ("model", "AUC", "ECE", "Brier", "answers", "bins: expected → actual (answers)"),
            [_reliability_cells(one) for one in ranked],
        ),
        [_diagram(one) for one in ranked[:_MOST]],
        "grid",
        [LegendEntry("s0 dot", "mean score, with its 95 % interval"), _AS_EXPECTED],
    )


def _mean_figures(card: Scorecard) -> str:
    mean = card.mean
    if not mean:
        return ""
    return (
        f" Mean over the models: AUC {with_interval(mean['auc'])}, ECE "
        f"{with_interval(mean['ece'])}, Brier {with_interval(mean['brier'])}."
    )


def _reliability_cells(one: Reliability) -> tuple[str, ...]:
    bins = ", ".join(
        f"{part.expected:.2f} → {part.actual.value:.2f} ({part.answers})" for part in one.bins
    )
    return (one.model, fixed(one.auc), fixed(one.ece), fixed(one.brier), f"{one.answers:,}", bins)


def _diagram(one: Reliability) -> Picture:
    size = _SMALL_PX
    x, y = Axis(0, 1, 26, size - 6), Axis(0, 1, size - 20, 6)
    plot = Plot(size, size, x, y, f"Reliability of the expectations of {one.model}")
    for tick, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        plot.line((26, y(tick)), (size - 6, y(tick)), "rule")
        plot.text((22, y(tick) + 4), f"{tick:g}", "end")
        plot.text((x(tick), size - 5), f"{tick:g}", anchor)
    plot.line((x(0), y(0)), (x(1), y(1)), "faint")
    for part in one.bins:
        if part.answers >= _SMALLEST_BIN:
            plot.whisker(part.expected, part.actual.low, part.actual.high, "s0")
            title = f"{part.answers} answers: {part.expected:.2f} expected, {part.actual.value:.2f}"
            plot.dot((part.expected, part.actual.value), "dot s0", title, radius=4)
    return Picture(plot.svg(), one.model, f"ECE {fixed(one.ece)} · AUC {fixed(one.auc)}")


def cost_section(bins: tuple[CostBin, ...]) -> Section:
    """Return actual over expected cost, in groups of items that were expected to cost alike."""
    return Section(
        "Did it cost what was expected?",
        "Mean actual over mean expected cost, in groups of items of rising expected cost. "
        "Above the diagonal answers cost more than planned.",
        FigureTable(
            ("items", "expected USD per 1,000", "actual USD per 1,000", "ratio"),
            [_cost_cells(one) for one in bins],
        ),
        [both_widths(lambda width: _draw_costs(bins, width))],
        legend=[LegendEntry("s0 dot", "a group of items"), _AS_EXPECTED],
    )


def _cost_cells(one: CostBin) -> tuple[str, ...]:
    return (
        f"{one.answers:,}",
        usd_per_thousand(one.expected_usd),
        usd_per_thousand(one.actual_usd),
        fixed(one.actual_usd / one.expected_usd if one.expected_usd else float("nan")),
    )


def _draw_costs(bins: tuple[CostBin, ...], width: int) -> Plot:
    amounts = [value for one in bins for value in (one.expected_usd, one.actual_usd)]
    log = min(amounts) > 0
    ends = (min(amounts) / 1.3, max(amounts) * 1.3) if log else (0.0, max(amounts) * 1.05 or 1.0)
    height = 300 if width < _PHONE_PX else 340
    x, y = plot_area(width, height, ends, ends, log=log)
    y = Axis(y.low, y.high, y.start_px, y.end_px, log=log)
    plot = Plot(width, height, x, y, "Actual over expected cost")
    plot.draw_axes("expected USD per 1,000 calls", "actual USD per 1,000 calls", _tick, _tick)
    plot.curve([(ends[0], ends[0]), (ends[1], ends[1])], "s5 dotted")
    points: list[Point] = [(one.expected_usd, one.actual_usd) for one in bins]
    for one, point in zip(bins, points, strict=True):
        title = f"{one.answers} items: {usd_per_thousand(one.actual_usd)}"
        plot.dot(point, "dot s0", title, radius=6)
    return plot


def _tick(value: float) -> str:
    return f"{value * 1000:.3g}"
