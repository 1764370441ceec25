"""The judge of one model's answers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64

from routoo.judge.hashed_text import HashedTexts, TextWeights
from routoo.judge.log_odds import products_by_row
from routoo.judge.outcomes import OutcomeModel
from routoo.judge.trees import BoostedTrees
from routoo.predictor.manifest import named_part

_COMPONENTS = 4
"""Directions of the prompt's estimates that the trees see."""
FIRST_FEATURES = 143
"""Features of an answer that judges know whose checkpoint doesn't say how many."""
_FIGURES = 2
"""What they see before these: the probe's estimate, and the mean over the models."""


@dataclass(frozen=True, slots=True)
class AnswerInputs:
    """What a judge knows of some answers."""

    features: Float32[np.ndarray, "answers features"]
    texts: HashedTexts
    prior: Float64[np.ndarray, "answers models"]
    """Log-odds of each model from the prompt alone."""


@dataclass(frozen=True, slots=True)
class PriorView:
    """What was expected from the prompt alone, as the trees see it."""

    mean: Float32[np.ndarray, " models"]
    components: Float32[np.ndarray, "components models"]

    @classmethod
    def fit(cls, prior: Float[np.ndarray, "answers models"]) -> "PriorView":
        """Take the directions in which the estimates vary most."""
        mean = prior.mean(axis=0)
        axes = np.linalg.svd(prior - mean, full_matrices=False)[2][:_COMPONENTS]
        return cls(mean.astype(np.float32), axes.astype(np.float32))

    def __call__(
        self, prior: Float[np.ndarray, "answers models"], probe: int
    ) -> Float64[np.ndarray, "answers figures"]:
        """Return the probe's estimate, the mean over the models, and the directions."""
        own = np.stack([prior[:, probe], prior.mean(axis=1)], axis=1)
        along = products_by_row(prior - self.mean, self.components)
        return np.concatenate([own, along], axis=1)

    def columns_of_components(self, before: int) -> slice:
        """Return which inputs of the trees are the directions, with so many features before."""
        first = before + _FIGURES
        return slice(first, first + len(self.components))


@dataclass(frozen=True, slots=True)
class ProbeJudge:
    """What was fitted to the graded answers of one model."""

    probe: int
    """Its column."""
    view: PriorView
    words: TextWeights
    trees: BoostedTrees
    loading: Float32[np.ndarray, "models factors"]
    """By how much the trees' sums move the log-odds of each model."""
    outcomes: OutcomeModel
    features: int
    """How many of an answer's features it knows: later versions put theirs behind these."""

    def __call__(self, answers: AnswerInputs) -> Float64[np.ndarray, "answers models"]:
        """Return the log-odds of each model, given the answers."""
        known = replace(answers, features=answers.features[:, : self.features])
        inputs = tree_inputs(known, self.view, self.probe, self.words(answers.texts))
        moved = products_by_row(self.trees(inputs), self.loading)
        return np.asarray(answers.prior + moved)

    def extended(self, count: int) -> "ProbeJudge":
        """Return the judge of so many models; an answer says of new ones what it says of others."""
        new = count - len(self.loading)
        if new <= 0:
            return self
        others = np.arange(len(self.loading)) != self.probe
        known = others if others.any() else ~others
        mean, components = self.view.mean, self.view.components
        level = np.full(new, mean[known].mean(), np.float32)
        view = PriorView(np.concatenate([mean, level]), np.pad(components, ((0, 0), (0, new))))
        loading = np.repeat(self.loading[known].mean(axis=0, keepdims=True), new, axis=0)
        outcomes = self.outcomes.extended(count, known)
        return replace(
            self, view=view, loading=np.concatenate([self.loading, loading]), outcomes=outcomes
        )

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that a checkpoint keeps, named by part."""
        parts = {
            "words": self.words.tensors(),
            "trees": self.trees.tensors(),
            "outcomes": self.outcomes.tensors(),
        }
        named = {f"{part}.{key}": a for part, arrays in parts.items() for key, a in arrays.items()}
        own = {"mean": self.view.mean, "components": self.view.components, "loading": self.loading}
        numbers = {"probe": np.array([self.probe]), "features": np.array([self.features])}
        return {**named, **own, **numbers}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "ProbeJudge":
        """Read the arrays back."""
        return cls(
            int(tensors["probe"][0]),
            PriorView(tensors["mean"], tensors["components"]),
            TextWeights.from_tensors(named_part(tensors, "words")),
            BoostedTrees.from_tensors(named_part(tensors, "trees")),
            tensors["loading"],
            OutcomeModel.from_tensors(named_part(tensors, "outcomes")),
            int(tensors.get("features", [FIRST_FEATURES])[0]),
        )


def tree_inputs(
    answers: AnswerInputs,
    view: PriorView,
    probe: int,
    said: Float32[np.ndarray, "answers targets"],
) -> Float32[np.ndarray, "answers inputs"]:
    """Return what the trees look at: features, the prompt's estimates, what the words say."""
    parts = [answers.features, view(answers.prior, probe), said]
    return np.concatenate(parts, axis=1).astype(np.float32)
