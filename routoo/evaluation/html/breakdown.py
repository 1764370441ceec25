"""Where it works and how it moves: figures by domain, and over past runs."""

import math
from collections.abc import Callable
from xml.etree.ElementTree import Element

from routoo.evaluation.bootstrap import Interval
from routoo.evaluation.html.canvas import Canvas, plot_area, shortened
from routoo.evaluation.html.panel import Table, both_widths, key, panel
from routoo.evaluation.html.scale import Scale
from routoo.evaluation.html.tags import tag
from routoo.evaluation.notation import between, fixed, usd, with_interval
from routoo.evaluation.operating import Domain
from routoo.evaluation.scorecard import PastRun

_MOST = 20
_ROW_PX = 34
_DRIFT_PX = (328, 200)


def domains_panel(domains: tuple[Domain, ...]) -> Element:
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


def _draw(domains: tuple[Domain, ...], width: int) -> Element:
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
    plain: list[Interval] = [Interval(run.ece, run.ece, run.ece) for run in history]
    return panel(
        "Over time",
        f"The last {len(history)} runs of this evaluation, oldest first, with 95 % intervals.",
        [
            tag(
                "div",
                _drift("quality", [run.quality for run in history], lambda value: f"{value:.3g}"),
                _drift(
                    "USD per 1,000 calls",
                    [run.cost_usd for run in history],
                    lambda value: f"{value * 1000:.3g}",
                ),
                _drift("calibration error (ECE)", plain, lambda value: f"{value:.3g}"),
                class_="thirds",
            )
        ],
        Table(
            ("run", "quality", "USD per 1,000", "ECE"),
            [
                (run.label, with_interval(run.quality), usd(run.cost_usd.value), fixed(run.ece))
                for run in history
            ],
        ),
    )


def _drift(name: str, values: list[Interval], text: Callable[[float], str]) -> Element:
    known = [(number, one) for number, one in enumerate(values) if not math.isnan(one.value)]
    if not known:
        return tag("figure", tag("h3", name), tag("figcaption", "not measured"))
    ends = [
        end for _, one in known for end in (one.low, one.high, one.value) if not math.isnan(end)
    ]
    pad = 0.15 * (max(ends) - min(ends)) or 0.05 * abs(max(ends)) or 0.05
    width, height = _DRIFT_PX
    x, y = plot_area(width, height, (-0.5, len(values) - 0.5), (min(ends) - pad, max(ends) + pad))
    canvas = Canvas(width, height, x, y, f"{name} over past runs")
    for tick in y.ticks(4):
        canvas.line_between((x.start_px, y(tick)), (x.end_px, y(tick)), "rule")
        canvas.text((x.start_px - 6, y(tick) + 4), text(tick), "end")
    canvas.text((x.start_px, height - 20), "oldest", "start")
    canvas.text((x.end_px, height - 20), "this run", "end")
    canvas.curve([(number, one.value) for number, one in known], "s0")
    for number, one in known:
        canvas.whisker(number, one.low, one.high, "s0")
        kind = "dot s1" if number == len(values) - 1 else "dot s0"
        canvas.dot((number, one.value), kind, text(one.value))
    return tag("figure", tag("h3", name), canvas.picture())
