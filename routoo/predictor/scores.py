"""Does arithmetic with scores: means where some are missing or few, log-odds, and their loss."""

import numpy as np
from jaxtyping import Float, Float32, Float64

PRIOR_OUTCOMES = 5.0
"""A model's level is pulled to that of all models as if by so many more outcomes."""
EDGE = 1e-4
"""Probabilities are held this far from 0 and 1: nothing about an LM is certain."""


def known_mean(
    values: Float32[np.ndarray, "rows columns"], *, axis: int, empty: float = 0.0
) -> Float32[np.ndarray, " kept"]:
    """Return the mean of the values along one axis without NaN, or `empty` where all are NaN."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), empty).astype(np.float32)


def pooled_mean(score: Float32[np.ndarray, "items models"]) -> float:
    """Return the mean over models of their mean scores; a model without any doesn't count."""
    means = known_mean(score, axis=0, empty=np.nan)
    return float(known_mean(means[None], axis=1, empty=0.5)[0])


def model_levels(score: Float32[np.ndarray, "items models"]) -> Float32[np.ndarray, " models"]:
    """Return each model's mean score, pulled to that of all models.

    Two right answers of two make no perfect model. With thousands of outcomes the pull is nothing.
    """
    count = (~np.isnan(score)).sum(axis=0)
    total = np.nansum(score, axis=0, dtype=np.float64) + PRIOR_OUTCOMES * pooled_mean(score)
    return np.asarray(total / (count + PRIOR_OUTCOMES), np.float32)


def with_prior(
    score: Float32[np.ndarray, "items models"], weight: Float32[np.ndarray, "items models"]
) -> tuple[Float32[np.ndarray, "more models"], Float32[np.ndarray, "more models"]]:
    """Return scores and their weights with one more item, whose scores are the mean of all models.

    Its features, which the caller adds, are those of the average prompt. A model's level that is
    fitted to all of this stays finite where a model's few outcomes are all alike.
    """
    usual = np.full((1, score.shape[1]), pooled_mean(score), np.float32)
    counts = np.full_like(usual, PRIOR_OUTCOMES)
    return np.concatenate([score, usual]), np.concatenate([weight, counts])


def sigmoid(logits: Float[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return the probabilities of log-odds."""
    return np.asarray(1 / (1 + np.exp(-np.asarray(logits, np.float64))))


def bounded_sigmoid(logits: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return probabilities of log-odds, within [EDGE, 1 - EDGE]."""
    chance = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    return np.asarray(np.clip(chance, EDGE, 1 - EDGE), np.float32)


def logit(chance: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return log-odds of probabilities; 0 and 1 are taken as EDGE and 1 - EDGE."""
    held = np.clip(chance, EDGE, 1 - EDGE)
    return np.asarray(np.log(held) - np.log1p(-held), np.float32)


def log_loss(
    score: Float[np.ndarray, "..."], chance: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Return the cross-entropy of each score, soft scores in [0, 1] too, in nats."""
    held = np.clip(chance, EDGE, 1 - EDGE)
    return np.asarray(-(score * np.log(held) + (1 - score) * np.log1p(-held)))
