"""What was decided, how good it provably is, and what to change where it can't be done."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from jaxtyping import Int32

OPTIMAL_GAP = 1e-9
"""A relative gap that float rounding alone explains."""


class Status(StrEnum):
    """How a solution stands to its problem."""

    OPTIMAL = "optimal"
    """No choice within the limits is better."""
    WITHIN_GAP = "within_gap"
    """Within the limits; no choice is better by more than the reported gap."""
    UNCONSTRAINED = "unconstrained"
    """The limits don't bind: every job has its best model."""
    INFEASIBLE = "infeasible"
    """The limits can't all hold, or no choice was found that meets them; see the advice."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The choice for each job with its proof.

    The objective is the sum of quality (less cost divided by the willingness to pay, where one was
    given), or the cost where the problem asks for the least; `value` and `bound` are in its unit.
    """

    choice: Int32[np.ndarray, " jobs"]
    """Column of the model chosen; -1 where none is allowed, or none could be paid for."""
    quality: float
    """Sum of expected quality over the chosen pairs."""
    cost_usd: float
    """Sum of expected cost over the chosen pairs, in USD."""
    value: float
    """The objective reached."""
    bound: float
    """No choice within the limits has a better objective than this."""
    shadow_price_per_usd: float
    """Quality that one more dollar would buy; 0 where money doesn't bind."""
    status: Status
    advice: str = ""
    """What to relax and by how much, where the limits can't hold; else empty."""
    shadow_prices: dict[str, float] = field(default_factory=dict)
    """What one more unit of each capacity would add to the objective, by its name."""
    unaffordable: int = 0
    """Jobs left without a model although one is allowed."""

    @property
    def gap(self) -> float:
        """Relative distance of the objective from its bound; infinite without a choice."""
        if math.isinf(self.value):
            return math.inf
        distance = abs(self.bound - self.value)
        return 0.0 if distance == 0.0 else distance / max(abs(self.value), 1e-300)

    @property
    def served(self) -> int:
        """Jobs that have a model."""
        return int(np.count_nonzero(self.choice >= 0))

    @property
    def mean_quality(self) -> float:
        """Mean expected quality of the jobs that have a model; 0 where none has."""
        return self.quality / self.served if self.served else 0.0

    @property
    def feasible(self) -> bool:
        """Whether every limit holds."""
        return self.status is not Status.INFEASIBLE
