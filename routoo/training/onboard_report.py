"""Tells what a pool's models are good at by graded answers, and what learning them brought."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from routoo.domain.pool import Pool
from routoo.errors import InputError
from routoo.evaluation.bootstrap import mean_interval
from routoo.evaluation.item_grading import CollectedOutcome
from routoo.evaluation.routing import CompleteOutcomes, complete_outcomes, route
from routoo.training.onboard import Onboarded

THIRDS = ("easy", "middle", "hard")
MIN_SUBJECT_ANSWERS = 5
"""Fewer answers to a subject tell nothing about it."""
_CLEAR = 0.05
_SAME_COST = 1 + 1e-9
_NAMED = 2


def describe_models(onboarded: Onboarded, rows: Sequence[CollectedOutcome]) -> list[dict[str, Any]]:
    """Return each model's score with its interval, by difficulty, and its relative strengths.

    Difficulty is what the general checkpoint expected of the prompts before any answer. A strength
    is a subject at which a model does better than its own level and the subject's would tell.
    """
    matrix = onboarded.matrix
    third = _thirds(onboarded.quality["prior"])
    strengths = _strengths(onboarded)
    costs: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        costs[row.answer.model].append(row.cost_usd)
    described = []
    for column, name in enumerate(matrix.models):
        score = matrix.score[:, column]
        known = score[~np.isnan(score)].astype(np.float64)
        interval = mean_interval(known)
        by = {one: _mean(score[third == number]) for number, one in enumerate(THIRDS)}
        good = [subject for subject, excess in strengths[name] if excess > _CLEAR]
        weak = [subject for subject, excess in reversed(strengths[name]) if excess < -_CLEAR]
        prior = next(one for one in onboarded.placed if one.name == name)
        described.append(
            {
                "model": name,
                "answers": len(known),
                "score": interval.mean,
                "low": max(interval.low, 0.0),
                "high": min(interval.high, 1.0),
                "by_difficulty": by,
                "thirds_in_order": _in_order(list(by.values())),
                "good_at": good[:_NAMED],
                "weak_at": weak[:_NAMED],
                "usd_per_1000": 1000 * float(np.mean(costs[name])) if costs[name] else None,
                "prior": prior.as_json(),
            }
        )
    return described


def _in_order(means: Sequence[float | None]) -> bool:
    """Return whether no harder third has a higher score than an easier one."""
    known = [mean for mean in means if mean is not None]
    return all(easier >= harder for easier, harder in pairwise(known))


def routes_worse(routed: Mapping[str, Any] | None) -> bool:
    """Return whether routing is credibly worse by the answers: the gain's interval is below 0."""
    return routed is not None and routed["gain"]["high"] < 0


def _thirds(prior: Float32[np.ndarray, "items models"]) -> np.ndarray:
    """Return 0, 1 or 2 for each item: from the easiest third to the hardest."""
    ease = np.nanmean(prior, axis=1)
    order = np.argsort(np.argsort(-ease, kind="stable"), kind="stable")
    return np.asarray(order * len(THIRDS) // max(len(ease), 1))


def _strengths(onboarded: Onboarded) -> dict[str, list[tuple[str, float]]]:
    """Return each model's subjects, the best first, with how far it exceeds what is expected."""
    matrix = onboarded.matrix
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, item in enumerate(matrix.items):
        if item.subject:
            rows_of[item.subject].append(row)
    levels = np.array([_mean(matrix.score[:, m]) or 0.0 for m in range(len(matrix.models))])
    found: dict[str, list[tuple[str, float]]] = {name: [] for name in matrix.models}
    for subject, rows in rows_of.items():
        if len(rows) < MIN_SUBJECT_ANSWERS:
            continue
        part = matrix.score[rows]
        means = np.array([_mean(part[:, m]) for m in range(len(matrix.models))], np.float64)
        excess = means - levels
        for name, value in zip(matrix.models, excess - np.nanmean(excess), strict=True):
            if not np.isnan(value):
                found[name].append((subject, float(value)))
    return {name: sorted(ones, key=lambda one: -one[1]) for name, ones in found.items()}


def _mean(score: Float32[np.ndarray, " answers"]) -> float | None:
    known = score[~np.isnan(score)]
    return float(known.mean()) if len(known) else None


def routed_gain(onboarded: Onboarded, pool: Pool) -> dict[str, Any] | None:
    """Return what routing by priors and by the answers brings under the same budgets.

    On the graded items that every model answered, held out, means over the budgets between the
    cheapest and the dearest model: `quality` by kind of estimates, `gain` of the checkpoint's over
    the priors' with its 95 % interval; and at the cost of the checkpoint's choices, chosen knowing
    all answers, `mix`, the best random mix of single models, and `single`: the mean `quality` of
    the best single model of each budget, and these `models`.

    None where the models' costs don't differ, or no item was answered by all.
    """
    matrix = onboarded.matrix
    columns = list(range(len(matrix.models)))
    try:
        rows, outcomes = complete_outcomes(matrix, _costs(onboarded, pool), columns)
    except InputError:
        return None
    means = outcomes.cost_usd.mean(axis=0)
    if means.min() <= 0 or means.max() / means.min() < 1 + 1e-6:
        return None
    weights = np.full((1, len(rows)), 1 / len(rows))
    curves = {name: route(outcomes, one[rows]) for name, one in onboarded.quality.items()}
    used = curves[onboarded.made_of]
    rise = mean_interval((used.score - curves["prior"].score).mean(axis=0))
    over_mix = float(used.gain(outcomes.mixes(weights), weights).mean())
    quality = {name: float(curve.quality(weights).mean()) for name, curve in curves.items()}
    return {
        "items": len(rows),
        "quality": quality,
        "gain": {"mean": rise.mean, "low": rise.low, "high": rise.high},
        "mix": quality[onboarded.made_of] - over_mix,
        "single": _best_singles(outcomes, used.spent_usd(weights)[0], matrix.models),
    }


def _best_singles(
    outcomes: CompleteOutcomes, spent_usd: Float64[np.ndarray, " budgets"], models: Sequence[str]
) -> dict[str, Any]:
    """Return the best models that alone cost no more than each budget's choices, and their mean."""
    costs, means = outcomes.cost_usd.mean(axis=0), outcomes.score.mean(axis=0)
    cheap = costs <= np.maximum(spent_usd, costs.min())[:, None] * _SAME_COST
    best = np.where(cheap, means, -np.inf).argmax(axis=1)
    names = dict.fromkeys(models[column] for column in best.tolist())
    return {"quality": float(means[best].mean()), "models": list(names)}


def _costs(onboarded: Onboarded, pool: Pool) -> Float64[np.ndarray, "items models"]:
    """Return what each answer costs at the pool's prices; NaN where its length is not known."""
    matrix = onboarded.matrix
    prices = {model.predicted_as: model.price_usd_per_mtok for model in reversed(pool.models)}
    columns = []
    for column, name in enumerate(matrix.models):
        price, tokens = prices[name], matrix.completion_tokens[:, column]
        length = np.array([len(item.prompt) / 4 for item in matrix.items])
        cost = float(price.prompt) * length + float(price.completion) * tokens
        columns.append(cost / 1e6)
    return np.stack(columns, axis=1).astype(np.float64)
