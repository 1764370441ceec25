"""Holds the fitted part of a predictor, which turns features into calibrated estimates."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Int64

from routoo.predictor.added_models import (
    MIN_ANSWERS,
    AddedModels,
    Posterior,
    cross_fit_quality,
    fit_posterior,
    mean_of_fitted,
    usual_tokens,
)
from routoo.predictor.answer_lengths import AnswerLengths, TokenHead
from routoo.predictor.calibration import Calibration
from routoo.predictor.manifest import named_part
from routoo.predictor.novelty import Novelty
from routoo.predictor.projection import Projection
from routoo.predictor.reference_models import Placement, ReferenceModels
from routoo.predictor.scores import bounded_sigmoid, logit
from routoo.predictor.stacking import EnsembleMember, StackingWeights
from routoo.predictor.views.neighbours import Nearby, NeighbourView


@dataclass(frozen=True, slots=True)
class EstimatorOutput:
    """Expectations for some prompts, models in the estimator's own order."""

    quality: Float32[np.ndarray, "prompts models"]
    quality_std: Float32[np.ndarray, "prompts models"]
    completion_tokens: Float32[np.ndarray, "prompts models"]
    novelty: Float32[np.ndarray, " prompts"]


@dataclass(frozen=True, slots=True)
class Estimator:
    """Estimates quality by an ensemble of stacked, calibrated views, and answer lengths."""

    projection: Projection
    members: tuple[EnsembleMember, ...]
    neighbours: NeighbourView
    stacking: StackingWeights
    calibration: Calibration
    tokens: TokenHead
    novelty: Novelty
    added_models: AddedModels
    references: ReferenceModels | None = None
    """What a general checkpoint places new models by; None in another one."""

    @property
    def count(self) -> int:
        """Models it estimates, added ones included."""
        return len(self.neighbours.means) + len(self.added_models.theta)

    def __call__(self, features: Float32[np.ndarray, "prompts features"]) -> EstimatorOutput:
        """Estimate quality, its deviation, tokens and novelty; added models come last."""
        inputs = self.projection.apply(features)
        nearby = self.neighbours.nearby(inputs)
        votes = self._votes(inputs, nearby)
        trust = self.novelty.trust(nearby.similarity)[:, None]
        expected = self.tokens(inputs)
        return EstimatorOutput(
            self._quality(self._departure(np.mean(votes, axis=0), trust)),
            self._deviation(votes, trust),
            np.concatenate([expected, self.added_models.tokens(expected)], axis=1),
            self.novelty(nearby.similarity),
        )

    def departure(
        self, inputs: Float32[np.ndarray, "prompts projected"], *, seen: bool
    ) -> Float32[np.ndarray, "prompts fitted"]:
        """Return how far the fitted models' log-odds depart from their levels.

        Args:
            inputs: Projected features.
            seen: Prompts may be among those it was fitted on: don't count them as neighbours of
                themselves, which would give their outcomes away.
        """
        nearby = self.neighbours.nearby(inputs, others=seen)
        trust = self.novelty.trust(nearby.similarity)[:, None]
        return self._departure(np.mean(self._votes(inputs, nearby), axis=0), trust)

    def _votes(
        self, inputs: Float32[np.ndarray, "prompts projected"], nearby: Nearby
    ) -> list[Float32[np.ndarray, "prompts fitted"]]:
        around = self.neighbours.log_odds_of(nearby)[None]
        return [
            self.stacking(np.concatenate([member.log_odds(inputs), around]))
            for member in self.members
        ]

    def _departure(
        self,
        vote: Float32[np.ndarray, "prompts fitted"],
        trust: Float32[np.ndarray, "prompts 1"],
    ) -> Float32[np.ndarray, "prompts fitted"]:
        informed = logit(self.calibration(vote))
        return np.asarray(trust * (informed - logit(self.neighbours.means)))

    def _quality(
        self, departure: Float32[np.ndarray, "prompts fitted"]
    ) -> Float32[np.ndarray, "prompts models"]:
        fitted = bounded_sigmoid(logit(self.neighbours.means) + departure)
        return np.concatenate([fitted, self.added_models.quality(departure)], axis=1)

    def _deviation(
        self,
        votes: list[Float32[np.ndarray, "prompts fitted"]],
        trust: Float32[np.ndarray, "prompts 1"],
    ) -> Float32[np.ndarray, "prompts models"]:
        """Return the delete-a-group jackknife's deviation (Shao and Tu 1995, section 2.3).

        Members share most of their data, so their plain spread is too small by (members - 1).
        Where an estimate is not trusted, the spread of scores itself is what is left. The variance
        of a model's level is added, and for an added model that of its few parameters.
        """
        whole = np.ones_like(trust)
        departures = [self._departure(vote, whole) for vote in votes]
        qualities = np.stack([self._quality(departure) for departure in departures])
        variance = (len(votes) - 1) * qualities.var(axis=0)
        variance[:, : len(self.neighbours.means)] += self.neighbours.level_variance
        if added := len(self.added_models.theta):
            variance[:, -added:] += self.added_models.variance(np.mean(departures, axis=0))
        level = self._quality(np.zeros((1, votes[0].shape[1]), np.float32))
        prior = level * (1 - level)
        return np.asarray(np.sqrt(trust * variance + (1 - trust) * prior), np.float32)

    def add_model(
        self,
        inputs: Float32[np.ndarray, "answers projected"],
        score: Float32[np.ndarray, " answers"],
        completion_tokens: Float32[np.ndarray, " answers"],
        placement: Placement | None = None,
    ) -> "Estimator":
        """Return the estimator with one more model, its last; nothing else is fitted again.

        Args:
            inputs: Projected features of the prompts that the new model answered; prompts that the
                estimator was fitted on do no harm.
            score: How well it answered, in [0, 1].
            completion_tokens: Lengths of its answers; NaN where not known.
            placement: Where it lies before; then any number of answers will do.

        Raises:
            InputError: There are too few graded answers.
        """
        if placement is not None and not len(score):
            return self.place(placement)
        prior = self.prior(placement)
        least = MIN_ANSWERS if placement is None else 0
        departure = self.departure(inputs, seen=True)
        posterior = fit_posterior(departure, score, prior, at_least=least)
        before = AnswerLengths(1.0)
        if placement is not None:
            before = AnswerLengths.placed(placement.token_factor)
        lengths = before.fitted(usual_tokens(self.tokens(inputs)), completion_tokens)
        return replace(self, added_models=self.added_models.with_model(posterior, lengths))

    def place(self, placement: Placement) -> "Estimator":
        """Return the estimator with one more model, its last, where it is taken to lie."""
        lengths = AnswerLengths.placed(placement.token_factor)
        return replace(self, added_models=self.added_models.with_model(placement.prior, lengths))

    def prior(self, placement: Placement | None) -> Posterior:
        """Return what is known of a new model before its answers are graded."""
        return mean_of_fitted(self.neighbours.means) if placement is None else placement.prior

    def held_out_quality(
        self,
        inputs: Float32[np.ndarray, "answers projected"],
        score: Float32[np.ndarray, " answers"],
        folds: Int64[np.ndarray, " answers"],
        placement: Placement | None = None,
    ) -> Float32[np.ndarray, " answers"]:
        """Return what `add_model` would estimate of each graded answer without its fold."""
        departure = self.departure(inputs, seen=True)
        return cross_fit_quality(departure, score, self.prior(placement), folds)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that a checkpoint keeps, named by part."""
        parts: dict[str, Mapping[str, np.ndarray]] = {
            "projection": self.projection.tensors(),
            "neighbours": self.neighbours.tensors(),
            "stack": self.stacking.tensors(),
            "calibration": self.calibration.tensors(),
            "tokens": self.tokens.tensors(),
            "novelty": self.novelty.tensors(),
            "adopted": self.added_models.tensors(),
            "references": {} if self.references is None else self.references.tensors(),
        }
        parts |= {f"member{n}": member.tensors() for n, member in enumerate(self.members)}
        named = {f"{part}.{key}": a for part, arrays in parts.items() for key, a in arrays.items()}
        return named | self.members[0].shared_tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Estimator":
        """Read the arrays back."""
        count = len({key.split(".")[0] for key in tensors if key.startswith("member")})
        members = (named_part(tensors, f"member{n}") for n in range(count))
        return cls(
            Projection.from_tensors(named_part(tensors, "projection")),
            tuple(EnsembleMember.from_tensors(arrays, tensors) for arrays in members),
            NeighbourView.from_tensors(named_part(tensors, "neighbours")),
            StackingWeights.from_tensors(named_part(tensors, "stack")),
            Calibration.from_tensors(named_part(tensors, "calibration")),
            TokenHead.from_tensors(named_part(tensors, "tokens")),
            Novelty.from_tensors(named_part(tensors, "novelty")),
            AddedModels.from_tensors(
                named_part(tensors, "adopted"), len(tensors["neighbours.means"])
            ),
            ReferenceModels.from_tensors(named_part(tensors, "references")),
        )
