"""Compares two evaluation runs item by item: what got worse comes first."""

from dataclasses import dataclass

import numpy as np

from routoo.errors import InputError
from routoo.evaluation.bootstrap import MeanInterval, mean_interval
from routoo.evaluation.evaluation_run import NO_MODEL, EvaluationRun, chosen_quality
from routoo.evaluation.quality_metrics import Reliability, reliability


@dataclass(frozen=True, slots=True)
class ItemChange:
    """One item as both runs answered it."""

    item_id: str
    prompt: str
    domain: str
    jobs: tuple[int, int]
    """Its position in either run's batch, from 0."""
    quality: tuple[float, float]
    models: tuple[str | None, str | None]
    """Who answered; None where nobody did."""
    cost_usd: tuple[float, float]

    @property
    def change(self) -> float:
        """Quality of the second run less that of the first."""
        return self.quality[1] - self.quality[0]


@dataclass(frozen=True, slots=True)
class DomainChange:
    """The items of one domain."""

    domain: str
    items: int
    quality: tuple[float, float]
    """Mean of either run."""
    difference: MeanInterval


@dataclass(frozen=True, slots=True)
class RunComparison:
    """What changed from one run to another, over the items that both have graded."""

    items: int
    quality: tuple[float, float]
    cost_usd: tuple[float, float]
    """Mean of an item, in USD."""
    difference: MeanInterval
    """Of quality, item by item."""
    cost_difference: MeanInterval
    worse: int
    """Items whose quality fell."""
    better: int
    changes: tuple[ItemChange, ...]
    """Items whose quality changed, the worst change first."""
    domains: tuple[DomainChange, ...]
    """The worst change first."""
    calibration: tuple[Reliability, Reliability]


def compare_runs(before: EvaluationRun, after: EvaluationRun) -> RunComparison:
    """Compare two graded runs of sets that share items.

    Raises:
        InputError: No item was graded in both.
    """
    places = {item_id: row for row, item_id in enumerate(before.item_ids)}
    pairs = [
        (places[item_id], row)
        for row, item_id in enumerate(after.item_ids)
        if item_id in places and before.graded[places[item_id]] and after.graded[row]
    ]
    if not pairs:
        raise InputError(
            "the two runs have no graded item in common",
            value=f"{before.facts.eval_set}, {after.facts.eval_set}",
            remedy="Compare runs of the same set",
        )
    first, second = np.array(pairs).T
    quality = [part.astype(np.float64) for part in (before.quality[first], after.quality[second])]
    cost = [before.cost_usd[first], after.cost_usd[second]]
    change = quality[1] - quality[0]
    changed = [pairs[at] for at in np.argsort(change, kind="stable") if change[at] != 0]
    return RunComparison(
        items=len(pairs),
        quality=(float(quality[0].mean()), float(quality[1].mean())),
        cost_usd=(float(cost[0].mean()), float(cost[1].mean())),
        difference=mean_interval(change),
        cost_difference=mean_interval(cost[1] - cost[0]),
        worse=int((change < 0).sum()),
        better=int((change > 0).sum()),
        changes=tuple(_item(before, after, pair) for pair in changed),
        domains=_domains([after.domains[row] for _, row in pairs], quality[0], quality[1]),
        calibration=(_calibration("before", before), _calibration("after", after)),
    )


def _item(before: EvaluationRun, after: EvaluationRun, pair: tuple[int, int]) -> ItemChange:
    first, second = pair
    return ItemChange(
        after.item_ids[second],
        after.prompts[second],
        after.domains[second],
        pair,
        (float(before.quality[first]), float(after.quality[second])),
        (_model(before, first), _model(after, second)),
        (float(before.cost_usd[first]), float(after.cost_usd[second])),
    )


def _model(run: EvaluationRun, row: int) -> str | None:
    column = int(run.answered_by[row])
    return None if column == NO_MODEL else run.models[column]


def _domains(names: list[str], before: np.ndarray, after: np.ndarray) -> tuple[DomainChange, ...]:
    found = []
    for name in dict.fromkeys(names):
        of_domain = np.array([one == name for one in names])
        first, second = before[of_domain], after[of_domain]
        means = (float(first.mean()), float(second.mean()))
        found.append(DomainChange(name, len(first), means, mean_interval(second - first)))
    return tuple(sorted(found, key=lambda one: one.difference.mean))


def _calibration(name: str, run: EvaluationRun) -> Reliability:
    return reliability(name, chosen_quality(run).astype(np.float64), _known(run))


def _known(run: EvaluationRun) -> np.ndarray:
    """Return the grades of answers; NaN where there is no answer, of which nothing was expected."""
    return np.where(run.answered, run.quality.astype(np.float64), np.nan)
