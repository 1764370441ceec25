"""Draws a plan, on a screen and as a picture: what the money will buy, before any is spent."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from routoo.console import formatting
from routoo.console.output import FittedTable, TableColumn
from routoo.domain.job import BatchStatus
from routoo.files import check_suffix, replacing
from routoo.store.batches.records import BatchRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Plan = dict[str, Any]
"""A plan as the batch keeps it."""
_PICTURE_FORMATS = (".png", ".svg", ".pdf")


def plan_view(batch: BatchRecord, plan: Plan, *, tells_how_to_run: bool = True) -> RenderableType:
    """Return the screen of `plan`, of a batch that was scored and selected.

    Args:
        batch: The batch.
        plan: Its plan.
        tells_how_to_run: Whether the command is named that runs a plan which waits.
    """
    parts: list[RenderableType] = [
        Text.assemble(("plan ", "dim"), str(batch.id), " ", (batch.name, "bold"), " ", batch.status)
    ]
    facts = Table.grid(padding=(0, 2))
    for name, text in plan_facts(batch, plan):
        facts.add_row(name, text)
    parts.append(facts)
    parts += [Text(), _shares(plan)]
    frontier = plan.get("forecast", {}).get("frontier")
    if frontier:
        parts += [Text(), _frontier(frontier, plan["jobs"])]
    if tells_how_to_run and batch.status is BatchStatus.PLANNED and plan["served"]:
        parts += [Text(), Text(f"Run it with: routoo-producer submit --plan {batch.id}")]
    return Group(*parts)


def check_picture_format(path: Path) -> None:
    """Refuse a file name that no picture can have.

    Raises:
        InputError: Its suffix is none that is known.
    """
    check_suffix(path, _PICTURE_FORMATS, "the picture's format is not known")


def plot_plan(plan: Plan, path: Path) -> None:
    """Draw quality over cost: the frontier, the random mix, each model alone, and the plan.

    Args:
        plan: As the batch keeps it, with its forecast.
        path: Picture to write, whole or not at all.

    Raises:
        InputError: The folder can't be written.
    """
    from matplotlib.figure import Figure  # takes 0.5 s: not for a plan in text

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    points = plan.get("forecast", {}).get("frontier", [])
    _plot_line(axes, points, "mean_quality", "frontier", ".-")
    if any(point.get("direct_quality") is not None for point in points):
        _plot_line(axes, points, "direct_quality", "without judging answers", ":")
    _plot_line(axes, points, "random_mix_quality", "random mix", "--")
    _plot_models(axes, plan["models"])
    if plan["served"]:
        at = (plan["expected_cost_usd"], plan["expected_quality"])
        label = _plan_label(plan)
        axes.plot(*at, marker="*", markersize=14, linestyle="none", color="red", label=label)
    axes.set_xlabel("expected cost of the batch, USD")
    axes.set_ylabel("mean predicted quality")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    with replacing(path) as stream:
        figure.savefig(stream, dpi=150, format=path.suffix.removeprefix(".").lower())


def _plan_label(plan: Plan) -> str:
    """Name a plan, with its cost at worst, and how many of its jobs are probes."""
    cost = formatting.usd(plan["expected_cost_usd"])
    lines = [f"this plan: {cost}{_worst(plan.get('forecast', {}))}"]
    probes = plan.get("probes")
    if probes and probes["jobs"]:
        share, escalated = map(formatting.percent, (probes["share"], probes["escalation_share"]))
        lines.append(f"{share} are probes, {escalated} of these ask another model")
    return "\n".join(lines)


def _plot_line(
    axes: "Axes", points: Sequence[Mapping[str, Any]], name: str, label: str, style: str
) -> None:
    """Draw a quality over the cost, where points have it; the style is one of matplotlib's."""
    known = [point for point in points if point.get(name) is not None]
    axes.plot([one["cost_usd"] for one in known], [one[name] for one in known], style, label=label)


def _plot_models(axes: "Axes", models: Sequence[Mapping[str, Any]]) -> None:
    """Mark what each model alone would bring, its name on the side that has room."""
    right_usd = max((model["alone_cost_usd"] for model in models), default=0.0) / 2
    for model in models:
        at = (model["alone_cost_usd"], model["alone_quality"])
        axes.plot(*at, marker="s", linestyle="none", color="grey")
        side: dict[str, Any] = (
            {"xytext": (-6, -12), "ha": "right"} if at[0] > right_usd else {"xytext": (6, -12)}
        )
        axes.annotate(model["model"], at, textcoords="offset points", fontsize=8, **side)


def plan_facts(batch: BatchRecord, plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield what a plan promises, as names and sentences."""
    forecast = plan.get("forecast", {})
    yield "aim", formatting.describe_objective(batch.objective, batch.budget_usd)
    yield "jobs", _jobs(plan)
    yield from _promises(batch, plan)
    if batch.deadline is not None:
        yield "until", f"{batch.deadline:%Y-%m-%d %H:%M:%S} UTC, whenever it is submitted"
    pace = _pace(forecast.get("reservations"))
    if pace is not None:
        yield "pace", pace
    price = plan["shadow_price_per_usd"]
    if price:
        yield "money", formatting.describe_shadow_price(price, plan["expected_cost_usd"])
    for name, per_unit in plan.get("shadow_prices", {}).items():
        if per_unit:
            yield "limit", f"{name}: one more would buy {per_unit:.2g} more good answers"
    yield "proof", f"{plan['status'].replace('_', ' ')}{_gap(plan['gap'])}"
    if plan["advice"]:
        yield "advice", plan["advice"]


def _pace(reservations: Plan | None) -> str | None:
    """Say how many calls the money keeps in flight, where that is fewer than there are slots."""
    if reservations is None or reservations["calls_at_the_end"] >= reservations["slots"]:
        return None
    at_once = max(1, min(reservations["calls_at_once"], reservations["slots"]))
    at_the_end = max(1, reservations["calls_at_the_end"])
    last = f", {at_the_end:,} at the end" if at_the_end < at_once else ""
    return (
        f"the budget covers {at_once:,} calls at a time{last}; set max_tokens, "
        f"or {formatting.usd(reservations['budget_for_all_usd'])} for {reservations['slots']:,}"
    )


def _promises(batch: BatchRecord, plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield what the jobs that get a model are expected to bring, cost and take."""
    if not plan["served"]:
        return
    forecast = plan.get("forecast", {})
    quality = formatting.percent(plan["expected_quality"])
    yield "quality", f"{quality} expected{_interval(forecast)}"
    if batch.objective.risk:
        yield "caution", f"{formatting.percent(forecast.get('cautious_quality'))} counted on"
    yield "cost", f"{formatting.usd(plan['expected_cost_usd'])} expected{_worst(forecast)}"
    if plan.get("probes"):
        yield "probes", formatting.describe_probes(plan["probes"])
    if "finish" in forecast:
        yield "time", _time(forecast["finish"])


def _worst(forecast: Plan) -> str:
    worst_usd = forecast.get("worst_case_usd")
    return "" if worst_usd is None else f", {formatting.usd(worst_usd)} at worst"


def _jobs(plan: Plan) -> str:
    parts = [f"{plan['served']:,} of {plan['jobs']:,} get a model"]
    if plan["no_eligible_model"]:
        parts.append(f"{plan['no_eligible_model']:,} that no model may answer")
    if plan["unaffordable"]:
        parts.append(f"{plan['unaffordable']:,} that the limits leave none for")
    return ", ".join(parts)


def _interval(forecast: Plan) -> str:
    if "quality_interval" not in forecast:
        return ""
    low, high = (formatting.percent(end) for end in forecast["quality_interval"])
    return f", {low} to {high} with {forecast['confidence']:.0%} confidence"


def _time(finish: Plan | None) -> str:
    if finish is None:
        return "not known: declare expected_latency in the pool, or make calls to measure it"
    half, most, last = (formatting.duration(finish[key]) for key in ("p50_s", "p95_s", "last_s"))
    slow = max(finish["endpoints"], key=lambda one: one["spread_s"] + one["latency_s"])
    return (
        f"half of the answers in {half}, 95% in {most}, all in {last}; "
        f"{slow['endpoint'].replace('|', ' ')} takes longest, by its {slow['slowest']}"
    )


def _gap(gap: float | None) -> str:
    return "" if gap is None else f": no choice is better by more than {gap:.2g} of its value"


_SHARE_COLUMNS = (
    TableColumn(title="", least=20, fold=True),
    TableColumn(title="quality", right=True),
    TableColumn(title="cost", right=True),
    TableColumn(title="jobs in plan", rank=2, right=True),
    TableColumn(title="share", rank=1, right=True),
)


def _add_routed(table: FittedTable, plan: Plan) -> None:
    """Add the plan itself, and what it is to be compared with at its cost."""
    cost = formatting.usd(plan["expected_cost_usd"])
    quality = formatting.percent(plan["expected_quality"])
    table.add_row("this plan", quality, cost, f"{plan['served']:,}", "", style="bold")
    direct, mix = plan.get("direct"), plan.get("random_mix_quality")
    if direct:
        quality = formatting.percent(direct["expected_quality"])
        spent = formatting.usd(direct["expected_cost_usd"])
        table.add_row("without judging answers", quality, spent, "", "")
    if mix is not None:
        table.add_row("random mix, same cost", formatting.percent(mix), cost, "", "")


def _shares(plan: Plan) -> FittedTable:
    table = FittedTable(*_SHARE_COLUMNS)
    if plan["served"]:
        _add_routed(table, plan)
    best = plan.get("best_single")
    for model in plan["models"]:
        is_best = best is not None and model["model"] == best["model"]
        table.add_row(
            f"only {model['model']}{', best at this cost' if is_best else ''}",
            formatting.percent(model["alone_quality"]),
            formatting.usd(model["alone_cost_usd"]),
            f"{model['jobs']:,}",
            formatting.percent(model["share"]),
        )
    return table


def _frontier(points: list[Plan], jobs: int) -> FittedTable:
    step = formatting.small_amount(points[-1]["cost_usd"])
    is_judged = any(point.get("direct_quality") is not None for point in points)
    without = [TableColumn(title="unjudged", rank=1, right=True)] if is_judged else []
    table = FittedTable(
        TableColumn(title="budget", right=True),
        TableColumn(title="quality", right=True),
        *without,
        TableColumn(title="random mix", rank=1, right=True),
        TableColumn(title="per 1,000 jobs", rank=2, right=True),
        TableColumn(title=f"${step:f} more buys", rank=3, right=True),
    )
    for point in points:
        price = point["shadow_price_per_usd"]
        more = f"{price * float(step):.2g} good answers" if price else ""
        table.add_row(
            formatting.usd(point["cost_usd"]),
            formatting.percent(point["mean_quality"]),
            *([formatting.percent(point.get("direct_quality"))] if is_judged else []),
            formatting.percent(point["random_mix_quality"]),
            formatting.usd(point["cost_usd"] / jobs * 1000),
            more,
        )
    return table
