"""Quality, cost and calibration of the same evaluation over its past runs."""

import math

from markupsafe import Markup

from routoo.evaluation.bootstrap import Interval
from routoo.evaluation.report.number_format import fixed, usd_per_thousand, with_interval
from routoo.evaluation.report.plot import Axis, Plot, plot_area
from routoo.evaluation.report.section import FigureTable, Picture, Section
from routoo.evaluation.scorecard import PastRun

_SIZE_PX = (328, 180)
_UNNAMED_PX = 20
"""What a plot without a name under its axis needs less."""
_LEAST_TICKS = 3
"""Fewer leave the eye to guess the scale."""
_FEW = 15
"""Runs whose dots have room."""


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
