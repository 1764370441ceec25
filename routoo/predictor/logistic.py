"""The logistic function, its inverse, and the loss that goes with it."""

import numpy as np
from jaxtyping import Float

EDGE = 1e-4
"""Probabilities are held this far from 0 and 1: nothing about an LM is certain."""


def sigmoid(logits: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
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
