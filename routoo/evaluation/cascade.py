"""Decides for each item at a budget: one model directly, or a probe whose answer is judged first.

Both stages maximise expected quality less money at one shadow price. The first knows what judging
may bring, the second what it brought. Neither sees a score.

Source: Dekoninck et al., A unified approach to routing and cascading for LLMs, arXiv 2410.10347
(2024); here with two stages, and with outcomes of judging that are fitted to held-out answers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from routoo.judge.outcomes import ExpectedJudgements

_STEPS = 100
_CLOSE = 1 + 1e-7
"""Prices this close are the same."""
_SLACK = 1 + 1e-9
"""A budget that is met to the last digit must not fail by a rounding."""
_LOWEST_PRICE, _HIGHEST_PRICE = 1e-9, 1e15
"""Quality for a USD."""


@dataclass(frozen=True, slots=True)
class ProbeKnowledge:
    """What is known of one model's answers to the items."""

    column: int
    """Of the model in the pool."""
    answered: Bool[np.ndarray, " items"]
    """Which items it has an answer to; it can't be asked about the others."""
    expected: ExpectedJudgements
    """Before the answers; models of the pool."""
    judged: Float32[np.ndarray, "items models"]
    """After them; anything where there is none."""

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "ProbeKnowledge":
        """Return what is known of some items."""
        expected = ExpectedJudgements(self.expected.chance[rows], self.expected.quality[rows])
        return ProbeKnowledge(self.column, self.answered[rows], expected, self.judged[rows])


@dataclass(frozen=True, slots=True)
class CascadeKnowledge:
    """What decisions may use."""

    quality: Float32[np.ndarray, "items models"]
    """From the prompts alone."""
    cost_usd: Float64[np.ndarray, " models"]
    """Mean cost of a call of each model."""
    probes: tuple[ProbeKnowledge, ...]

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "CascadeKnowledge":
        """Return what is known of some items."""
        probes = tuple(probe.take(rows) for probe in self.probes)
        return CascadeKnowledge(self.quality[rows], self.cost_usd, probes)

    def without_answers(self) -> "CascadeKnowledge":
        """Return what is known from the prompts alone."""
        return replace(self, probes=())


@dataclass(frozen=True, slots=True)
class CascadeDecisions:
    """What was decided for each item under one budget."""

    first: Int64[np.ndarray, " items"]
    """Column of the model that is called first."""
    probed: Bool[np.ndarray, " items"]
    """Whether its answer was judged."""
    final: Int64[np.ndarray, " items"]
    """Column of the model whose answer is the result."""

    @property
    def accepted(self) -> Bool[np.ndarray, " items"]:
        """Where the first answer is the result."""
        return np.asarray(self.first == self.final)

    def cost_usd(self, costs: Float64[np.ndarray, " models"]) -> Float64[np.ndarray, " items"]:
        """Return what the calls of each item cost at the models' mean costs, in USD."""
        return np.asarray(costs[self.first] + np.where(self.accepted, 0.0, costs[self.final]))


@dataclass(frozen=True, slots=True)
class _Stage:
    """What is done with each item at one price."""

    probe: Int64[np.ndarray, " items"]
    """Number of the probe whose answer is judged; -1 where none is."""
    model: Int64[np.ndarray, " items"]
    cost_usd: Float64[np.ndarray, " items"]
    """Expected, of all that is still to be paid."""

    @property
    def mean_cost_usd(self) -> float:
        """Expected cost of an item."""
        return float(self.cost_usd.mean())


def decide(known: CascadeKnowledge, budget_usd: float) -> CascadeDecisions:
    """Decide all items under a mean budget an item, in USD."""
    first = _within(lambda price: _first_stage(known, price), budget_usd)
    judged = known.quality.astype(np.float64)
    for number, probe in enumerate(known.probes):
        rows = first.probe == number
        judged[rows] = probe.judged[rows]
    left = budget_usd - float(known.cost_usd[first.model].mean())
    final = _within(lambda price: _second_stage(known.cost_usd, judged, first, price), left)
    return CascadeDecisions(first.model, first.probe >= 0, final.model)


def _within(stage_at: Callable[[float], _Stage], budget_usd: float) -> _Stage:
    """Return the stage at the lowest price of money at which it keeps to a mean budget.

    Items that are tied there, and don't all fit, are filled up one after the other.
    """
    dear, low, high = stage_at(0.0), 0.0, 1.0
    if dear.mean_cost_usd <= budget_usd * _SLACK:
        return dear
    while (stage := stage_at(high)).mean_cost_usd > budget_usd * _SLACK and high < _HIGHEST_PRICE:
        dear, low, high = stage, high, high * 8
    for _ in range(_STEPS):
        if high <= max(low, _LOWEST_PRICE) * _CLOSE:
            break
        middle = float(np.sqrt(max(low, _LOWEST_PRICE) * high))
        tried = stage_at(middle)
        if tried.mean_cost_usd <= budget_usd * _SLACK:
            stage, high = tried, middle
        else:
            dear, low = tried, middle
    return _filled(stage, dear, budget_usd)


def _filled(stage: _Stage, dear: _Stage, budget_usd: float) -> _Stage:
    """Return a stage in which items are done as in a dearer one while the budget lasts."""
    extra = dear.cost_usd - stage.cost_usd
    left = budget_usd * len(extra) - float(stage.cost_usd.sum())
    rows = np.flatnonzero(extra > 0)
    rows = rows[np.cumsum(extra[rows]) <= left]
    taken = np.isin(np.arange(len(extra)), rows)
    return _Stage(
        np.where(taken, dear.probe, stage.probe),
        np.where(taken, dear.model, stage.model),
        np.where(taken, dear.cost_usd, stage.cost_usd),
    )


def _first_stage(known: CascadeKnowledge, price: float) -> _Stage:
    costs = known.cost_usd
    value = known.quality - price * costs
    model = value.argmax(axis=1)
    best, cost = np.take_along_axis(value, model[:, None], axis=1)[:, 0], costs[model]
    chosen = np.full(len(model), -1)
    for number, probe in enumerate(known.probes):
        worth, expected = _worth(probe, costs, price)
        better = probe.answered & (worth >= best)
        best, cost = np.where(better, worth, best), np.where(better, expected, cost)
        model = np.where(better, probe.column, model)
        chosen = np.where(better, number, chosen)
    return _Stage(chosen, model, cost)


def _worth(
    probe: ProbeKnowledge, costs: Float64[np.ndarray, " models"], price: float
) -> tuple[Float64[np.ndarray, " items"], Float64[np.ndarray, " items"]]:
    """Return each item's expected quality by the probe less its cost at the price, and that cost.

    After each outcome the answer is kept, or a model is asked that is worth its cost.
    """
    further = np.array(costs)
    further[probe.column] = 0.0
    value = probe.expected.quality - price * further
    pick = value.argmax(axis=2)
    best = np.take_along_axis(value, pick[:, :, None], axis=2)[:, :, 0]
    chance, own = probe.expected.chance, costs[probe.column]
    worth = (chance * best).sum(axis=1) - price * own
    return worth, own + (chance * further[pick]).sum(axis=1)


def _second_stage(
    costs: Float64[np.ndarray, " models"],
    judged: Float64[np.ndarray, "items models"],
    first: _Stage,
    price: float,
) -> _Stage:
    rows = np.arange(len(judged))
    value = judged - price * costs
    value[rows, first.model] = judged[rows, first.model]
    model = np.where(first.probe >= 0, value.argmax(axis=1), first.model)
    return _Stage(first.probe, model, np.where(model == first.model, 0.0, costs[model]))


def decide_all(
    known: CascadeKnowledge, budgets_usd: Float[np.ndarray, " budgets"]
) -> list[CascadeDecisions]:
    """Return the decisions at each of several mean budgets an item, in USD."""
    return [decide(known, float(budget)) for budget in budgets_usd]
