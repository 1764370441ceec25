"""Places a model that no one has graded among reference models, by public facts of it.

Every reference model is a vector `theta`, as an added model is (`added_models`): its level, how
strictly it follows a prompt's difficulty, and which anchors it is like. Over the reference models
`theta` and what is public of them (benchmark scores, size, price, length of answers) are taken to
be jointly normal. A new model's prior is the conditional distribution of `theta` given the facts
that are known of it (Bishop 2006, 2.3.1); without any it is the distribution over all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from routoo.domain.model_prior import BENCHMARKS
from routoo.predictor.added_models import Posterior
from routoo.predictor.scores import logit

FACTS = (*BENCHMARKS, "parameters_b", "completion_usd_per_mtok", "token_factor")
"""What is known of models, in the order of the arrays."""
LIKENESS = 0.35
"""A model lies this share of the deviation between any two models from the one that it is like."""
LENGTH = FACTS.index("token_factor")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model is taken to lie before its answers are graded."""

    prior: Posterior
    token_factor: float
    """Length of its answers over the usual one."""


@dataclass(frozen=True, slots=True)
class ReferenceModels:
    """The reference models, and how their vectors and public facts go together."""

    theta: Float32[np.ndarray, "references basis"]
    token_factor: Float32[np.ndarray, " references"]
    """Length of an answer over the geometric mean of the anchors'."""
    mean: Float32[np.ndarray, " joint"]
    """Of `theta`, then of the facts as `scaled_fact` gives them."""
    covariance: Float32[np.ndarray, "joint joint"]
    task_variance: Float32[np.ndarray, " basis"]
    """How far a model's vector on one kind of prompts lies from its vector over all."""
    moment: Float32[np.ndarray, "basis basis"]
    """Mean over prompts of the basis' outer product: what an answer tells of `theta`."""

    @property
    def basis(self) -> int:
        """Width of a model's vector."""
        return int(self.theta.shape[1])

    def place(self, facts: Mapping[str, float]) -> Placement:
        """Return where a model lies of which some facts are known; none of them is fine, too.

        Args:
            facts: Any of `FACTS`: scores in (0, 1), size in billions, price in USD.
        """
        known = [n for n, name in enumerate(FACTS) if facts.get(name, 0) > 0]
        values = np.array([scaled_fact(FACTS[n], facts[FACTS[n]]) for n in known])
        mean, covariance = self.mean.astype(np.float64), self.covariance.astype(np.float64)
        wanted = [*range(self.basis), self.basis + LENGTH]
        given = [self.basis + n for n in known]
        gain = np.linalg.solve(
            covariance[np.ix_(given, given)], covariance[np.ix_(given, wanted)]
        ).T
        centre = mean[wanted] + gain @ (values - mean[given])
        spread = covariance[np.ix_(wanted, wanted)] - gain @ covariance[np.ix_(given, wanted)]
        return self._placement(centre[:-1], spread[:-1, :-1], float(np.exp(centre[-1])))

    def place_like(self, reference: int, *, same: bool) -> Placement:
        """Return where a model lies that is like a reference model, or is that model."""
        share = 0.0 if same else LIKENESS**2
        between = share * self.covariance[: self.basis, : self.basis].astype(np.float64)
        centre = self.theta[reference].astype(np.float64)
        return self._placement(centre, between, float(self.token_factor[reference]))

    def _placement(
        self,
        centre: Float64[np.ndarray, " basis"],
        spread: Float64[np.ndarray, "basis basis"],
        token_factor: float,
    ) -> Placement:
        return Placement(Posterior(centre, spread + np.diag(self.task_variance)), token_factor)

    def after_answers(self, prior: Posterior, answers: int) -> Posterior:
        """Return what so many graded answers are expected to leave of a prior's doubt."""
        level = float(prior.theta[0])
        information = answers * level_slope(level) * self.moment.astype(np.float64)
        covariance = np.linalg.inv(np.linalg.inv(prior.covariance) + information)
        return Posterior(prior.theta, covariance)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        joint = {"mean": self.mean, "covariance": self.covariance, "moment": self.moment}
        own = {"theta": self.theta, "token_factor": self.token_factor}
        return {**own, **joint, "task_variance": self.task_variance}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "ReferenceModels | None":
        """Read the arrays back; None where a checkpoint has none."""
        return cls(**tensors) if tensors else None


def scaled_fact(name: str, value: float) -> float:
    """Return a score as log-odds, everything else as its logarithm."""
    if name in BENCHMARKS:
        return float(logit(np.array(value, np.float32)))
    return float(np.log(value))


def level_slope(level: float) -> float:
    """Return how fast a probability rises with its log-odds."""
    chance = 1 / (1 + np.exp(-level))
    return float(chance * (1 - chance))
