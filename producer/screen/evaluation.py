"""Draws evaluation runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from producer.evaluation.runs import RunView
from routoo.console import formatting
from routoo.console.fitted_table import FittedTable, TableColumn
from routoo.console.output import console

_FIGURES = (
    ("quality", "quality"),
    ("expected_quality", "predicted quality"),
    ("overconfidence", "predicted less actual"),
    ("cost_per_item_usd", "cost an item, USD"),
    ("expected_cost_per_item_usd", "expected cost, USD"),
    ("novelty", "novelty"),
)


_RUN_COLUMNS = (
    TableColumn(title="run"),
    TableColumn(title="name", least=10),
    TableColumn(title="set", rank=1, least=10),
    TableColumn(title="state"),
    TableColumn(title="quality", right=True),
    TableColumn(title="cost", rank=2, right=True),
    TableColumn(title="alerts", right=True),
    TableColumn(title="begun", rank=3),
)


def run_table(views: Sequence[RunView]) -> FittedTable:
    """Return a table of runs, a line each; ids are cut to what tells them apart."""
    table = FittedTable(*_RUN_COLUMNS)
    shown = formatting.short_ids([view.run.id for view in views])
    for view in views:
        figures = view.run.figures or {}
        cost = figures.get("cost_usd")
        table.add_row(
            shown[view.run.id],
            view.name,
            view.eval_set,
            view.run.state,
            _shown(figures.get("quality")),
            "-" if cost is None else formatting.usd(cost),
            str(len(view.alerts)) if view.alerts else "",
            f"{view.run.created_at:%Y-%m-%d %H:%M} UTC",
        )
    return table


def print_run(view: RunView) -> None:
    """Print a run's main figures with their intervals, and its alerts."""
    run, figures = view.run, view.run.figures
    screen = console()
    screen.print(f"run {run.id}: {view.eval_set}, {run.state}", highlight=False)
    aim = formatting.describe_objective(view.objective, view.budget_usd)
    screen.print(f"aim {aim}", highlight=False)
    if run.error:
        screen.print(run.error, highlight=False)
    if figures is not None:
        screen.print(
            f"{figures['items']:,} items, {figures['answered']:,} answered,"
            f" {figures['ungraded']:,} ungraded, {figures['sampled']:,} sampled;"
            f" {formatting.usd(figures['cost_usd'])} spent,"
            f" {formatting.usd(figures['sample_cost_usd'])} on the sample",
            highlight=False,
        )
        screen.print(_figure_table(figures))
        screen.print(_model_table(figures["models"]))
        for line in _comparison_lines(figures):
            screen.print(line, highlight=False)
    for alert in view.alerts:
        screen.print(f"alert: {alert.message}", highlight=False)


def _comparison_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Say how answers were judged, and what else the money buys."""
    cascade = figures.get("cascade")
    if cascade:
        yield (
            f"judged answers: {cascade['accepted']:,} accepted "
            f"({_shown(cascade['acceptance_precision'])} of them right), "
            f"{cascade['escalated']:,} escalated ({cascade['escalation_share']:.1%}), "
            f"{cascade.get('kept', 0):,} kept"
        )
    planned = figures.get("planned") or {}
    if planned.get("best_single") is not None:
        yield (
            f"planned: {formatting.percent(planned['quality'])}; at the same cost the best single "
            f"model, {planned['best_single']}: {formatting.percent(planned['best_single_quality'])}"
        )
    if planned.get("unjudged_quality") is not None:
        without = formatting.percent(planned["unjudged_quality"])
        yield f"planned without judging answers, at the same cost: {without}"
    same = figures.get("same_cost")
    if same:
        if same["best_single"] is not None:
            yield (
                f"measured on {same['items']:,} items at the same cost: "
                f"{_difference(same['over_single'])} over {same['best_single']}, the best single "
                "model"
            )
        if same["over_unjudged"]["mean"] is not None:
            yield (
                f"judging answers brought {_difference(same['over_unjudged'])} over choosing by "
                "the prompt alone, at the same cost"
            )


def _difference(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:+.3f} [{found['low']:+.3f} to {found['high']:+.3f}]"


def _figure_table(figures: Mapping[str, Any]) -> FittedTable:
    table = FittedTable(
        TableColumn(title="figure", least=16, fold=True),
        TableColumn(title="mean", right=True),
        TableColumn(title="95 % interval", right=True),
        TableColumn(title="items", rank=1, right=True),
    )
    for key, name in _FIGURES:
        found = figures[key]
        between = "-"
        if found["low"] is not None:
            between = f"{found['low']:.4g} to {found['high']:.4g}"
        table.add_row(name, _shown(found), between, str(found["items"]))
    return table


def _model_table(models: Sequence[Mapping[str, Any]]) -> FittedTable:
    table = FittedTable(
        TableColumn(title="model", least=20, fold=True),
        TableColumn(title="answers", right=True),
        TableColumn(title="alone, on the sample", rank=1, right=True),
    )
    for model in models:
        alone = _shown(model["sample_quality"])
        table.add_row(model["model"], f"{model['answers']:,}", alone)
    return table


def _shown(found: Mapping[str, Any] | None) -> str:
    return "-" if not found or found["mean"] is None else f"{found['mean']:.4g}"
