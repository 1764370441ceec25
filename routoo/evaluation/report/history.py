"""Where it works and how it moves: figures by domain, and over past runs."""

import math
from xml.etree.ElementTree import Element

from routoo.evaluation.bootstrap import Interval
from routoo.evaluation.operating_point import DomainFigures
from routoo.evaluation.report.canvas import Canvas, plot_area, shortened
from routoo.evaluation.report.number_format import between, fixed, usd, with_interval
from routoo.evaluation.report.panel import Table, both_widths, key, panel
from routoo.evaluation.report.scale import Scale
from routoo.evaluation.report.tags import tag
from routoo.evaluation.scorecard import PastRun

_MOST = 20
_ROW_PX = 34
_DRIFT_PX = (328, 180)
_UNNAMED_PX = 20
"""What a plot without a name under its axis needs less."""
_FEW = 15
"""Runs whose dots have room."""


def domains_panel(domains: tuple[DomainFigures, ...]) -> Element:
    """Return bars of quality by domain."""
    shown = domains[:_MOST]
    more = f" The {_MOST} largest of {len(domains)} are drawn." if domains[_MOST:] else ""
    return panel(
        "By domain",
        "Quality of the answers at the operating point, largest domain first, with 95 % intervals; "
        f"the diamond is what was expected.{more}",
        [
            both_widths(lambda width: _draw(shown, width)),
            key([("s0 main", "quality"), ("s1 dot", "expected quality")]),
        ],
        Table(
            ("domain", "items", "quality", "95 % interval", "expected", "USD per 1,000"),
            [
                (
                    one.name,
                    f"{one.items:,}",
                    fixed(one.quality.value),
                    between(one.quality),
                    fixed(one.expected_quality),
                    usd(one.cost_usd),
                )
                for one in domains
            ],
        ),
    )


def _draw(domains: tuple[DomainFigures, ...], width: int) -> Element:
    height = _ROW_PX * len(domains) + 26
    x = Scale(0.0, 1.0, 0, width - 46)
    canvas = Canvas(width, height, x, Scale(0, 1, 0, height), "Quality by domain")
    for number, one in enumerate(domains):
        top = number * _ROW_PX + 14
        canvas.text((0, top), shortened(one.name.replace("_", " "), width), "start", "strong")
        canvas.text((width, top + 13), fixed(one.quality.value, 2), "end", "strong")
        size = {"x": 0, "y": top + 5, "width": f"{x(one.quality.value):.1f}", "height": 9, "rx": 2}
        canvas.marks.append(tag("rect", class_="bar s0", opacity=0.55, **size))
        middle = top + 9.5
        ends = (x(max(one.quality.low, 0)), x(min(one.quality.high, 1)))
        canvas.line_between((ends[0], middle), (ends[1], middle), "whisker ink")
        at = x(one.expected_quality)
        corners = ((at, middle - 6), (at + 6, middle), (at, middle + 6), (at - 6, middle))
        points = " ".join(f"{left:.1f},{down:.1f}" for left, down in corners)
        canvas.marks.append(tag("polygon", points=points, class_="dot s1"))
    for tick in (0.0, 0.5, 1.0):
        canvas.text(
            (x(tick), height - 4), f"{tick:g}", ("start", "middle", "middle")[round(tick * 2)]
        )
    return canvas.picture()


def drift_panel(history: tuple[PastRun, ...]) -> Element:
    """Return quality, cost and calibration over the runs so far."""
    since = history[0].label
    cost = [_times(run.cost_usd, 1000) for run in history]
    ece = [Interval(run.ece, run.ece, run.ece) for run in history]
    drawn = (
        _drift("quality", [run.quality for run in history], since),
        _drift("USD per 1,000 calls", cost, since),
        _drift("calibration error (ECE)", ece, since, from_zero=True),
    )
    return panel(
        "Over time",
        f"The last {len(history)} runs of this evaluation; quality and cost with 95 % intervals.",
        [tag("div", *drawn, class_="thirds")],
        Table(
            ("run", "quality", "USD per 1,000", "ECE"),
            [
                (run.label, with_interval(run.quality), usd(run.cost_usd.value), fixed(run.ece))
                for run in history
            ],
        ),
    )


def _times(one: Interval, factor: float) -> Interval:
    return Interval(one.value * factor, one.low * factor, one.high * factor)


def _drift(name: str, values: list[Interval], since: str, *, from_zero: bool = False) -> Element:
    """Draw one figure over the runs; without intervals from 0 up, so that noise looks small."""
    known = [(number, one) for number, one in enumerate(values) if not math.isnan(one.value)]
    if not known:
        return tag("figure", tag("h3", name), tag("figcaption", "not measured"))
    canvas = _drift_canvas(name, [one for _, one in known], len(values), from_zero=from_zero)
    x, y = canvas.x, canvas.y
    ticks = _ticks(y)
    digits = _digits(ticks)
    for tick in ticks:
        canvas.line_between((x.start_px, y(tick)), (x.end_px, y(tick)), "rule")
        canvas.text((x.start_px - 6, y(tick) + 4), f"{tick:.{digits}f}", "end")
    canvas.text((x.start_px, canvas.height - 4), since, "start")
    canvas.text((x.end_px, canvas.height - 4), "this run", "end")
    canvas.curve([(number, one.value) for number, one in known], "s0")
    radius = 5 if len(values) <= _FEW else 3.5
    for number, one in known:
        canvas.whisker(number, one.low, one.high, "s0")
        last = number == len(values) - 1
        shown = f"{one.value:.{digits + 1}f}"
        canvas.dot((number, one.value), "dot s1" if last else "dot s0", shown, radius + last)
    return tag("figure", tag("h3", name), canvas.picture())


def _drift_canvas(name: str, known: list[Interval], runs: int, *, from_zero: bool) -> Canvas:
    ends = [end for one in known for end in (one.low, one.high, one.value) if not math.isnan(end)]
    low, high = 0.0 if from_zero else min(ends), max(ends)
    pad = 0.15 * (high - low) or 0.05 * abs(high) or 0.05
    aside = 0.04 * max(runs - 1, 1)
    width, height = _DRIFT_PX
    across, up = (-aside, runs - 1 + aside), (low if from_zero else low - pad, high + pad)
    x, y = plot_area(width, height + _UNNAMED_PX, across, up)
    return Canvas(width, height, x, y, f"{name} over past runs")


def _ticks(y: Scale) -> list[float]:
    """Return three or four ticks, more where the round figures lie so."""
    found: list[float] = []
    for most in (4, 6, 9):
        found = y.ticks(most)
        if len(found) > 2:  # noqa: PLR2004 - two leave the eye to guess the scale
            break
    return found


def _digits(ticks: list[float]) -> int:
    """Return how many decimals tell the ticks apart, the same for all."""
    if len(ticks) < 2:  # noqa: PLR2004 - no step
        return 3
    return max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
