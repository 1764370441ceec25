"""Prints a scorecard, a calibration report or a cascade's report as tables on a terminal."""

import math
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table

from routoo.console.output import FittedTable, TableColumn, report_table
from routoo.evaluation.bootstrap import Interval
from routoo.evaluation.cascade_report import CascadeReport
from routoo.evaluation.operating_point import OperatingPoint, SameCost
from routoo.evaluation.pool_comparison import PoolComparison
from routoo.evaluation.report.cascade_section import (
    JUDGEMENT_COLUMNS,
    POINT_COLUMNS,
    judgement_cells,
    point_cells,
)
from routoo.evaluation.report.section import (
    fixed,
    percent,
    signed,
    usd_per_thousand,
    with_interval,
)
from routoo.evaluation.scorecard import Scorecard

_SHOWN = 3
"""Every so manyth budget is a row."""


def print_cascade(console: Console, report: CascadeReport) -> None:
    """Print the mean gains, both policies' frontiers, and how good judgements are."""
    console.print(_gains(report))
    console.print(_cascade_frontiers(report))
    if report.judgements:
        console.print(_judgements(report))


def _gains(report: CascadeReport) -> Table:
    table = report_table("every call at its model's mean cost", "mean gain over the mix")
    table.add_row("by the prompt alone", with_interval(report.prompt_gain))
    if any(row.second is not None for row in report.judgements):
        table.add_row("probe, then decide, one answer judged", with_interval(report.single_gain))
    table.add_row("probe, then decide", with_interval(report.cascade_gain))
    table.add_row("difference", with_interval(report.gain_difference))
    return table


def _cascade_frontiers(report: CascadeReport) -> Table:
    table = report_table(*POINT_COLUMNS)
    for point in report.points[::_SHOWN]:
        table.add_row(*point_cells(point))
    return table


def _judgements(report: CascadeReport) -> Table:
    table = report_table(*JUDGEMENT_COLUMNS)
    for row in report.judgements:
        table.add_row(*judgement_cells(row))
    return table


def print_scorecard(console: Console, card: Scorecard) -> None:
    """Print what matters of a scorecard: models, routers, the reference, the operating point."""
    console.print(_models(card))
    console.print()
    console.print(_reliability(card))
    if card.pool is not None:
        console.print(_frontiers(card.pool))
        console.print(_beside(card.pool))
        console.print(_budgets(card.pool))
        if card.pool.pairs:
            console.print(_pairs(card.pool))
    if card.operating is not None:
        _print_operating(console, card.operating)
    if card.same_cost is not None:
        for line in same_cost_lines(card.same_cost):
            console.print(line, highlight=False)


def same_cost_lines(same_cost: SameCost) -> Iterator[str]:
    """Say what else the routing's money buys."""
    over, cost = same_cost.over_single, usd_per_thousand(same_cost.cost_usd)
    head = f"at the same cost ({cost} USD per 1,000), on {same_cost.items:,} items: "
    if same_cost.best_single is None:
        yield f"{head}no single model is as cheap"
    else:
        yield (
            f"{head}{signed(over.mean)} [{signed(over.low)} to {signed(over.high)}] over "
            f"{same_cost.best_single}, the best single model"
        )
    gain = same_cost.over_unjudged
    if not math.isnan(gain.mean):
        yield (
            f"judging answers brought {signed(gain.mean)} [{signed(gain.low)} to "
            f"{signed(gain.high)}] over choosing by the prompt alone, on the same items"
        )


def print_calibration(
    console: Console, by_model: Mapping[str, Mapping[str, float]], mean: Mapping[str, Interval]
) -> None:
    """Print what is known of a predictor where nothing can be routed."""
    table = report_table("model", "AUC", "Brier", "ECE", "mean score", "outcomes")
    for name, row in by_model.items():
        figures = [fixed(row[key]) for key in ("auc", "brier", "ece", "mean_score")]
        table.add_row(name, *figures, f"{row['outcomes']:.0f}")
    if mean:
        table.add_row("mean", *(with_interval(mean[name]) for name in ("auc", "brier", "ece")))
    console.print(table)


def _models(card: Scorecard) -> FittedTable:
    table = FittedTable(
        TableColumn(title="model", least=16, fold=True),
        TableColumn(title="quality"),
        TableColumn(title="USD/1,000", right=True),
        TableColumn(title="share", rank=1, right=True),
        TableColumn(title="graded", rank=2, right=True),
    )
    for row in card.models:
        cost, share = usd_per_thousand(row.cost_usd.value), percent(row.share)
        table.add_row(row.name, with_interval(row.quality), cost, share, f"{row.answers}")
    return table


def _reliability(card: Scorecard) -> FittedTable:
    figures = [TableColumn(title=title, least=12, fold=True) for title in ("AUC", "Brier", "ECE")]
    table = FittedTable(TableColumn(title="model", least=16, fold=True), *figures)
    for one in card.reliability:
        table.add_row(one.model, *(fixed(value) for value in (one.auc, one.brier, one.ece)))
    if card.mean:
        table.add_row("mean", *(with_interval(card.mean[name]) for name in ("auc", "brier", "ece")))
    return table


def _frontiers(pool: PoolComparison) -> Table:
    table = report_table("routed by", "mean gain over the mix", "least gain", "AIQ", "headroom")
    for name, row in pool.frontiers.items():
        figures = (row.gain, row.least_gain, row.aiq, row.headroom)
        table.add_row(name, *(with_interval(figure) for figure in figures))
    return table


def _beside(pool: PoolComparison) -> Table:
    table = report_table(
        f"beside {pool.reference}", "cost of its quality", "quality at its cost", "at 0.75 of it"
    )
    for name, row in pool.comparisons.items():
        gains = (signed(row.gain.value), signed(row.gain_for_less.value))
        table.add_row(name, with_interval(row.cost_ratio, 2), *gains)
    return table


def _budgets(pool: PoolComparison) -> Table:
    name = next(iter(pool.frontiers))
    table = report_table(
        f"USD/1,000, by {name}", "quality", "best model at that cost", "difference"
    )
    for one in pool.budgets[::_SHOWN]:
        single = "no model is as cheap"
        if one.best_single is not None:
            single = f"{fixed(one.best_single_quality)} {one.best_single}"
        figures = with_interval(one.quality), single, with_interval(one.over_single)
        table.add_row(usd_per_thousand(one.cost_usd), *figures)
    return table


def _pairs(pool: PoolComparison) -> Table:
    table = report_table(f"{pool.weak} or {pool.strong}", "APGR", "CPT(50%)", "CPT(80%)")
    for name, row in pool.pairs.items():
        table.add_row(name, *(with_interval(one) for one in (row.apgr, row.cpt50, row.cpt80)))
    return table


def _print_operating(console: Console, figures: OperatingPoint) -> None:
    console.print(
        f"operating point: quality {with_interval(figures.quality)}, "
        f"{fixed(figures.expected_quality)} expected; "
        f"cost {usd_per_thousand(figures.cost_usd.value)} USD per 1,000 calls, "
        f"{usd_per_thousand(figures.expected_cost_usd)} expected",
        highlight=False,
    )
    if not math.isnan(figures.latency_p50_s):
        console.print(
            f"latency: median {figures.latency_p50_s:.3g} s, 95 % within "
            f"{figures.latency_p95_s:.3g} s",
            highlight=False,
        )
