"""Chooses the k models that form the best pool: those that complement each other.

A pool is worth what its best member brings on each item, averaged: a submodular function. So greedy
choice reaches at least 1 - 1/e of the best pool's worth; and gains only fall as the pool grows, so
most models need not be looked at again. With prices the worth of an answer is its score less its
cost over the willingness to pay; answers that aren't worth their money count as none.

Source: Nemhauser, Wolsey and Fisher, An analysis of approximations for maximizing submodular set
functions, Mathematical Programming 14 (1978); Minoux, Accelerated greedy algorithms (1978).
"""

import csv
import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import combinations
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64

from routoo.domain.pool import TOKENS_PER_MTOK, Tariff
from routoo.domain.tables import Outcomes
from routoo.errors import InputError


@dataclass(frozen=True, slots=True)
class AnswerTable:
    """Scores, costs and tokens of each model on each item; NaN where not known."""

    models: tuple[str, ...]
    """By name, so that the order of the rows decides nothing."""
    score: Float64[np.ndarray, "items models"]
    cost_usd: Float64[np.ndarray, "items models"]
    prompt_tokens: Float64[np.ndarray, "items models"]
    completion_tokens: Float64[np.ndarray, "items models"]

    def without(self, models: Collection[str]) -> "AnswerTable":
        """Leave some models out.

        Raises:
            InputError: One of them is not here, or none is left.
        """
        strange = sorted(set(models) - set(self.models))
        kept = [at for at, name in enumerate(self.models) if name not in models]
        if strange or not kept:
            known = ", ".join(self.models)
            raise InputError(f"the candidates are {known}", value=strange or list(models))
        return AnswerTable(
            tuple(self.models[at] for at in kept),
            self.score[:, kept],
            self.cost_usd[:, kept],
            self.prompt_tokens[:, kept],
            self.completion_tokens[:, kept],
        )

    @classmethod
    def of(cls, outcomes: Outcomes, item_ids: Sequence[str]) -> "AnswerTable":
        """Arrange outcomes; those of other items are left out.

        Raises:
            InputError: No outcome belongs to an item, or a pair comes twice.
        """
        models = tuple(sorted(set(outcomes.models)))
        column_of = {name: at for at, name in enumerate(models)}
        row = {item: at for at, item in enumerate(item_ids)}
        rows = np.array([row.get(item, -1) for item in outcomes.item_ids], dtype=np.int64)
        columns = np.array([column_of[name] for name in outcomes.models], dtype=np.int64)
        if not (kept := rows >= 0).any():
            raise InputError("no outcome belongs to an item", remedy="Give tables that fit")
        flat = rows[kept] * len(models) + columns[kept]
        if len(np.unique(flat)) < len(flat):
            raise InputError("an item and a model come twice in the outcomes")
        numbers = (
            outcomes.score,
            outcomes.cost_usd,
            outcomes.prompt_tokens,
            outcomes.completion_tokens,
        )
        shape = (len(item_ids), len(models))
        return cls(models, *(_spread(values[kept], flat, shape) for values in numbers))


def _spread(
    values: Float[np.ndarray, " rows"], flat: np.ndarray, shape: tuple[int, int]
) -> Float64[np.ndarray, "items models"]:
    table = np.full(shape, np.nan)
    table.flat[flat] = values
    return table


GREEDY_SHARE = 1.0 - 1.0 / math.e
"""The share of the best pool's worth that greedy choice always reaches."""
MAX_EXACT_POOLS = 200_000
"""Up to this many pools are tried one by one."""
COLUMNS = ("model", "usd_per_mtok_in", "usd_per_mtok_out")
EXACT = 1e-3
"""Relative error up to which costs count as tokens times a tariff."""


def read_prices(path: Path, datasets: Collection[str | None] = ()) -> dict[str, Tariff]:
    """Read a list of prices: CSV with the columns model, usd_per_mtok_in and usd_per_mtok_out.

    Rows without a price are left out: the model's price stays unknown.

    Args:
        path: The list.
        datasets: Where the list has a column dataset, only rows of these count; none named, all do.

    Raises:
        InputError: The file can't be read, a price is no number, or a model has two prices.
    """
    prices: dict[str, Tariff] = {}
    for line, row in enumerate(_price_rows(path), 2):
        tariff = _tariff(row, f"{path}:{line}")
        if tariff is None or (datasets and row.get("dataset") not in {None, *datasets}):
            continue
        if prices.setdefault(row["model"], tariff) != tariff:
            raise InputError("the model has two prices", value=row["model"], where=f"{path}:{line}")
    return prices


def _price_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the prices can't be read: {error}", where=str(path)) from error


def derive_prices(answers: AnswerTable) -> dict[str, Tariff]:
    """Return the tariffs that answers were evidently billed at.

    A model whose costs are no exact multiple of its tokens is left out, as is one whose prompts and
    answers are too alike to separate the two prices.
    """
    found = {}
    for at, model in enumerate(answers.models):
        tokens = np.stack([answers.prompt_tokens[:, at], answers.completion_tokens[:, at]], axis=1)
        tariff = _fit(tokens, answers.cost_usd[:, at])
        if tariff is not None:
            found[model] = tariff
    return found


def check_priced(models: tuple[str, ...], prices: Mapping[str, Tariff]) -> None:
    """Refuse models without a price.

    Raises:
        InputError: Names them.
    """
    missing = [model for model in models if model not in prices]
    if missing:
        raise InputError(
            f"the price of {', '.join(missing)} is unknown",
            remedy="Give it in a CSV with --prices (columns model, usd_per_mtok_in, "
            "usd_per_mtok_out); say 0 if it is free",
        )


def price_answers(
    answers: AnswerTable, prices: Mapping[str, Tariff]
) -> Float64[np.ndarray, "items models"]:
    """Return costs in USD: the recorded, else tokens times price; NaN without an answer.

    Raises:
        InputError: Names the models with graded answers whose cost is unknown.
    """
    cost = answers.cost_usd.copy()
    for at, model in enumerate(answers.models):
        tariff = prices.get(model)
        if tariff is not None:
            billed = _billed_usd(tariff, answers, at)
            cost[:, at] = np.where(np.isnan(cost[:, at]), billed, cost[:, at])
    unknown = np.isnan(cost) & ~np.isnan(answers.score)
    if unknown.any():
        names = ", ".join(answers.models[at] for at in np.flatnonzero(unknown.any(axis=0)))
        raise InputError(
            f"the cost of answers of {names} is unknown",
            remedy="Give prices with --prices, or leave the models out with --exclude",
        )
    return cost


def _billed_usd(tariff: Tariff, answers: AnswerTable, at: int) -> Float64[np.ndarray, " items"]:
    """Return what the answers of the model of a column cost by their tokens, in USD."""
    prompt_usd = float(tariff.prompt) * answers.prompt_tokens[:, at]
    completion_usd = float(tariff.completion) * answers.completion_tokens[:, at]
    return np.asarray((prompt_usd + completion_usd) / float(TOKENS_PER_MTOK))


def _tariff(row: Mapping[str, str], where: str) -> Tariff | None:
    missing = [name for name in COLUMNS if row.get(name) is None]
    if missing:
        raise InputError(f"the list of prices has no column {', '.join(missing)}", where=where)
    prompt, completion = row[COLUMNS[1]].strip(), row[COLUMNS[2]].strip()
    if not prompt or not completion:
        return None
    try:
        tariff = Tariff(prompt=Decimal(prompt), completion=Decimal(completion))
    except (InvalidOperation, ValueError) as error:
        raise InputError(
            "a price is no number of at least 0", value=f"{prompt}, {completion}", where=where
        ) from error
    return tariff


def _fit(
    tokens: Float64[np.ndarray, "answers 2"], cost: Float64[np.ndarray, " answers"]
) -> Tariff | None:
    known = np.isfinite(tokens).all(axis=1) & np.isfinite(cost)
    if not known.any():
        return None
    price, _, rank, _ = np.linalg.lstsq(tokens[known], cost[known], rcond=1e-6)
    error = np.abs(tokens[known] @ price - cost[known]).max()
    if rank < tokens.shape[1] or error > EXACT * float(cost[known].mean()):
        return None
    prompt, completion = (_rounded(value * float(TOKENS_PER_MTOK)) for value in price.tolist())
    return Tariff(prompt=prompt, completion=completion)


def _rounded(price: float) -> Decimal:
    """Return a price to four significant digits, as tariffs are quoted; never below 0."""
    return max(Decimal(f"{price:.4g}"), Decimal(0)) if price > EXACT * EXACT else Decimal(0)


@dataclass(frozen=True, slots=True)
class PoolMember:
    """A model of the pool, in the order of choice."""

    model: int
    gain: float
    """Mean worth over the items that it adds to those before it."""


@dataclass(frozen=True, slots=True)
class PoolChoice:
    """A pool and how good it provably is."""

    members: tuple[PoolMember, ...]
    worth: float
    """Mean over items of the best member's worth."""
    bound: float
    """No pool of that size is worth more."""
    exact: bool
    """Whether all pools were tried, so that the bound is reached."""

    @property
    def share(self) -> float:
        """Least share of the best pool's worth that this one reaches."""
        return 1.0 if self.bound <= 0 else self.worth / self.bound


def value_answers(
    score: Float[np.ndarray, "items models"],
    cost_usd: Float[np.ndarray, "items models"] | None = None,
    willingness_to_pay_usd: float | None = None,
) -> Float64[np.ndarray, "items models"]:
    """Return what each answer is worth, at least 0.

    Args:
        score: Grades; NaN where a model has no answer, worth 0.
        cost_usd: Cost of each answer in USD; None leaves money out.
        willingness_to_pay_usd: USD that one more point is worth; needed with costs.

    Raises:
        InputError: Costs came without a willingness to pay, or one is unknown.
    """
    worth = np.where(np.isnan(score), 0.0, score).astype(np.float64)
    if cost_usd is None:
        return worth
    if willingness_to_pay_usd is None or willingness_to_pay_usd <= 0:
        raise InputError("a price-aware pool needs a willingness to pay above 0 USD")
    graded = ~np.isnan(score)
    if np.isnan(cost_usd[graded]).any():
        raise InputError("some graded answers have no cost", remedy="Give prices for all models")
    return np.maximum(np.where(graded, worth - cost_usd / willingness_to_pay_usd, 0.0), 0.0)


def choose_members(
    worth: Float64[np.ndarray, "items models"], size: int, *, exact: bool | None = None
) -> PoolChoice:
    """Choose the models that together are worth most.

    Args:
        worth: Of each answer, at least 0.
        size: Models wanted; fewer are returned where more would add nothing.
        exact: Try all pools, or don't; None tries them where there are few enough.

    Returns:
        The pool in greedy order of its members, with its bound.

    Raises:
        InputError: The size is none a pool can have, or too many pools would have to be tried.
    """
    models = worth.shape[1]
    if not 1 <= size <= models:
        raise InputError(f"a pool of these has 1 to {models} models", value=size)
    few = math.comb(models, size) <= MAX_EXACT_POOLS
    if exact and not few:
        raise InputError(
            f"more than {MAX_EXACT_POOLS} pools would have to be tried",
            value=math.comb(models, size),
        )
    if few if exact is None else exact:
        best = _best_pool(worth, size)
        members = _greedy(worth[:, best], size)
        named = tuple(PoolMember(int(best[at.model]), at.gain) for at in members)
        total = sum(at.gain for at in named)
        return PoolChoice(named, total, total, exact=True)
    members = _greedy(worth, size)
    total = sum(at.gain for at in members)
    return PoolChoice(tuple(members), total, _bound(worth, members, size), exact=False)


def _greedy(worth: Float64[np.ndarray, "items models"], size: int) -> list[PoolMember]:
    """Add the model with the largest gain, step by step.

    Gains only fall, so that an outdated one is computed again only when it is the largest.
    """
    covered = np.zeros(len(worth))
    queue = [(-float(worth[:, model].mean()), model, 0) for model in range(worth.shape[1])]
    heapq.heapify(queue)
    members: list[PoolMember] = []
    while queue and len(members) < size:
        gain, model, seen = heapq.heappop(queue)
        if seen < len(members):
            fresh = float(np.maximum(worth[:, model] - covered, 0.0).mean())
            heapq.heappush(queue, (-fresh, model, len(members)))
        elif gain == 0.0:
            break
        else:
            members.append(PoolMember(model, -gain))
            np.maximum(covered, worth[:, model], out=covered)
    return members


def _bound(
    worth: Float64[np.ndarray, "items models"], members: Sequence[PoolMember], size: int
) -> float:
    """Return the least of the bounds that the greedy prefixes give.

    By submodularity the best pool is worth at most what a prefix is worth plus the `size` largest
    gains that single models would add to it.
    """
    covered = np.zeros(len(worth))
    bounds = []
    for member in (None, *members):
        if member is not None:
            np.maximum(covered, worth[:, member.model], out=covered)
        gains = np.maximum(worth - covered[:, None], 0.0).mean(axis=0)
        bounds.append(float(covered.mean() + np.sort(gains)[-size:].sum()))
    reached = sum(member.gain for member in members)
    return min(*bounds, reached / GREEDY_SHARE)


def _best_pool(worth: Float64[np.ndarray, "items models"], size: int) -> list[int]:
    """Try all pools; ties go to the first in pool order."""
    best, pool = -1.0, list(range(size))
    columns = np.ascontiguousarray(worth.T)
    for first in combinations(range(worth.shape[1]), size - 1):
        covered = columns[list(first)].max(axis=0) if first else np.zeros(len(worth))
        start = first[-1] + 1 if first else 0
        for last in range(start, worth.shape[1]):
            value = float(np.maximum(covered, columns[last]).mean())
            if value > best:
                best, pool = value, [*first, last]
    return pool
