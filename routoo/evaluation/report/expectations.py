"""Whether expectations can be trusted: reliability diagrams, and cost expected and actual."""

from xml.etree.ElementTree import Element

from routoo.evaluation.operating_point import CostBin
from routoo.evaluation.quality_metrics import Reliability
from routoo.evaluation.report.canvas import Canvas, Corner, plot_area
from routoo.evaluation.report.number_format import fixed, usd, with_interval
from routoo.evaluation.report.panel import Table, both_widths, key, panel
from routoo.evaluation.report.scale import Scale
from routoo.evaluation.report.tags import tag
from routoo.evaluation.scorecard import Scorecard

_MOST = 12
_SMALL_PX = 168
_SMALLEST_BIN = 10
"""Bins with fewer answers stand in the table only: their dots would be noise."""


def reliability_panel(card: Scorecard) -> Element:
    """Return one small diagram a model: actual over expected quality."""
    share = {row.name: row.share for row in card.models}
    measured = [one for one in card.reliability if one.answers]
    ranked = sorted(measured, key=lambda one: (-share.get(one.model, 0.0), one.model))
    shown = ranked[:_MOST]
    more = f" The {_MOST} most asked of {len(ranked)} models are drawn." if ranked[_MOST:] else ""
    mean = card.mean
    figures = ""
    if mean:
        figures = (
            f" Mean over the models: AUC {with_interval(mean['auc'])}, ECE "
            f"{with_interval(mean['ece'])}, Brier {with_interval(mean['brier'])}."
        )
    return panel(
        "Can the expectations be trusted?",
        "Of the answers that were expected to be right so often, this share was. Dots on the "
        f"diagonal are honest; below it the router hoped for too much.{more}{figures}",
        [
            tag("div", *(_diagram(one) for one in shown), class_="grid"),
            key([("s0 dot", "mean score, with its 95 % interval"), ("s5 dotted", "as expected")]),
        ],
        Table(
            ("model", "AUC", "ECE", "Brier", "answers", "bins: expected → actual (answers)"),
            [_cells(one) for one in ranked],
        ),
    )


def _cells(one: Reliability) -> tuple[str, ...]:
    bins = ", ".join(
        f"{part.expected:.2f} → {part.actual.value:.2f} ({part.answers})" for part in one.bins
    )
    return (one.model, fixed(one.auc), fixed(one.ece), fixed(one.brier), f"{one.answers:,}", bins)


def _diagram(one: Reliability) -> Element:
    size = _SMALL_PX
    x, y = Scale(0, 1, 26, size - 6), Scale(0, 1, size - 20, 6)
    canvas = Canvas(size, size, x, y, f"Reliability of the expectations of {one.model}")
    for tick in (0.0, 0.5, 1.0):
        canvas.line_between((26, y(tick)), (size - 6, y(tick)), "rule")
        canvas.text((22, y(tick) + 4), f"{tick:g}", "end")
        canvas.text((x(tick), size - 5), f"{tick:g}", ("start", "middle", "end")[round(tick * 2)])
    canvas.line_between((x(0), y(0)), (x(1), y(1)), "faint")
    for part in one.bins:
        if part.answers >= _SMALLEST_BIN:
            canvas.whisker(part.expected, part.actual.low, part.actual.high, "s0")
            said = f"{part.answers} answers: {part.expected:.2f} expected, {part.actual.value:.2f}"
            canvas.dot((part.expected, part.actual.value), "dot s0", said, radius=4)
    head = tag("h3", one.model)
    under = tag("figcaption", f"ECE {fixed(one.ece)} · AUC {fixed(one.auc)}")
    return tag("figure", head, canvas.picture(), under)


def cost_panel(bins: tuple[CostBin, ...]) -> Element:
    """Return actual over expected cost, in groups of items that were expected to cost alike."""
    return panel(
        "Did it cost what was expected?",
        "Mean actual over mean expected cost, in groups of items of rising expected cost. "
        "Above the diagonal answers cost more than planned.",
        [
            both_widths(lambda width: _draw_costs(bins, width)),
            key([("s0 dot", "a group of items"), ("s5 dotted", "as expected")]),
        ],
        Table(
            ("items", "expected USD per 1,000", "actual USD per 1,000", "ratio"),
            [
                (
                    f"{one.answers:,}",
                    usd(one.expected_usd),
                    usd(one.actual_usd),
                    fixed(one.actual_usd / one.expected_usd if one.expected_usd else float("nan")),
                )
                for one in bins
            ],
        ),
    )


def _draw_costs(bins: tuple[CostBin, ...], width: int) -> Element:
    amounts = [value for one in bins for value in (one.expected_usd, one.actual_usd)]
    log = min(amounts) > 0
    ends = (min(amounts) / 1.3, max(amounts) * 1.3) if log else (0.0, max(amounts) * 1.05 or 1.0)
    height = 300 if width < 500 else 340  # noqa: PLR2004 - as the plot above
    x, y = plot_area(width, height, ends, ends, log=log)
    y = Scale(y.low, y.high, y.start_px, y.end_px, log=log)
    canvas = Canvas(width, height, x, y, "Actual over expected cost")
    canvas.axes("expected USD per 1,000 calls", "actual USD per 1,000 calls", _tick, _tick)
    canvas.curve([(ends[0], ends[0]), (ends[1], ends[1])], "s5 dotted")
    points: list[Corner] = [(one.expected_usd, one.actual_usd) for one in bins]
    for one, point in zip(bins, points, strict=True):
        canvas.dot(point, "dot s0", f"{one.answers} items: {usd(one.actual_usd)}", radius=6)
    return canvas.picture()


def _tick(value: float) -> str:
    return f"{value * 1000:.3g}"
