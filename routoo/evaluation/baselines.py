"""Baselines that a predictor must beat, fitted on the same training items."""

import numpy as np
from jaxtyping import Float32
from sklearn.neighbors import NearestNeighbors

from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.domains import domain_means, number_domains
from routoo.predictor.holes import known_mean

KNN = 40


def knn_quality(
    known_features: Float32[np.ndarray, "train features"],
    known_score: Float32[np.ndarray, "train models"],
    features: Float32[np.ndarray, "items features"],
) -> Float32[np.ndarray, "items models"]:
    """Return mean scores of the 40 nearest training items by cosine, each counting alike."""
    index = NearestNeighbors(n_neighbors=min(KNN, len(known_features)), metric="cosine")
    rows = index.fit(known_features).kneighbors(features, return_distance=False)
    means = known_mean(known_score, axis=0)
    filled = np.where(np.isnan(known_score), means, known_score)
    return np.asarray(filled[rows].mean(axis=1), np.float32)


def mean_quality(train: OutcomeMatrix, held: OutcomeMatrix) -> Float32[np.ndarray, "items models"]:
    """Return each model's training mean for every item: routed by it, the mix that could be bought.

    The hull of the held-out means is a mix chosen with hindsight: the more models and the fewer
    items, the more of its height is luck. This one was chosen before, as a user would have to.
    """
    return np.repeat(known_mean(train.score, axis=0)[None], len(held.items), axis=0)


def domain_quality(
    train: OutcomeMatrix, held: OutcomeMatrix
) -> Float32[np.ndarray, "items models"]:
    """Return each model's training mean on the item's true domain: an informed baseline.

    It is told the domain, which a router is not.
    """
    names = [item.subject for item in (*train.items, *held.items)]
    numbers = number_domains(names)
    means = domain_means(train.score, numbers[: len(train.items)], int(numbers.max()) + 1)
    return np.asarray(means[numbers[len(train.items) :]])
