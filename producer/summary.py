"""Compares a batch's routing with every single model, expected and graded; shows it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from producer.progress import Snapshot, find_batch, take_snapshot
from producer.screen.progress import progress_view
from routoo.console import formatting
from routoo.domain.tables import read_outcomes
from routoo.statistics import mix_quality
from routoo.store.database import Database
from routoo.store.evaluation.grades import load_scores


@dataclass(frozen=True, slots=True)
class Contender:
    """The router, one model alone, or a mix: what it costs and how well it answers."""

    name: str
    expected_quality: float | None
    """Mean predicted quality over the batch."""
    expected_cost_usd: float | None
    graded_quality: float | None = None
    """Mean grade over the jobs that have one."""
    cost_usd: float | None = None
    """Actual cost of the batch; of a single model, as recorded for the graded jobs."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures that the closing screen of a batch compares."""

    snapshot: Snapshot
    graded_jobs: int
    routed: Contender
    alone: tuple[Contender, ...]
    """Every candidate model if it had answered all jobs, in pool order."""
    mix: Contender
    """A random mix of models at the routed cost: what the money buys without a predictor."""

    def as_json(self) -> dict[str, Any]:
        """Return the facts that `--json` prints."""
        return {
            **self.snapshot.as_json(),
            "plan": self.snapshot.batch.plan,
            "graded_jobs": self.graded_jobs,
            "routed": asdict(self.routed),
            "alone": [asdict(contender) for contender in self.alone],
            "random_mix": asdict(self.mix),
        }


async def summarise_batch(
    database: Database, batch: str | None, outcomes: Path | None = None
) -> Summary:
    """Compare a batch's routing with each model alone.

    Args:
        database: The store.
        batch: Id, start of an id, or name; the latest batch where None.
        outcomes: Outcome table that records what single models scored on these jobs, `item_id`
            being the custom_id; compared over the jobs that are graded.

    Raises:
        NotFoundError: There is no such batch.
        InputError: The outcome table can't be read.
    """
    async with database.transaction() as conn:
        snapshot = await take_snapshot(conn, await find_batch(conn, batch))
        scores = await load_scores(conn, snapshot.batch.id)
    plan = snapshot.batch.plan or {}
    routed = Contender(
        "routed",
        plan.get("expected_quality"),
        plan.get("expected_cost_usd"),
        sum(scores.values()) / len(scores) if scores else None,
        float(snapshot.spent_usd),
    )
    recorded = _recorded(outcomes, scores.keys(), snapshot.progress.jobs) if outcomes else {}
    alone = tuple(
        Contender(
            one["model"],
            one["alone_quality"],
            one["alone_cost_usd"],
            *recorded.get(one["model"], (None, None)),
        )
        for one in plan.get("models", ())
    )
    return Summary(snapshot, len(scores), routed, alone, _mix(routed, alone))


def _recorded(path: Path, graded: Iterable[str], jobs: int) -> dict[str, tuple[float, float]]:
    """Return each model's mean score on the graded jobs, and its cost scaled to the batch."""
    table, wanted = read_outcomes(path), set(graded)
    rows: dict[str, list[tuple[float, float]]] = {}
    columns = zip(table.item_ids, table.models, table.score, table.cost_usd, strict=True)
    for item_id, model, score, cost_usd in columns:
        if item_id in wanted:
            rows.setdefault(model, []).append((float(score), float(cost_usd)))
    return {model: (_mean(one, 0), _mean(one, 1) * jobs) for model, one in rows.items()}


def _mean(rows: Sequence[tuple[float, float]], column: int) -> float:
    return sum(row[column] for row in rows) / len(rows)


def _mix(routed: Contender, alone: Sequence[Contender]) -> Contender:
    expected = [
        (one.expected_cost_usd, one.expected_quality)
        for one in alone
        if one.expected_cost_usd is not None and one.expected_quality is not None
    ]
    graded = [
        (one.cost_usd, one.graded_quality)
        for one in alone
        if one.cost_usd is not None and one.graded_quality is not None
    ]
    return Contender(
        "random mix, same cost",
        quality_of_mix(expected, routed.expected_cost_usd),
        routed.expected_cost_usd,
        quality_of_mix(graded, routed.cost_usd),
        routed.cost_usd,
    )


def quality_of_mix(points: Sequence[tuple[float, float]], cost_usd: float | None) -> float | None:
    """Return the best mean quality that mixing models at random reaches at a cost.

    Args:
        points: Cost in USD and mean quality of each model alone.
        cost_usd: Cost to match.

    Returns:
        A point of the upper convex hull of the models; None where even the cheapest costs more, or
        nothing is known.
    """
    if cost_usd is None or cost_usd < min((cost for cost, _ in points), default=math.inf):
        return None
    costs_usd, qualities = np.array(points, np.float64).T
    return float(mix_quality(qualities, costs_usd, np.array([cost_usd]))[0])


def summary_view(summary: Summary) -> RenderableType:
    """Return the closing screen of a batch."""
    parts: list[RenderableType] = [
        progress_view(summary.snapshot),
        Text(),
        _contender_table(summary),
        Text(),
    ]
    parts += [Text(line) for line in _sentences(summary)]
    return Group(*parts)


def _contender_table(summary: Summary) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("", overflow="fold")
    for name in ("expected", "cost", "graded", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    _add_contender(table, summary.routed, style="bold")
    _add_contender(table, summary.mix)
    for contender in summary.alone:
        _add_contender(table, contender, prefix="only ")
    return table


def _add_contender(
    table: Table, contender: Contender, *, prefix: str = "", style: str | None = None
) -> None:
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
    rate = f"{formatting.duration(snapshot.elapsed_s)}, {formatting.rate(snapshot.jobs_per_s)}"
    lines = [f"{snapshot.progress.ended:,} jobs in {rate}."]
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
