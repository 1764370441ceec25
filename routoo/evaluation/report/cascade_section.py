"""The sections of judged answers: both policies at each budget, and how good judgements are."""

from routoo.evaluation.cascade_report import CascadePoint, CascadeReport, JudgementFigures
from routoo.evaluation.report.section import (
    FigureTable,
    Section,
    fixed,
    percent,
    usd_per_thousand,
    with_interval,
)

POINT_COLUMNS = (
    "USD/1,000",
    "by prompt",
    "probe, then decide",
    "difference",
    "probed",
    "compared",
    "escalated",
    "precision",
    "recall",
    "best model at that cost",
)
JUDGEMENT_COLUMNS = (
    "answers of",
    "answers",
    "AUC",
    "with answer",
    "Brier",
    "with answer",
    "ECE",
    "with answer",
)


def point_cells(point: CascadePoint) -> tuple[str, ...]:
    """Return both policies under one budget."""
    return (
        usd_per_thousand(point.budget_usd),
        fixed(point.prompt.value),
        fixed(point.cascade.value),
        with_interval(point.difference),
        percent(point.probed),
        percent(point.compared),
        percent(point.escalated),
        fixed(point.precision),
        fixed(point.recall),
        f"{fixed(point.best_model_quality)} {point.best_model}",
    )


def judgement_cells(row: JudgementFigures) -> tuple[str, ...]:
    """Return how good estimates of a model's answers are, before and after looking at them."""
    name = row.probe if row.second is None else f"{row.probe}, beside {row.second}"
    figures = (
        *(row.auc_before, row.auc_after, row.brier_before, row.brier_after),
        *(row.ece_before, row.ece_after),
    )
    return (name, f"{row.answers:,}", *map(fixed, figures))


def cascade_sections(report: CascadeReport) -> list[Section]:
    """Return the table of budgets, and that of judgements where there are some."""
    gains = (
        f"Every call at its model's mean cost, on the {report.items:,} items that all models "
        f"answered. Mean gain over the mix: {with_interval(report.prompt_gain)} by the prompt "
        f"alone, {with_interval(report.cascade_gain)} where answers are judged, the difference "
        f"{with_interval(report.gain_difference)}. Precision is the mean score of kept answers, "
        "recall the share of good answers that are kept."
    )
    points = [point_cells(point) for point in report.points]
    sections = [
        Section("Probe, then decide", gains, FigureTable(POINT_COLUMNS, points, is_folded=False))
    ]
    if report.judgements:
        rows = [judgement_cells(row) for row in report.judgements]
        told = "Estimates that a model's answer is right: by the prompt alone, and with the answer."
        table = FigureTable(JUDGEMENT_COLUMNS, rows, is_folded=False)
        sections.append(Section("How good judgements are", told, table))
    return sections
