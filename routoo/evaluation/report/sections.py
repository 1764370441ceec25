"""Makes the report's other sections: models and domains, expected and actual, past runs."""

import math

from markupsafe import Markup

from routoo.evaluation.bootstrap import Interval
from routoo.evaluation.operating_point import CostBin, DomainFigures, SameCost
from routoo.evaluation.pool_comparison import PoolComparison
from routoo.evaluation.quality_metrics import Reliability
from routoo.evaluation.report.plot import Axis, Plot, Point, plot_area, shortened
from routoo.evaluation.report.section import (
    FigureTable,
    LegendEntry,
    Picture,
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
from routoo.evaluation.scorecard import DecisionRow, ModelRow, PastRun, Scorecard

_ROW_PX, _NAME_PX, _SHARE_PX = 34, 18, 56
_MOST = 20
_SIZE_PX = (328, 180)
_UNNAMED_PX = 20
"""What a plot without a name under its axis needs less."""
_LEAST_TICKS = 3
"""Fewer leave the eye to guess the scale."""
_FEW = 15
"""Runs whose dots have room."""
_MOST_MODELS = 12
_SMALL_PX = 168
_PHONE_PX = 500
"""Below this width a picture stands upright."""
_SMALLEST_BIN = 10
"""Bins with fewer answers stand in the table only: their dots would be noise."""
_AS_EXPECTED = LegendEntry("s5 dotted", "as expected")


def models_section(card: Scorecard) -> Section:
    """Return bars of the share of items that each model was given, with its figures."""
    asked = sorted((row for row in card.models if row.share > 0), key=lambda row: -row.share)
    shown = asked[:_MOST]
    more = f" The {_MOST} most asked are drawn." if len(asked) > _MOST else ""
    return Section(
        "Who answered",
        f"Share of the items that each of the {len(card.models)} models was given at the operating "
        f"point; {len(card.models) - len(asked)} were given none.{more}",
        FigureTable(
            ("model", "share", "quality", "USD per 1,000", "p50 s", "p95 s", "graded"),
            [_model_cells(row) for row in sorted(card.models, key=lambda row: -row.share)],
        ),
        [both_widths(lambda width: _draw_shares(shown, width))],
    )


def _model_cells(row: ModelRow) -> tuple[str, ...]:
    return (
        row.name,
        percent(row.share),
        with_interval(row.quality),
        usd_per_thousand(row.cost_usd.value),
        seconds(row.latency_p50_s),
        seconds(row.latency_p95_s),
        f"{row.answers:,}",
    )


def _draw_shares(rows: list[ModelRow], width: int) -> Plot:
    height = _ROW_PX * len(rows) + 8
    x, y = plot_area(width, height, (0.0, 1.0), (0.0, 1.0))
    plot = Plot(width, height, x, y, "Share of the items that each model answered")
    for number, row in enumerate(rows):
        top = number * _ROW_PX + _NAME_PX - 4
        plot.text((0, top), shortened(row.name, width - _SHARE_PX), "start", "strong")
        plot.text((width, top), percent(row.share), "end")
        plot.bar(top + 5, max(row.share * width, 2), 7)
    return plot


def decisions_section(rows: tuple[DecisionRow, ...], same_cost: SameCost | None = None) -> Section:
    """Return how the answers came about: the share of escalations, the precision of acceptance."""
    by_name = {row.decision: row for row in rows}
    accepted, escalated, kept = by_name["accepted"], by_name["escalated"], by_name["kept"]
    judged = accepted.answers + escalated.answers + kept.answers
    return Section(
        "Judged answers",
        f"{judged:,} answers were judged before they were taken: "
        f"{percent(escalated.answers / judged)} were escalated to another model, and "
        f"{fixed(accepted.quality.mean)} of those that were accepted are right. "
        f"{kept.answers:,} were to be escalated and are kept: no other model could be asked, or "
        f"gave a better one.{_brought(same_cost)}",
        FigureTable(
            ("answers", "number", "share", "quality", "95 % interval", "USD per 1,000"),
            [_decision_cells(row) for row in rows],
            is_folded=False,
        ),
    )


def _brought(same_cost: SameCost | None) -> str:
    """Say what judging brought on the items that every model answered."""
    if same_cost is None or math.isnan(same_cost.over_unjudged.mean):
        return ""
    gain, usd = same_cost.over_unjudged, usd_per_thousand(same_cost.unjudged_cost_usd)
    return (
        f" On the {same_cost.items:,} items that every model answered, judging answers brought "
        f"{signed(gain.mean)} ({signed(gain.low)} to {signed(gain.high)}) over choosing by the "
        f"prompt alone at the same cost ({usd} USD per 1,000)."
    )


def _decision_cells(row: DecisionRow) -> tuple[str, ...]:
    return (
        row.decision,
        f"{row.answers:,}",
        percent(row.share),
        fixed(row.quality.mean),
        f"{fixed(row.quality.low)} to {fixed(row.quality.high)}",
        usd_per_thousand(row.cost_usd.mean),
    )


def domains_section(domains: tuple[DomainFigures, ...]) -> Section:
    """Return bars of quality by domain."""
    shown = domains[:_MOST]
    more = f" The {_MOST} largest of {len(domains)} are drawn." if domains[_MOST:] else ""
    return Section(
        "By domain",
        "Quality of the answers at the operating point, largest domain first, with 95 % intervals; "
        f"the diamond is what was expected.{more}",
        FigureTable(
            ("domain", "items", "quality", "95 % interval", "expected", "USD per 1,000"),
            [_domain_cells(one) for one in domains],
        ),
        [both_widths(lambda width: _draw_domains(shown, width))],
        legend=[LegendEntry("s0 main", "quality"), LegendEntry("s1 dot", "expected quality")],
    )


def _domain_cells(one: DomainFigures) -> tuple[str, ...]:
    return (
        one.name,
        f"{one.items:,}",
        fixed(one.quality.value),
        between(one.quality),
        fixed(one.expected_quality),
        usd_per_thousand(one.cost_usd),
    )


def _draw_domains(domains: tuple[DomainFigures, ...], width: int) -> Plot:
    height = _ROW_PX * len(domains) + 26
    x = Axis(0.0, 1.0, 0, width - 46)
    plot = Plot(width, height, x, Axis(0, 1, 0, height), "Quality by domain")
    for number, one in enumerate(domains):
        top = number * _ROW_PX + 14
        plot.text((0, top), shortened(one.name.replace("_", " "), width), "start", "strong")
        plot.text((width, top + 13), fixed(one.quality.value, 2), "end", "strong")
        plot.bar(top + 5, x(one.quality.value), 9, opacity=0.55)
        middle = top + 9.5
        ends = (x(max(one.quality.low, 0)), x(min(one.quality.high, 1)))
        plot.line((ends[0], middle), (ends[1], middle), "whisker ink")
        plot.rhomb((x(one.expected_quality), middle), 6, "dot s1")
    for tick, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "middle")):
        plot.text((x(tick), height - 4), f"{tick:g}", anchor)
    return plot


def history_section(history: tuple[PastRun, ...]) -> Section:
    """Return quality, cost and calibration over the runs so far."""
    since = history[0].label
    cost = [_times(run.cost_usd, 1000) for run in history]
    ece = [Interval(run.ece, run.ece, run.ece) for run in history]
    return Section(
        "Over time",
        f"The last {len(history)} runs of this evaluation; quality and cost with 95 % intervals.",
        FigureTable(("run", "quality", "USD per 1,000", "ECE"), [_cells(run) for run in history]),
        [
            _draw("quality", [run.quality for run in history], since),
            _draw("USD per 1,000 calls", cost, since),
            _draw("calibration error (ECE)", ece, since, from_zero=True),
        ],
        "thirds",
    )


def _cells(run: PastRun) -> tuple[str, ...]:
    cost = usd_per_thousand(run.cost_usd.value)
    return (run.label, with_interval(run.quality), cost, fixed(run.ece))


def _times(one: Interval, factor: float) -> Interval:
    return Interval(one.value * factor, one.low * factor, one.high * factor)


def _draw(name: str, values: list[Interval], since: str, *, from_zero: bool = False) -> Picture:
    """Draw one figure over the runs; without intervals from 0 up, so that noise looks small."""
    known = [(number, one) for number, one in enumerate(values) if not math.isnan(one.value)]
    if not known:
        return Picture(Markup(), name, "not measured")
    plot = _empty_plot(name, [one for _, one in known], len(values), from_zero=from_zero)
    digits = _draw_ticks(plot)
    plot.text((plot.x.start_px, plot.height - 4), since, "start")
    plot.text((plot.x.end_px, plot.height - 4), "this run", "end")
    plot.curve([(number, one.value) for number, one in known], "s0")
    radius = 5 if len(values) <= _FEW else 3.5
    for number, one in known:
        plot.whisker(number, one.low, one.high, "s0")
        last = number == len(values) - 1
        shown = f"{one.value:.{digits + 1}f}"
        plot.dot((number, one.value), "dot s1" if last else "dot s0", shown, radius + last)
    return Picture(plot.svg(), name)


def _draw_ticks(plot: Plot) -> int:
    """Draw the ticks of the upright axis and return how many decimals they are written with."""
    ticks = _ticks(plot.y)
    digits = _digits(ticks)
    for tick in ticks:
        at = plot.y(tick)
        plot.line((plot.x.start_px, at), (plot.x.end_px, at), "rule")
        plot.text((plot.x.start_px - 6, at + 4), f"{tick:.{digits}f}", "end")
    return digits


def _empty_plot(name: str, known: list[Interval], runs: int, *, from_zero: bool) -> Plot:
    ends = [end for one in known for end in (one.low, one.high, one.value) if not math.isnan(end)]
    low, high = 0.0 if from_zero else min(ends), max(ends)
    pad = 0.15 * (high - low) or 0.05 * abs(high) or 0.05
    aside = 0.04 * max(runs - 1, 1)
    width, height = _SIZE_PX
    across, up = (-aside, runs - 1 + aside), (low if from_zero else low - pad, high + pad)
    x, y = plot_area(width, height + _UNNAMED_PX, across, up)
    return Plot(width, height, x, y, f"{name} over past runs")


def _ticks(y: Axis) -> list[float]:
    """Return three or four ticks, more where the round figures lie so."""
    found: list[float] = []
    for most in (4, 6, 9):
        found = y.ticks(most)
        if len(found) >= _LEAST_TICKS:
            break
    return found


def _digits(ticks: list[float]) -> int:
    """Return how many decimals make the ticks differ, the same for all."""
    if len(ticks) <= 1:
        return 3
    return max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))


def reliability_section(card: Scorecard) -> Section:
    """Return one small diagram a model: actual over expected quality."""
    share = {row.name: row.share for row in card.models}
    measured = [one for one in card.reliability if one.answers]
    ranked = sorted(measured, key=lambda one: (-share.get(one.model, 0.0), one.model))
    more = (
        f" The {_MOST_MODELS} most asked of {len(ranked)} models are drawn."
        if ranked[_MOST_MODELS:]
        else ""
    )
    return Section(
        "Can the expectations be trusted?",
        "Of the answers that were expected to be right so often, this share was. Dots on the "
        "diagonal are honest; below it the router hoped for too much."
        f"{more}{_mean_figures(card)}",
        FigureTable(
            ("model", "AUC", "ECE", "Brier", "answers", "bins: expected → actual (answers)"),
            [_reliability_cells(one) for one in ranked],
        ),
        [_diagram(one) for one in ranked[:_MOST_MODELS]],
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


def budgets_section(pool: PoolComparison) -> Section:
    """Return the table of budgets, each with the best single model that costs no more."""
    rows = [
        (
            usd_per_thousand(one.cost_usd),
            with_interval(one.quality),
            one.best_single or "no model is as cheap",
            fixed(one.best_single_quality),
            with_interval(one.over_single),
        )
        for one in pool.budgets
    ]
    return Section(
        "Beside the best single model",
        "The router at each budget, beside the model that alone brings the most and costs no more.",
        FigureTable(
            ("USD per 1,000 calls", "routed", "best single model", "its quality", "difference"),
            rows,
            is_folded=False,
            name="Best single model at each budget",
        ),
    )
