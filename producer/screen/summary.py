"""The closing screen: was the routing worth it?"""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producer.screen.progress import progress_view
from producer.summary import Contender, Summary
from routoo.console import formatting


def summary_view(summary: Summary) -> RenderableType:
    """Return the closing screen of a batch."""
    parts: list[RenderableType] = [
        progress_view(summary.snapshot),
        Text(),
        _comparison(summary),
        Text(),
    ]
    parts += [Text(line) for line in _sentences(summary)]
    return Group(*parts)


def _comparison(summary: Summary) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("", overflow="fold")
    for name in ("expected", "cost", "graded", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    _add(table, summary.routed, style="bold")
    _add(table, summary.mix)
    for contender in summary.alone:
        _add(table, contender, prefix="only ")
    return table


def _add(table: Table, contender: Contender, *, prefix: str = "", style: str | None = None) -> None:
    table.add_row(
        prefix + contender.name,
        formatting.percent(contender.expected_quality),
        formatting.usd(contender.expected_cost_usd),
        formatting.percent(contender.graded_quality),
        formatting.usd(contender.cost_usd),
        style=style,
    )


def _sentences(summary: Summary) -> list[str]:
    snapshot = summary.snapshot
    pace = f"{formatting.duration(snapshot.elapsed_s)}, {formatting.rate(snapshot.jobs_per_s)}"
    lines = [f"{snapshot.progress.ended:,} jobs in {pace}."]
    limit_usd = snapshot.progress.balance.limit_usd
    if limit_usd:
        used = float(snapshot.spent_usd / limit_usd)
        lines.append(
            f"{formatting.usd(snapshot.spent_usd)} spent, {formatting.percent(used)} of the budget."
        )
    plan = snapshot.batch.plan or {}
    price = plan.get("shadow_price_per_usd")
    if price:
        per_cent_more = price * float(limit_usd or 0) / 100
        lines.append(
            f"One more per cent of budget would buy about {per_cent_more:.2g} more good answers "
            f"(the plan is within {formatting.percent(plan.get('gap'))} of the best possible)."
        )
    if summary.graded_jobs:
        lines.append(f"Graded are {summary.graded_jobs:,} jobs against their references.")
    if any(one.graded_quality is not None for one in summary.alone):
        lines.append("Single models' grades and costs are recorded answers to the same questions.")
    return lines
