"""Decides for each item at a budget: one model directly, or a probe whose answer is judged first.

Each stage maximises expected quality less money at one price: before there is an answer, with
the judged answer of the probe, and with that of a second model where one was asked to agree or not.
A stage knows what earlier ones brought, and what judging may bring later. None sees a score.

Source: Dekoninck et al., A unified approach to routing and cascading for LLMs, arXiv 2410.10347
(2024); here with outcomes of judging that are fitted to held-out answers.
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
class PairKnowledge:
    """What is known of asking a second model before the answer of a probe is kept or not."""

    probe: int
    """Number of the probe."""
    column: int
    """Of the second model in the pool."""
    answered: Bool[np.ndarray, " items"]
    """Which items both have an answer to."""
    chance: Float32[np.ndarray, "items outcomes seconds"]
    """Before any answer: of each outcome of the second's, given the outcome of the probe's."""
    quality: Float32[np.ndarray, "items outcomes seconds models"]
    expected: ExpectedJudgements
    """With the probe's answer judged, before the second's."""
    judged: Float32[np.ndarray, "items models"]
    """After both; anything where there are not both."""

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "PairKnowledge":
        """Return what is known of some items."""
        expected = ExpectedJudgements(self.expected.chance[rows], self.expected.quality[rows])
        return PairKnowledge(
            self.probe,
            self.column,
            self.answered[rows],
            self.chance[rows],
            self.quality[rows],
            expected,
            self.judged[rows],
        )


@dataclass(frozen=True, slots=True)
class CascadeKnowledge:
    """What decisions may use."""

    quality: Float32[np.ndarray, "items models"]
    """From the prompts alone."""
    cost_usd: Float64[np.ndarray, " models"]
    """Mean cost of a call of each model."""
    probes: tuple[ProbeKnowledge, ...]
    pairs: tuple[PairKnowledge, ...] = ()

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "CascadeKnowledge":
        """Return what is known of some items."""
        probes = tuple(probe.take(rows) for probe in self.probes)
        pairs = tuple(pair.take(rows) for pair in self.pairs)
        return CascadeKnowledge(self.quality[rows], self.cost_usd, probes, pairs)

    def without_answers(self) -> "CascadeKnowledge":
        """Return what is known from the prompts alone."""
        return replace(self, probes=(), pairs=())

    def without_pairs(self) -> "CascadeKnowledge":
        """Return what is known where at most one answer is judged."""
        return replace(self, pairs=())


@dataclass(frozen=True, slots=True)
class CascadeDecisions:
    """What was decided for each item under one budget."""

    first: Int64[np.ndarray, " items"]
    """Column of the model that is called first."""
    probed: Bool[np.ndarray, " items"]
    """Whether its answer was judged."""
    second: Int64[np.ndarray, " items"]
    """Column of the model whose answer was compared with the first's; -1 where none was."""
    final: Int64[np.ndarray, " items"]
    """Column of the model whose answer is the result."""

    @property
    def accepted(self) -> Bool[np.ndarray, " items"]:
        """Where the first answer is the result."""
        return np.asarray(self.first == self.final)

    @property
    def escalated(self) -> Bool[np.ndarray, " items"]:
        """Where a model is asked whose answer nothing is compared with."""
        return np.asarray((self.final != self.first) & (self.final != self.second))

    def cost_usd(self, costs: Float64[np.ndarray, "*all models"]) -> Float64[np.ndarray, " items"]:
        """Return what the calls of each item cost, in USD.

        Args:
            costs: Of a call of each model, in USD: its mean, or that of each item.
        """
        rows = np.arange(len(self.first))
        costs = np.broadcast_to(costs, (len(rows), costs.shape[-1]))
        compared = np.where(self.second >= 0, costs[rows, self.second], 0.0)
        third = np.where(self.escalated, costs[rows, self.final], 0.0)
        return np.asarray(costs[rows, self.first] + compared + third)


@dataclass(frozen=True, slots=True)
class _Stage:
    """What is done with each item at one price."""

    judged: Int64[np.ndarray, " items"]
    """Number of the probe, or of the pair, whose answer is judged next; -1 where none is."""
    model: Int64[np.ndarray, " items"]
    """Column of the model that is asked next, or whose answer is kept."""
    cost_usd: Float64[np.ndarray, " items"]
    """Expected, of all that is still to be paid."""

    @property
    def mean_cost_usd(self) -> float:
        """Expected cost of an item."""
        return float(self.cost_usd.mean())


def decide(known: CascadeKnowledge, budget_usd: float) -> CascadeDecisions:
    """Decide all items under a mean budget an item, in USD."""
    costs = known.cost_usd
    first = _within(lambda price: _first_stage(known, price), budget_usd)
    left = budget_usd - float(costs[first.model].mean())
    judged = known.quality.astype(np.float64)
    for number, probe in enumerate(known.probes):
        rows = first.judged == number
        judged[rows] = probe.judged[rows]
    second = _within(lambda price: _second_stage(known, judged, first, price), left)
    compared = second.judged >= 0
    left -= float(np.where(compared, costs[second.model], 0.0).mean())
    for number, pair in enumerate(known.pairs):
        rows = second.judged == number
        judged[rows] = pair.judged[rows]
    final = _within(lambda price: _third_stage(costs, judged, first, second, price), left)
    asked = np.where(compared, second.model, -1)
    return CascadeDecisions(first.model, first.judged >= 0, asked, final.model)


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
        np.where(taken, dear.judged, stage.judged),
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
        pairs = [pair for pair in known.pairs if pair.probe == number]
        worth, expected = _worth(probe, pairs, costs, price)
        better = probe.answered & (worth >= best)
        best, cost = np.where(better, worth, best), np.where(better, expected, cost)
        model = np.where(better, probe.column, model)
        chosen = np.where(better, number, chosen)
    return _Stage(chosen, model, cost)


def _worth(
    probe: ProbeKnowledge,
    pairs: list[PairKnowledge],
    costs: Float64[np.ndarray, " models"],
    price: float,
) -> tuple[Float64[np.ndarray, " items"], Float64[np.ndarray, " items"]]:
    """Return each item's expected quality by the probe less its cost at the price, and that cost.

    After each outcome the answer is kept, or a model is asked that is worth its cost.
    """
    best, cost = _best_after(probe.expected.quality, [probe.column], costs, price)
    for pair in pairs:
        worth, expected = _worth_of_second(pair.chance, pair.quality, probe, pair, costs, price)
        better = pair.answered[:, None] & (worth > best)
        best, cost = np.where(better, worth, best), np.where(better, expected, cost)
    chance, own = probe.expected.chance, costs[probe.column]
    return (chance * best).sum(axis=1) - price * own, own + (chance * cost).sum(axis=1)


def _worth_of_second(
    chance: Float32[np.ndarray, "*outcomes seconds"],
    quality: Float32[np.ndarray, "*outcomes seconds models"],
    probe: ProbeKnowledge,
    pair: PairKnowledge,
    costs: Float64[np.ndarray, " models"],
    price: float,
) -> tuple[Float64[np.ndarray, "*outcomes"], Float64[np.ndarray, "*outcomes"]]:
    """Return what asking the second model is worth less its cost at the price, and that cost."""
    best, cost = _best_after(quality, [probe.column, pair.column], costs, price)
    own = costs[pair.column]
    return (chance * best).sum(axis=-1) - price * own, own + (chance * cost).sum(axis=-1)


def _best_after(
    quality: Float[np.ndarray, "*outcomes models"],
    answered: list[int],
    costs: Float64[np.ndarray, " models"],
    price: float,
) -> tuple[Float64[np.ndarray, "*outcomes"], Float64[np.ndarray, "*outcomes"]]:
    """Return the best quality less further cost at the price, and that cost.

    Args:
        quality: Of each model, given what is known then.
        answered: Columns of the models that have answered.
        costs: Mean cost of a call of each model.
        price: Of a dollar.
    """
    further = np.array(costs)
    further[answered] = 0.0
    value = quality - price * further
    pick = value.argmax(axis=-1)
    return np.take_along_axis(value, pick[..., None], axis=-1)[..., 0], further[pick]


def _second_stage(
    known: CascadeKnowledge,
    judged: Float64[np.ndarray, "items models"],
    first: _Stage,
    price: float,
) -> _Stage:
    costs = known.cost_usd
    model, best, cost = _kept_or_asked(costs, judged, [first.model], first.judged >= 0, price)
    chosen = np.full(len(model), -1)
    for number, pair in enumerate(known.pairs):
        probe, after = known.probes[pair.probe], pair.expected
        worth, expected = _worth_of_second(after.chance, after.quality, probe, pair, costs, price)
        better = pair.answered & (first.judged == pair.probe) & (worth > best)
        best, cost = np.where(better, worth, best), np.where(better, expected, cost)
        model = np.where(better, pair.column, model)
        chosen = np.where(better, number, chosen)
    return _Stage(chosen, model, cost)


def _third_stage(
    costs: Float64[np.ndarray, " models"],
    judged: Float64[np.ndarray, "items models"],
    first: _Stage,
    second: _Stage,
    price: float,
) -> _Stage:
    also = np.where(second.judged >= 0, second.model, first.model)
    model, _, cost = _kept_or_asked(costs, judged, [first.model, also], first.judged >= 0, price)
    return _Stage(np.full(len(model), -1), model, cost)


def _kept_or_asked(
    costs: Float64[np.ndarray, " models"],
    judged: Float64[np.ndarray, "items models"],
    answered: list[Int64[np.ndarray, " items"]],
    undecided: Bool[np.ndarray, " items"],
    price: float,
) -> tuple[
    Int64[np.ndarray, " items"], Float64[np.ndarray, " items"], Float64[np.ndarray, " items"]
]:
    """Return the model whose answer is kept or that is asked, its value, and what is still paid.

    Args:
        costs: Mean cost of a call of each model.
        judged: Quality of each model, given the answers.
        answered: Columns of models that have answered; the first's answer is kept where decided.
        undecided: Items of which a model may still be asked.
        price: Of a dollar.
    """
    rows = np.arange(len(judged))
    value = judged - price * costs
    further = np.broadcast_to(costs, judged.shape).copy()
    for column in answered:
        value[rows, column], further[rows, column] = judged[rows, column], 0.0
    model = np.where(undecided, value.argmax(axis=1), answered[0])
    return model, value[rows, model], further[rows, model]


def decide_all(
    known: CascadeKnowledge, budgets_usd: Float[np.ndarray, " budgets"]
) -> list[CascadeDecisions]:
    """Return the decisions at each of several mean budgets an item, in USD."""
    return [decide(known, float(budget)) for budget in budgets_usd]
