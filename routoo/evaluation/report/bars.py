"""Bars: the share of the items that each model answered, and quality by domain."""

from routoo.evaluation.operating_point import DomainFigures
from routoo.evaluation.report.number_format import (
    between,
    fixed,
    percent,
    seconds,
    usd_per_thousand,
    with_interval,
)
from routoo.evaluation.report.plot import Axis, Plot, plot_area, shortened
from routoo.evaluation.report.section import FigureTable, LegendEntry, Section, both_widths
from routoo.evaluation.scorecard import ModelRow, Scorecard

_ROW_PX, _NAME_PX, _SHARE_PX = 34, 18, 56
_MOST = 20


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
