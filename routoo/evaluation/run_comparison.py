"""Compares evaluation runs item by item, and raises alerts where a run is worse than earlier ones.

Since the same items are compared, it doesn't matter which of them are hard. There is an alert only
where the 99 % interval of the difference excludes 0 and the difference reaches a stated size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from routoo.domain.completion import AnswerDecision
from routoo.errors import InputError
from routoo.evaluation.bootstrap import MeanInterval, mean_interval
from routoo.evaluation.evaluation_run import NO_MODEL, EvaluationRun, chosen_quality
from routoo.evaluation.quality_metrics import Reliability, reliability
from routoo.statistics import share_interval

LEVEL = 0.99
MIN_QUALITY_DROP = 0.01
"""A smaller loss of mean quality is not worth an alert."""
MIN_COST_RISE = 0.05
"""A smaller rise, as a share of the earlier mean cost, is not worth an alert."""
MIN_CALIBRATION_SHIFT = 0.03
"""Least change of expected less actual quality, away from 0."""
FAR = 0.99
"""Novelty beyond which a prompt is farther from training than 99 % of the training prompts."""
MAX_FAR_SHARE = 0.05
"""A smaller share of far prompts is not worth an alert; one in a hundred is expected."""
MIN_ITEMS = 20
"""With fewer items or prompts nothing is compared."""
_Z = 2.5758
"""Of the normal distribution at 99 %."""


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


def _shared_items(before: EvaluationRun, after: EvaluationRun) -> list[tuple[int, int]]:
    """Return the rows of each item in both runs that was graded in both."""
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
    return pairs


def compare_runs(before: EvaluationRun, after: EvaluationRun) -> RunComparison:
    """Compare two graded runs of sets that share items.

    Raises:
        InputError: No item was graded in both.
    """
    pairs = _shared_items(before, after)
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


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that changed for the worse."""

    kind: str
    """quality, cost, calibration, answers, novelty or rollback."""
    subject: str
    """Model concerned, or `accepted answers`; empty for the whole run."""
    message: str
    facts: dict[str, Any]


def find_alerts(
    run: EvaluationRun,
    earlier: Sequence[EvaluationRun],
    traffic_novelty: Float32[np.ndarray, " prompts"],
) -> list[Alert]:
    """Compare a run with the runs before it, and return what changed for the worse.

    Args:
        run: The run, graded.
        earlier: Graded runs over the same items, newest first; none for a first run.
        traffic_novelty: Distance from training of the prompts that users sent since the last run.
    """
    alerts = list(_novelty_alerts(traffic_novelty))
    if earlier:
        alerts += [
            *_quality_alerts(run, earlier),
            *_cost_alerts(run, earlier),
            *_calibration_alerts(run, earlier),
        ]
        alerts += _model_alerts(run, earlier)
        alerts += _acceptance_alerts(run, earlier)
    if len(earlier) > 1:
        alerts += _answer_alerts(run, earlier)
    return alerts


def _quality_alerts(run: EvaluationRun, earlier: Sequence[EvaluationRun]) -> Iterator[Alert]:
    found = mean_interval(
        run.quality - _mean([one.quality.astype(np.float64) for one in earlier]), level=LEVEL
    )
    if found.items >= MIN_ITEMS and found.high < 0 and found.mean <= -MIN_QUALITY_DROP:
        text = f"quality fell by {-found.mean:.1%} of the items"
        yield Alert("quality", "", f"{text} {_between(-found.high, -found.low)}", asdict(found))


def _acceptance_alerts(run: EvaluationRun, earlier: Sequence[EvaluationRun]) -> Iterator[Alert]:
    """Compare the share of right ones among accepted answers; which items they are may differ."""
    now, before = _accepted_quality([run]), _accepted_quality(earlier)
    found, usual = mean_interval(now, level=LEVEL), mean_interval(before, level=LEVEL)
    enough = min(found.items, usual.items) >= MIN_ITEMS
    if enough and found.high < usual.low and usual.mean - found.mean >= MIN_QUALITY_DROP:
        text = f"{found.mean:.1%} of the accepted answers are right, {usual.mean:.1%} before"
        facts = {**asdict(found), "before": asdict(usual)}
        yield Alert("quality", "accepted answers", text, facts)


def _accepted_quality(runs: Sequence[EvaluationRun]) -> Float64[np.ndarray, " answers"]:
    parts = [one.quality[one.decided(AnswerDecision.ACCEPTED)] for one in runs]
    return np.concatenate(parts).astype(np.float64)


def _model_alerts(run: EvaluationRun, earlier: Sequence[EvaluationRun]) -> Iterator[Alert]:
    """Compare the quality of each model's own answers to the sample."""
    for column, name in enumerate(run.models):
        before = [
            one.sample_quality[:, one.models.index(name)].astype(np.float64)
            for one in earlier
            if name in one.models
        ]
        if not before:
            continue
        change = run.sample_quality[:, column] - _mean(before)
        found = mean_interval(change, level=LEVEL)
        if found.items >= MIN_ITEMS and found.high < 0 and found.mean <= -MIN_QUALITY_DROP:
            text = f"{name} alone answers {-found.mean:.1%} of the items worse"
            shown = f"{text} {_between(-found.high, -found.low)}"
            yield Alert("quality", name, shown, asdict(found))


def _cost_alerts(run: EvaluationRun, earlier: Sequence[EvaluationRun]) -> Iterator[Alert]:
    before = _mean([one.cost_usd for one in earlier])
    usual = float(np.mean(before))
    if usual <= 0:
        return
    found = mean_interval((run.cost_usd - before) / usual, level=LEVEL)
    if found.items >= MIN_ITEMS and found.low > 0 and found.mean >= MIN_COST_RISE:
        text = f"an item costs {found.mean:.1%} more {_between(found.low, found.high)}"
        yield Alert("cost", "", text, asdict(found))


def _calibration_alerts(run: EvaluationRun, earlier: Sequence[EvaluationRun]) -> Iterator[Alert]:
    before = _mean([chosen_quality(one) - one.quality for one in earlier])
    now = chosen_quality(run) - run.quality
    found = mean_interval(now - before, level=LEVEL)
    excludes_none = found.low > 0 or found.high < 0
    # A new checkpoint that overestimates by less than the one before is no reason to warn.
    worse = found.items > 0 and abs(np.nanmean(now)) > abs(np.nanmean(before))
    moved = found.items >= MIN_ITEMS and excludes_none and abs(found.mean) >= MIN_CALIBRATION_SHIFT
    if moved and worse:
        text = f"predicted less actual quality moved by {found.mean:+.1%}"
        yield Alert("calibration", "", f"{text} {_between(found.low, found.high)}", asdict(found))


def _answer_alerts(run: EvaluationRun, earlier: Sequence[EvaluationRun]) -> Iterator[Alert]:
    """Compare each model's rate of changed answers with the rate between the two runs before."""
    for column, name in enumerate(run.models):
        now, usual = _changes(run, earlier[0], column), _changes(earlier[0], earlier[1], column)
        if min(len(now), len(usual)) < MIN_ITEMS:
            continue
        low, high = _share_interval(now)
        usual_high = _share_interval(usual)[1]
        if low > usual_high:
            text = f"{name} changed {np.mean(now):.0%} of its answers {_between(low, high)}"
            shown = f"{text}, {np.mean(usual):.0%} before: has its provider updated it?"
            facts = {"share": float(np.mean(now)), "low": low, "usual": float(np.mean(usual))}
            yield Alert("answers", name, shown, facts)


def _changes(late: EvaluationRun, early: EvaluationRun, column: int) -> list[bool]:
    """Return, of the items that one model answered in both runs, whether the text changed."""
    pairs = zip(
        late.answered_by, early.answered_by, late.answer_sha256, early.answer_sha256, strict=True
    )
    return [new != old for who, whom, new, old in pairs if who == whom == column]


def _novelty_alerts(novelty: Float32[np.ndarray, " prompts"]) -> Iterator[Alert]:
    if len(novelty) < MIN_ITEMS:
        return
    far = (novelty >= FAR).tolist()
    low, high = _share_interval(far)
    if low > MAX_FAR_SHARE:
        text = f"{np.mean(far):.0%} of users' prompts {_between(low, high)} are far from training"
        facts = {"share": float(np.mean(far)), "low": low, "prompts": len(far)}
        yield Alert("novelty", "", f"{text}: retrain with graded answers of theirs", facts)


def _share_interval(hits: Sequence[bool]) -> tuple[float, float]:
    """Return the 99 % interval of a share."""
    return share_interval(sum(hits) / len(hits), len(hits), _Z)


def _mean(rows: Sequence[Float64[np.ndarray, " items"]]) -> Float64[np.ndarray, " items"]:
    """Return each item's mean over the runs that know it, NaN where none does."""
    stacked = np.stack(rows)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def _between(low: float, high: float) -> str:
    return f"(99 % interval {low:.1%} to {high:.1%})"
