"""The pool's models: what each scored, cost and answered, and the pair of APGR and CPT."""

from xml.etree.ElementTree import Element

from routoo.evaluation.pool_comparison import PoolComparison
from routoo.evaluation.report.canvas import Canvas, plot_area, shortened
from routoo.evaluation.report.frontier import label_of
from routoo.evaluation.report.number_format import percent, seconds, usd, with_interval
from routoo.evaluation.report.panel import Table, both_widths, panel
from routoo.evaluation.report.tags import tag
from routoo.evaluation.scorecard import ModelRow, Scorecard

_ROW_PX, _NAME_PX, _SHARE_PX = 34, 18, 56
_MOST = 20


def models_panel(card: Scorecard) -> Element:
    """Return bars of the share of calls that each model got, with its figures in the table."""
    asked = sorted((row for row in card.models if row.share > 0), key=lambda row: -row.share)
    shown = asked[:_MOST]
    more = f" The {_MOST} most asked are drawn." if len(asked) > _MOST else ""
    return panel(
        "Who answered",
        f"Share of the items that each of the {len(card.models)} models was given at the operating "
        f"point; {len(card.models) - len(asked)} were given none.{more}",
        [both_widths(lambda width: _draw(shown, width))],
        Table(
            ("model", "share", "quality", "USD per 1,000", "p50 s", "p95 s", "graded"),
            [_cells(row) for row in sorted(card.models, key=lambda row: -row.share)],
        ),
    )


def pairs_panel(pool: PoolComparison) -> Element:
    """Return the table of APGR and CPT; three figures a router need no plot."""
    rows = [
        (
            label_of(name),
            with_interval(one.apgr),
            with_interval(one.cpt50),
            with_interval(one.cpt80),
        )
        for name, one in pool.pairs.items()
    ]
    head = tag("tr", *(tag("th", name) for name in ("routed by", "APGR", "CPT(50 %)", "CPT(80 %)")))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    whole = tag("table", tag("thead", head), tag("tbody", *body))
    return tag(
        "section",
        tag("h2", "One weak and one strong model"),
        tag(
            "p",
            f"{pool.weak} answers unless the router expects enough of {pool.strong}. APGR is the "
            "mean share of the gap recovered over all shares of strong calls (0.5 by chance); CPT "
            "the least share of strong calls that recovers half, or 80 %, of it.",
            class_="lead",
        ),
        tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label="APGR and CPT"),
    )


def _cells(row: ModelRow) -> tuple[str, ...]:
    return (
        row.name,
        percent(row.share),
        with_interval(row.quality),
        usd(row.cost_usd.value),
        seconds(row.latency_p50_s),
        seconds(row.latency_p95_s),
        f"{row.answers:,}",
    )


def _draw(rows: list[ModelRow], width: int) -> Element:
    height = _ROW_PX * len(rows) + 8
    x, y = plot_area(width, height, (0.0, 1.0), (0.0, 1.0))
    canvas = Canvas(width, height, x, y, "Share of the items that each model answered")
    for number, row in enumerate(rows):
        top = number * _ROW_PX + _NAME_PX - 4
        canvas.text((0, top), shortened(row.name, width - _SHARE_PX), "start", "strong")
        canvas.text((width, top), percent(row.share), "end")
        length = max(row.share * width, 2)
        size = {"x": 0, "y": top + 5, "width": f"{length:.1f}", "height": 7, "rx": 2}
        canvas.marks.append(tag("rect", class_="bar s0", **size))
    return canvas.picture()
