"""Prints how probing and deciding compares with routing by the prompt alone, on a terminal."""

from rich.console import Console
from rich.table import Table

from routoo.console.output import report_table
from routoo.evaluation.cascade_report import CascadeReport
from routoo.evaluation.report.section import fixed, percent, usd_per_thousand, with_interval

_SHOWN = 3
"""Every so manyth budget is a row."""


def print_cascade(console: Console, report: CascadeReport) -> None:
    """Print the mean gains, both policies' frontiers, and how good judgements are."""
    console.print(_gains(report))
    console.print(_frontiers(report))
    if report.judgements:
        console.print(_judgements(report))


def _gains(report: CascadeReport) -> Table:
    table = report_table("every call at its model's mean cost", "mean gain over the mix")
    table.add_row("by the prompt alone", with_interval(report.prompt_gain))
    table.add_row("probe, then decide", with_interval(report.cascade_gain))
    table.add_row("difference", with_interval(report.gain_difference))
    return table


def _frontiers(report: CascadeReport) -> Table:
    table = report_table(
        "USD/1,000",
        "by prompt",
        "probe, then decide",
        "difference",
        "probed",
        "escalated",
        "precision",
        "recall",
        "best model at that cost",
    )
    for point in report.points[::_SHOWN]:
        table.add_row(
            usd_per_thousand(point.budget_usd),
            fixed(point.prompt.value),
            fixed(point.cascade.value),
            with_interval(point.difference),
            percent(point.probed),
            percent(point.escalated),
            fixed(point.precision),
            fixed(point.recall),
            f"{fixed(point.best_model_quality)} {point.best_model}",
        )
    return table


def _judgements(report: CascadeReport) -> Table:
    table = report_table(
        "answers of", "answers", "AUC", "with answer", "Brier", "with answer", "ECE"
    )
    for row in report.judgements:
        figures = (row.auc_before, row.auc_after, row.brier_before, row.brier_after, row.ece_after)
        table.add_row(row.probe, f"{row.answers:,}", *map(fixed, figures))
    return table
