"""The neighbour view: expects what models did on the most similar training prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int64

from routoo.predictor.scores import PRIOR_OUTCOMES, logit, model_levels
from routoo.predictor.views.view import TrainingItems

NEIGHBOURS = 80
SHARPNESS = 8.0
"""A neighbour counts exp(SHARPNESS x cosine similarity), less what the first one left out would."""
PRIOR_NEIGHBOURS = 5.0
"""The models' means count as this many average neighbours."""
MEMORY_PROMPTS = 16_384
"""Most training prompts kept: bounds the checkpoint and the time of a look-up."""
SAME = 0.999
"""Beyond this cosine two prompts count as the same: the memory keeps half precision."""
_NO_NEIGHBOURS = 1e-6
"""Weight of the models' means where all training prompts are equally far."""
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Nearby:
    """The nearest training prompts of some prompts, nearest first, and the first one left out."""

    rows: Int64[np.ndarray, "prompts neighbours"]
    similarity: Float32[np.ndarray, "prompts neighbours"]
    """Cosine."""


@dataclass(frozen=True, slots=True)
class NeighbourView:
    """Expects the scores that models had on the most similar training prompts.

    Held-out estimates come from one fitted without the fold; a predictor keeps one of all items.
    """

    name: ClassVar[str] = "neighbours"
    shared: ClassVar[tuple[str, ...]] = ()
    vectors: Float16[np.ndarray, "memory width"]
    score: Float16[np.ndarray, "memory models"]
    """NaN where a model did not answer."""
    means: Float32[np.ndarray, " models"]
    """Each model's level."""
    outcomes: Float32[np.ndarray, " models"]
    """How many outcomes each level is the mean of."""

    @classmethod
    def fit(cls, items: TrainingItems) -> "NeighbourView":
        """Remember the items by their principal components."""
        vectors = items.features[:, : items.components]
        return cls.remember(vectors, items.score, items.memory_seed)

    @classmethod
    def remember(
        cls,
        vectors: Float32[np.ndarray, "prompts width"],
        score: Float32[np.ndarray, "prompts models"],
        seed: int,
    ) -> "NeighbourView":
        """Keep the prompts, or a random part of them where they are too many."""
        rows = np.arange(len(vectors))
        if len(rows) > MEMORY_PROMPTS:
            drawn = np.random.default_rng(seed).choice(len(rows), MEMORY_PROMPTS, replace=False)
            rows = np.sort(drawn)
        kept = _units(vectors[rows]).astype(np.float16)
        count = (~np.isnan(score)).sum(axis=0).astype(np.float32)
        return cls(kept, score[rows].astype(np.float16), model_levels(score), count)

    def nearby(
        self, features: Float32[np.ndarray, "prompts projected"], *, others: bool = False
    ) -> Nearby:
        """Find the nearest training prompts, by blocks, so that memory stays bounded.

        Args:
            features: Of the prompts; the principal components come first.
            others: Skip training prompts that are the same as the prompt itself.
        """
        units, memory = _units(self._components(features)), self.vectors.astype(np.float32).T
        count = min(NEIGHBOURS + 1, len(self.vectors))
        rows = np.zeros((len(units), count), np.int64)
        similarity = np.zeros((len(units), count), np.float32)
        for start in range(0, len(units), _BLOCK):
            cosine = units[start : start + _BLOCK] @ memory
            if others:
                cosine[cosine > SAME] = -1
            nearest = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
            value = np.take_along_axis(cosine, nearest, 1)
            order = np.argsort(-value, axis=1, kind="stable")
            rows[start : start + _BLOCK] = np.take_along_axis(nearest, order, 1)
            similarity[start : start + _BLOCK] = np.take_along_axis(value, order, 1)
        return Nearby(rows, similarity)

    def remembers(
        self, features: Float32[np.ndarray, "prompts projected"]
    ) -> Bool[np.ndarray, " prompts"]:
        """Return which prompts are in the memory, as they are or nearly so."""
        return np.asarray(self.nearby(features).similarity[:, 0] > SAME)

    def log_odds(
        self, features: Float32[np.ndarray, "prompts projected"]
    ) -> Float32[np.ndarray, "prompts models"]:
        """Return log-odds of the weighted mean scores of each prompt's neighbours."""
        return self.log_odds_of(self.nearby(features))

    def log_odds_of(self, nearby: Nearby) -> Float32[np.ndarray, "prompts models"]:
        """Return log-odds of the neighbours' weighted mean scores.

        Weights fall to 0 where the neighbourhood ends: of two prompts that are equally far,
        rounding decides which one is left out, and the score must not jump by it.
        """
        weight = np.exp(SHARPNESS * (nearby.similarity - nearby.similarity[:, :1]))
        weight = weight[:, :-1] - weight[:, -1:]
        prior = PRIOR_NEIGHBOURS * weight.sum(axis=1) / max(weight.shape[1], 1) + _NO_NEIGHBOURS
        totals = prior[:, None] * self.means
        weights = np.repeat(prior[:, None], len(self.means), axis=1)
        for rank in range(weight.shape[1]):
            score = self.score[nearby.rows[:, rank]].astype(np.float32)
            totals += weight[:, rank, None] * np.nan_to_num(score)
            weights += weight[:, rank, None] * ~np.isnan(score)
        return logit(totals / weights)

    def _components(
        self, features: Float32[np.ndarray, "prompts projected"]
    ) -> Float32[np.ndarray, "prompts width"]:
        return features[:, : self.vectors.shape[1]]

    @property
    def level_variance(self) -> Float32[np.ndarray, " models"]:
        """Variance of each model's level, the mean of so many outcomes."""
        spread = self.means * (1 - self.means)
        return np.asarray(spread / (self.outcomes + PRIOR_OUTCOMES), np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        levels = {"means": self.means, "outcomes": self.outcomes}
        return {"vectors": self.vectors, "score": self.score, **levels}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "NeighbourView":
        """Read the arrays back."""
        means = tensors["means"]
        # Earlier checkpoints don't keep it: their levels are taken for sure.
        outcomes = tensors.get("outcomes", np.full_like(means, np.inf))
        return cls(tensors["vectors"], tensors["score"], means, outcomes)


def _units(
    vectors: Float32[np.ndarray, "prompts width"],
) -> Float32[np.ndarray, "prompts width"]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
