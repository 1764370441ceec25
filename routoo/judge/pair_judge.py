"""The judge of two models' answers to one prompt: what both say together, and whether they agree.

Open answers that two models reach by themselves are seldom wrong in the same way. The judge adds
what the second answer says by itself to what the first one said, then moves the log-odds by whether
both state the same result.

Source: agreement as a signal, Yue et al., arXiv 2310.03094 (2023); Chen et al., arXiv 2407.02348.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, Int8, Int64

from routoo.judge.agreement import Agreement
from routoo.judge.log_odds import fit_strength, products_by_row
from routoo.judge.outcomes import ExpectedJudgements, OutcomeModel
from routoo.predictor.scores import log_loss, sigmoid

LEAST_ANSWERS = 100
"""Prompts that both must have answered."""
MOST_PRICE_SHARE = 0.1
"""A second answer is worth comparing where it costs at most this share of the dearest one."""
_FIRST, _SECOND, _OTHERS = range(3)
_GROUPS = 3
"""The first model, the second, and all others, which are moved alike."""
_RIDGE = 5.0
_PULL = 20.0
_STEPS = 8
_SCALE = 2.0
_MOST_SHIFT = 3.0


@dataclass(frozen=True, slots=True)
class JudgedPairs:
    """Pairs of answers to the same prompts, each judged by itself."""

    prior: Float64[np.ndarray, "answers models"]
    """Log-odds from the prompt alone."""
    first: Float64[np.ndarray, "answers models"]
    """Log-odds given the first model's answer."""
    second: Float64[np.ndarray, "answers models"]
    """Log-odds given the second's alone."""
    agreement: Int8[np.ndarray, " answers"]

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "JudgedPairs":
        """Return some of them."""
        return JudgedPairs(
            self.prior[rows], self.first[rows], self.second[rows], self.agreement[rows]
        )


@dataclass(frozen=True, slots=True)
class PairJudge:
    """What was fitted to prompts that two models answered."""

    first: int
    """Column of the model that is asked first."""
    second: int
    strength: Float32[np.ndarray, " groups"]
    """What the second answer's own shifts count for beside the first's."""
    weight: Float32[np.ndarray, "terms groups"]
    outcomes: OutcomeModel
    """Of asking the second model, given what the first's answer showed."""

    def __call__(self, pairs: JudgedPairs) -> Float64[np.ndarray, "answers models"]:
        """Return the log-odds of each model, given both answers."""
        group = _groups(pairs.first.shape[1], self.first, self.second)
        base = pairs.first + self.strength[group] * _second_shift(pairs)
        moved = products_by_row(_terms(pairs, self.first, self.second), self.weight.T)
        return np.asarray(base + moved[:, group])

    def expected(self, first: Float64[np.ndarray, "jobs models"]) -> ExpectedJudgements:
        """Return what asking the second model may bring, given log-odds after the first answer."""
        prior = first.T.astype(np.float32)
        return self.outcomes(prior, self.first, prior[self.second])

    def extended(self, count: int) -> "PairJudge":
        """Return the judge of so many models; new ones are moved as the others are."""
        others = _groups(self.outcomes.shift.shape[1], self.first, self.second) == _OTHERS
        return replace(self, outcomes=self.outcomes.extended(count, others))

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that a checkpoint keeps, named by part."""
        own = {"columns": np.array([self.first, self.second]), "strength": self.strength}
        outcomes = {f"outcomes.{key}": a for key, a in self.outcomes.tensors().items()}
        return {**own, "weight": self.weight, **outcomes}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "PairJudge":
        """Read the arrays back."""
        first, second = tensors["columns"].tolist()
        outcomes = {"weight": tensors["outcomes.weight"], "shift": tensors["outcomes.shift"]}
        return cls(
            first,
            second,
            tensors["strength"],
            tensors["weight"],
            OutcomeModel.from_tensors(outcomes),
        )


@dataclass(frozen=True, slots=True)
class FittedPair:
    """A judge of two answers, and what such a fit says of prompts that it was made without."""

    judge: PairJudge
    held_out: Float64[np.ndarray, "answers models"]
    """Log-odds."""
    lead: float
    """By how much the first answer is judged better: log loss less one standard error."""


def fit_pair_judge(
    first: int,
    second: int,
    pairs: JudgedPairs,
    score: Float32[np.ndarray, "answers models"],
    folds: Int64[np.ndarray, " answers"],
) -> FittedPair:
    """Fit to graded answers.

    Args:
        first: Column of the model that is asked first.
        second: Column of the other.
        pairs: Their answers, judged by fits that had not seen the prompt.
        score: What came; NaN where not known.
        folds: Of the prompts.
    """
    held_out = np.array(pairs.first)
    for fold in np.unique(folds):
        held = np.flatnonzero(folds == fold)
        rest = np.flatnonzero(folds != fold)
        part = _fit(first, second, pairs.take(rest), score[rest], None)
        held_out[held] = part(pairs.take(held))
    shift = held_out - pairs.first
    outcomes = OutcomeModel.fit(pairs.first, shift, score, first, pairs.first[:, second])
    judge = _fit(first, second, pairs, score, outcomes)
    before, after = (
        log_loss(score[:, first], sigmoid(value[:, first])) for value in (pairs.first, held_out)
    )
    gained = before - after
    lead = float(gained.mean() - gained.std() / np.sqrt(len(gained)))
    return FittedPair(judge, held_out, lead)


def is_worth_comparing(cost_usd: float, dearest_usd: float) -> bool:
    """Return whether a second answer is cheap enough beside the dearest model's call.

    Args:
        cost_usd: Mean cost of a call of the second model; NaN where not known.
        dearest_usd: That of the dearest model that may be asked instead; NaN where not known.
    """
    return not cost_usd > MOST_PRICE_SHARE * dearest_usd


def _groups(models: int, first: int, second: int) -> Int64[np.ndarray, " models"]:
    """Return which group each model is in."""
    group = np.full(models, _OTHERS)
    group[first], group[second] = _FIRST, _SECOND
    return group


def _second_shift(pairs: JudgedPairs) -> Float64[np.ndarray, "answers models"]:
    return np.asarray(np.clip(pairs.second - pairs.prior, -_MOST_SHIFT, _MOST_SHIFT))


def _terms(pairs: JudgedPairs, first: int, second: int) -> Float64[np.ndarray, "answers terms"]:
    """Return what the log-odds are moved by, of the kind of agreement that is there."""
    own = pairs.first[:, first] / _SCALE
    shift = _second_shift(pairs)[:, second]
    basic = np.stack([np.ones_like(own), own, shift], axis=1)
    kind = pairs.agreement[:, None] == np.arange(len(Agreement))
    return np.asarray((kind[:, :, None] * basic[:, None]).reshape(len(own), -1))


def _fit(
    first: int,
    second: int,
    pairs: JudgedPairs,
    score: Float32[np.ndarray, "answers models"],
    outcomes: OutcomeModel | None,
) -> PairJudge:
    group = _groups(score.shape[1], first, second)
    terms, shift = _terms(pairs, first, second), _second_shift(pairs)
    known = ~np.isnan(score)
    strength = np.zeros(_GROUPS, np.float32)
    weight = np.zeros((terms.shape[1], _GROUPS), np.float32)
    for number in range(_GROUPS):
        columns = np.flatnonzero(group == number)
        if len(columns) == 0:
            continue
        base, moved = pairs.first[:, columns], shift[:, columns]
        wanted, seen = np.nan_to_num(score[:, columns]), known[:, columns]
        strength[number] = fit_strength(base, moved, wanted, seen, _PULL)
        base = base + strength[number] * moved
        weight[:, number] = _fit_terms(terms, base, wanted, seen)
    none = OutcomeModel.none(score.shape[1])
    return PairJudge(first, second, strength, weight, outcomes or none)


def _fit_terms(
    terms: Float[np.ndarray, "answers terms"],
    base: Float[np.ndarray, "answers columns"],
    score: Float[np.ndarray, "answers columns"],
    known: np.ndarray,
) -> Float64[np.ndarray, " terms"]:
    """Fit weights that move the log-odds of all columns alike, each answer counting once."""
    weight, share = np.zeros(terms.shape[1]), 1 / base.shape[1]
    for _ in range(_STEPS):
        chance = sigmoid(base + (terms @ weight)[:, None])
        slope = np.where(known, score - chance, 0.0).sum(axis=1) * share
        bend = np.where(known, chance * (1 - chance), 0.0).sum(axis=1) * share
        curvature = (terms * bend[:, None]).T @ terms + _RIDGE * np.eye(len(weight))
        step = np.linalg.solve(curvature, terms.T @ slope - _RIDGE * weight)
        weight += np.clip(step, -1, 1)
    return weight
