"""The domain view: guesses a prompt's domain, and expects what each model does on that domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int64
from scipy.special import softmax

from routoo.predictor.regression import Linear, fit_softmax
from routoo.predictor.scores import logit, model_levels
from routoo.predictor.views.view import TrainingItems

CLASSIFIER_RIDGE = 100.0
"""Penalty on squared weights of the classifier, in units of one observation's loss."""
PRIOR_OUTCOMES = 20.0
"""A subject's mean is pulled to the model's mean as if by this many more outcomes."""


@dataclass(frozen=True, slots=True)
class DomainView:
    """Expects the mean score of a prompt's domain; the domain is guessed from its text."""

    name: ClassVar[str] = "domain"
    shared: ClassVar[tuple[str, ...]] = ()
    classifier: Linear
    means: Float32[np.ndarray, "domains models"]

    @classmethod
    def fit(cls, items: TrainingItems) -> "DomainView":
        """Fit the classifier, and the means with a pull to each model's own mean.

        Class weights don't count: they would move a mean's log-odds by as much in every domain,
        which the stack takes out again.
        """
        count = int(items.domains.max()) + 1
        classifier = fit_softmax(items.features, items.domains, count, CLASSIFIER_RIDGE)
        return cls(classifier, domain_means(items.score, items.domains, count))

    def log_odds(
        self, features: Float32[np.ndarray, "prompts features"]
    ) -> Float32[np.ndarray, "prompts models"]:
        """Return the log-odds of the expected mean score."""
        return logit(softmax(self.classifier(features), axis=1) @ self.means)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        return {**self.classifier.tensors(), "means": self.means}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "DomainView":
        """Read the arrays back."""
        return cls(Linear.from_tensors(tensors), tensors["means"])


def domain_means(
    score: Float32[np.ndarray, "prompts models"], domains: Int64[np.ndarray, " prompts"], count: int
) -> Float32[np.ndarray, "domains models"]:
    """Return each model's mean score a domain, pulled to the model's overall mean."""
    totals = np.zeros((count, score.shape[1]))
    weights = np.zeros_like(totals)
    np.add.at(totals, domains, np.nan_to_num(score))
    np.add.at(weights, domains, ~np.isnan(score))
    totals += PRIOR_OUTCOMES * model_levels(score)
    return np.asarray(totals / (weights + PRIOR_OUTCOMES), np.float32)


def number_domains(names: Sequence[str | None]) -> Int64[np.ndarray, " prompts"]:
    """Number the domains by name; prompts without one share a number."""
    order = {name: number for number, name in enumerate(sorted({name or "" for name in names}))}
    return np.array([order[name or ""] for name in names], np.int64)
