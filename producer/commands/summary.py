"""`routoo-producer summary`: compare a batch's routing with every single model."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from producer.commands.options import BatchArgument, JsonOption, StrictOption
from routoo.console import formatting
from routoo.console.output import FittedTable, TableColumn, console, json_line
from routoo.console.run import DEVIATED, run_with_database

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64
    from rich.console import RenderableType

    from producer.progress import Snapshot
    from routoo.evaluation.bootstrap import Interval
    from routoo.store.database import Database

Answered = tuple[float, float]
"""The score of a job's answer, and its cost in USD."""
Point = tuple[float, float]
"""Cost of the batch in USD, and mean quality."""
_SAME_COST = 1 + 1e-9
"""The same calls, added up in another order, cost the same."""
OutcomesOption = Annotated[
    Path | None,
    typer.Option(
        "--outcomes",
        metavar="FILE",
        help="Outcome table (Parquet) with what each model alone scored on these jobs; item_id is "
        "the custom_id. `routoo collect` writes one.",
        show_default=False,
    ),
]


def summary_command(
    batch: BatchArgument = None,
    *,
    outcomes: OutcomesOption = None,
    as_json: JsonOption = False,
    strict: StrictOption = False,
) -> None:
    """Compare the routing with every single model: quality, cost, shares, budget, time.

    Expected figures are the predictor's; graded ones need `routoo-producer grade` first.

    Examples:
        routoo-producer summary
        routoo-producer summary monday --outcomes outcomes.parquet --json
    """
    from routoo.settings import load_settings

    summary = run_with_database(
        load_settings(), lambda database: summarise_batch(database, batch, outcomes)
    )
    if as_json:
        typer.echo(json_line(summary.as_json()))
    else:
        console().print(summary_view(summary))
    if strict and not summary.snapshot.as_planned:
        raise typer.Exit(DEVIATED)


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

    @property
    def expected(self) -> Point | None:
        """What is expected of it; None where that is not known."""
        return _point(self.expected_cost_usd, self.expected_quality)

    @property
    def graded(self) -> Point | None:
        """What it reached; None where nothing is graded."""
        return _point(self.cost_usd, self.graded_quality)


def _point(cost_usd: float | None, quality: float | None) -> Point | None:
    return None if cost_usd is None or quality is None else (cost_usd, quality)


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures that the closing screen of a batch compares."""

    snapshot: "Snapshot"
    graded_jobs: int
    routed: Contender
    alone: tuple[Contender, ...]
    """Every candidate model if it had answered all jobs, in pool order."""
    mix: Contender
    """A random mix of models at the routed cost: what the money buys without a predictor."""
    gain: "Interval | None" = None
    """Graded quality of the routing less that of the mix, over the jobs that all have graded."""
    direct: Contender | None = None
    """The best choice at the planned cost without judging answers; None where none is judged."""
    best_single: Contender | None = None
    """The best model that alone costs no more than the routing; None where none is as cheap."""

    def as_json(self) -> dict[str, Any]:
        """Return the facts that `--json` prints."""
        return {
            **self.snapshot.as_json(),
            "plan": self.snapshot.batch.plan,
            "graded_jobs": self.graded_jobs,
            "routed": asdict(self.routed),
            "alone": [asdict(contender) for contender in self.alone],
            "without_judging": None if self.direct is None else asdict(self.direct),
            "best_single": None if self.best_single is None else asdict(self.best_single),
            "random_mix": asdict(self.mix),
            "gain_over_random_mix": None if self.gain is None else asdict(self.gain),
        }


async def summarise_batch(
    database: "Database", batch: str | None, outcomes: Path | None = None
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
    from producer.progress import find_batch, take_snapshot
    from routoo.store.evaluation.grades import load_scores

    async with database.transaction() as conn:
        snapshot = await take_snapshot(conn, await find_batch(conn, batch))
        scores = await load_scores(conn, snapshot.batch.id)
    plan = snapshot.batch.plan or {}
    graded = fmean(score for score, _ in scores.values()) if scores else None
    expected = (plan.get("expected_quality"), plan.get("expected_cost_usd"))
    routed = Contender("routed", *expected, graded, float(snapshot.spent_usd))
    recorded = _recorded(outcomes, scores.keys()) if outcomes else {}
    alone = tuple(
        Contender(
            one["model"],
            one["alone_quality"],
            one["alone_cost_usd"],
            *_of_batch(recorded.get(one["model"], {}), snapshot.progress.jobs),
        )
        for one in plan.get("models", ())
    )
    mix = _mix(routed, alone)
    models = [recorded.get(one.name, {}) for one in alone]
    gain = gain_over_mix(scores, models) if mix.graded_quality is not None else None
    return Summary(
        snapshot=snapshot,
        graded_jobs=len(scores),
        routed=routed,
        alone=alone,
        mix=mix,
        gain=gain,
        direct=_direct(plan),
        best_single=best_single(routed, alone),
    )


def _direct(plan: Mapping[str, Any]) -> Contender | None:
    found = plan.get("direct")
    if not found:
        return None
    return Contender(
        "without judging answers", found["expected_quality"], found["expected_cost_usd"]
    )


def best_single(routed: Contender, alone: Iterable[Contender]) -> Contender | None:
    """Return the best model that alone costs no more than the routing, by grades if there are any.

    Where none is as cheap it is None.
    """
    alone = tuple(alone)
    is_graded = any(one.graded for one in alone)

    def found(one: Contender) -> Point | None:
        return one.graded if is_graded else one.expected

    routed_at, models = found(routed), [(found(one), one) for one in alone]
    if routed_at is None:
        return None
    most_usd = routed_at[0] * _SAME_COST
    cheap = [(at[1], one) for at, one in models if at is not None and at[0] <= most_usd]
    return max(cheap, key=itemgetter(0), default=(0.0, None))[1]


def _recorded(path: Path, graded: Iterable[str]) -> dict[str, dict[str, Answered]]:
    """Return each model's score and cost of the graded jobs, by custom_id."""
    from routoo.domain.tables import read_outcomes

    table, wanted = read_outcomes(path), set(graded)
    rows: dict[str, dict[str, Answered]] = {}
    columns = zip(table.item_ids, table.models, table.score, table.cost_usd, strict=True)
    for item_id, model, score, cost_usd in columns:
        if item_id in wanted and not math.isnan(score):
            rows.setdefault(model, {})[item_id] = (float(score), float(cost_usd))
    return rows


def _of_batch(answers: Mapping[str, Answered], jobs: int) -> tuple[float | None, float | None]:
    """Return the mean score of a model's answers, and their cost scaled to so many jobs."""
    if not answers:
        return None, None
    scores, costs_usd = zip(*answers.values(), strict=True)
    return fmean(scores), fmean(costs_usd) * jobs


def gain_over_mix(
    routed: Mapping[str, Answered], models: Sequence[Mapping[str, Answered]]
) -> "Interval | None":
    """Return how much better the routing is than the best random mix that costs the same.

    Jobs are drawn with replacement, and the mix is chosen anew for each draw.

    Args:
        routed: Score and cost in USD of each job as it was routed, by custom_id.
        models: The same of each model alone.

    Returns:
        The difference of mean scores with its 95 % interval; None where no job has all of them.
    """
    import numpy as np

    from routoo.evaluation.bootstrap import Interval, bootstrap_weights

    common = [job for job in routed if all(job in model for model in models)]
    if not common or not models:
        return None
    table = np.array([[one[job] for job in common] for one in (routed, *models)])
    draws = bootstrap_weights(len(common), seed=0) @ table  # contenders, draws, (score, cost)
    return Interval.of(np.array([_difference(draw) for draw in draws.transpose(1, 0, 2)]))


def _difference(means: "Float64[np.ndarray, 'contenders 2']") -> float:
    """Return the routing's mean score (its row is the first) less the mix's at its mean cost."""
    import numpy as np

    from routoo.statistics import mix_quality

    (score, cost_usd), models = means[0], means[1:]
    return float(score - mix_quality(models[:, 0], models[:, 1], np.array([cost_usd]))[0])


def _mix(routed: Contender, alone: Sequence[Contender]) -> Contender:
    expected = [one.expected for one in alone if one.expected is not None]
    graded = [one.graded for one in alone if one.graded is not None]
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
    import numpy as np

    from routoo.statistics import mix_quality

    if cost_usd is None or cost_usd < min((cost for cost, _ in points), default=math.inf):
        return None
    costs_usd, qualities = np.array(points, np.float64).T
    return float(mix_quality(qualities, costs_usd, np.array([cost_usd]))[0])


def summary_view(summary: Summary) -> "RenderableType":
    """Return the closing screen of a batch."""
    from rich.console import Group
    from rich.text import Text

    from producer.screen.progress import progress_view

    parts: list[RenderableType] = [
        progress_view(summary.snapshot),
        Text(),
        _contender_table(summary),
        Text(),
    ]
    parts += [Text(line) for line in _sentences(summary)]
    return Group(*parts)


_CONTENDER_COLUMNS = (
    TableColumn(title="", least=20, fold=True),
    TableColumn(title="expected", rank=1, right=True),
    TableColumn(title="per 1,000", rank=2, right=True),
    TableColumn(title="graded", right=True),
    TableColumn(title="per 1,000", right=True),
)


def _contender_table(summary: Summary) -> FittedTable:
    table = FittedTable(*_CONTENDER_COLUMNS)
    jobs = summary.snapshot.progress.jobs
    shown = [
        ("routed", summary.routed, "bold"),
        *([(summary.direct.name, summary.direct, None)] if summary.direct else []),
        (summary.mix.name, summary.mix, None),
        *((_alone(one, summary), one, None) for one in summary.alone),
    ]
    for name, contender, style in shown:
        table.add_row(
            name,
            formatting.percent(contender.expected_quality),
            formatting.usd_per_thousand(contender.expected_cost_usd, jobs),
            formatting.percent(contender.graded_quality),
            formatting.usd_per_thousand(contender.cost_usd, jobs),
            style=style,
        )
    return table


def _alone(model: Contender, summary: Summary) -> str:
    """Name a model that answers everything; the best that is as cheap as the routing is marked."""
    return f"only {model.name}{', best at this cost' if model is summary.best_single else ''}"


def _sentences(summary: Summary) -> list[str]:
    snapshot = summary.snapshot
    rate = f"{formatting.duration(snapshot.elapsed_s)}, {formatting.rate(snapshot.jobs_per_s)}"
    lines = ["Costs are dollars per 1,000 prompts.", f"{snapshot.progress.ended:,} jobs in {rate}."]
    limit_usd = snapshot.progress.balance.limit_usd
    if limit_usd:
        used = float(snapshot.spent_usd / limit_usd)
        lines.append(
            f"{formatting.usd(snapshot.spent_usd)} spent, {formatting.percent(used)} of the budget."
        )
    lines += _worth_of_money(snapshot)
    if summary.graded_jobs:
        lines.append(f"Graded are {summary.graded_jobs:,} jobs against their references.")
    if summary.gain is not None:
        lines.append(_gain(summary.gain))
    if any(one.graded_quality is not None for one in summary.alone):
        lines.append("Single models' grades and costs are recorded answers to the same questions.")
    return lines


def _gain(gain: "Interval") -> str:
    points, low, high = (100 * value for value in (gain.value, gain.low, gain.high))
    return (
        f"Graded, the routing is {points:+.1f} points from the random mix that costs the same "
        f"(95 % interval {low:+.1f} to {high:+.1f})."
    )


def _worth_of_money(snapshot: "Snapshot") -> list[str]:
    """Say what more budget would buy, where the plan knows it."""
    plan, limit_usd = snapshot.batch.plan or {}, snapshot.progress.balance.limit_usd
    price = plan.get("shadow_price_per_usd")
    if not price:
        return []
    per_cent_more = price * float(limit_usd or 0) / 100
    sentence = (
        f"One more per cent of budget would buy about {per_cent_more:.2g} more good answers "
        f"(the plan is within {formatting.percent(plan.get('gap'))} of the best possible)."
    )
    return [sentence]
