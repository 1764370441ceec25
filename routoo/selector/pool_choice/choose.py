"""Which k models form the best pool: those that complement each other.

A pool is worth what its best member brings on each item, averaged: a submodular function. So greedy
choice reaches at least 1 - 1/e of the best pool's worth; and gains only fall as the pool grows,
which lets most models go unlooked at. With prices the worth of an answer is its score less its cost
over the willingness to pay; answers that aren't worth their money count as none.

Source: Nemhauser, Wolsey and Fisher, An analysis of approximations for maximizing submodular set
functions, Mathematical Programming 14 (1978); Minoux, Accelerated greedy algorithms (1978).
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Float64

from routoo.errors import InputError

GREEDY_SHARE = 1.0 - 1.0 / math.e
"""The share of the best pool's worth that greedy choice always reaches."""
MAX_EXACT_POOLS = 200_000
"""Up to this many pools are tried one by one."""


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
