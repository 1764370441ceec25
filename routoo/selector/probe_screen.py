"""Tells at little cost which of a job's probes may be worth the most, before any is judged.

What a probe's policy is worth depends for the most part on a few numbers: how good the probe looks,
and what the best other models look worth at the price. A polynomial of these, fitted to a sample of
the batch's own jobs, comes near enough that most jobs have one probe left to be looked at closely.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from routoo.selector.probe_model import BestOthers, JobProbes, ProbeModel

SAMPLE_JOBS = 4096
SAMPLE_SEED = 20_261_127
MARGIN = 1.5
"""Probes are kept whose estimate is within so many standard errors of the best one's."""
_FEATURES = 11
_RIDGE = 1e-6
_FAR = 0.4
"""A model that looks worse than the best by more than this counts alike."""
_LEAST_WORTH = -1.0


@dataclass(frozen=True, slots=True)
class ProbeScreen:
    """Estimates of what probes are worth at a price."""

    price: float
    weight: Mapping[int, Float32[np.ndarray, " features"]]
    """By the probe's column."""
    margin: float
    """A probe whose estimate is lower than the best one's by more is left out."""

    @classmethod
    def fit(cls, known: ProbeModel, probes: tuple[int, ...], price: float) -> "ProbeScreen | None":
        """Fit to a sample of the jobs; None where they are too few or there is nothing to choose.

        Args:
            known: The probes of all jobs.
            probes: Columns of those to choose from.
            price: Quality that a dollar must buy.
        """
        jobs = len(known.quality)
        if jobs <= SAMPLE_JOBS or len(probes) == 1:
            return None
        draw = np.random.default_rng(SAMPLE_SEED).choice(jobs, SAMPLE_JOBS, replace=False)
        sample = known.of_jobs(np.sort(draw))
        weight, errors = {}, []
        for probe in probes:
            kept = sample.outcomes(probe, price).kept(price)
            features = _features(sample, probe, sample.best_others(probe, price))
            weight[probe] = _least_squares(features, kept)
            found = np.einsum("fj,f->j", features, weight[probe])
            errors.append((kept - found) * known.served(probe))
        return cls(price, weight, MARGIN * float(np.std(errors)))

    def candidates(
        self, expected: JobProbes, allowed: Bool[np.ndarray, "jobs models"]
    ) -> dict[int, Int[np.ndarray, " some"]]:
        """Return for each probe the jobs of which it may be the best.

        Args:
            expected: The jobs.
            allowed: Models that each job may ask first.
        """
        charge = self.price / (1 if expected.shared is None else expected.shared)
        worth = np.empty((len(self.weight), len(allowed)), np.float32)
        least = np.full(len(allowed), -np.inf, np.float32)
        for row, (probe, weight) in zip(worth, self.weight.items(), strict=True):
            others = expected.best_others(probe, self.price)
            features = _features(expected, probe, others)
            row[:] = np.einsum("fj,f->j", features, weight) * expected.known.served(probe)
            np.subtract(row, expected.cost_usd[probe] * charge, out=row)
            row[~allowed[:, probe]] = -np.inf
            np.maximum(least, row, out=least)
            np.maximum(least, _asked_directly(expected, others, allowed), out=least)
        least -= np.float32(self.margin)
        return {
            probe: np.flatnonzero(row >= least)
            for row, probe in zip(worth, self.weight, strict=True)
        }


def _features(
    expected: JobProbes, probe: int, others: BestOthers
) -> Float32[np.ndarray, "features jobs"]:
    """Return what a probe's worth is estimated from."""
    model, best, second = others
    right, own = _of_each(expected.quality, model), expected.quality[probe]
    answered, features = expected.known.answered, np.empty((_FEATURES, len(model)), np.float32)
    if answered is not None:
        # Where the other model fails, the probe's answer is kept.
        kept = np.maximum(1 - answered, 0).astype(np.float32).take(model) * (own - right)
        best, right = best + kept, right + kept
    one, two, distance, spread, ahead, spread_of_best, reach = features[:7]
    features[7] = 1
    one[:] = own
    np.maximum(best, _LEAST_WORTH, out=two)
    np.abs(one - two, out=distance)
    np.multiply(own, 1 - own, out=spread)
    np.minimum(best - second, _FAR, out=ahead)
    np.multiply(right, 1 - right, out=spread_of_best)
    # A judgement moves the probe's quality by about its spread; only then can it change the choice.
    np.maximum(spread - distance, 0, out=reach)
    np.multiply(reach, (reach, ahead, spread_of_best), out=features[8:])
    return features


def _asked_directly(
    expected: JobProbes, others: BestOthers, allowed: Bool[np.ndarray, "jobs models"]
) -> Float32[np.ndarray, " jobs"]:
    """Return what the best model that may follow is worth without the probe, where it may be."""
    model, best, _ = others
    worth, answered = best, expected.known.answered
    if answered is not None:
        failed = np.maximum(1 - answered, 0).astype(np.float32)
        worth = best - _of_each(expected.quality, model) * failed.take(model)
    may = allowed.reshape(-1).take(np.arange(len(model)) * allowed.shape[1] + model)
    return np.where(may, worth, np.float32(-np.inf))


def _of_each(
    table: Float32[np.ndarray, "models jobs"], model: Int[np.ndarray, " jobs"]
) -> Float32[np.ndarray, " jobs"]:
    """Return each job's entry of one model."""
    return np.asarray(table.reshape(-1).take(model * table.shape[1] + np.arange(len(model))))


def _least_squares(
    features: Float32[np.ndarray, "features jobs"], wanted: Float[np.ndarray, " jobs"]
) -> Float32[np.ndarray, " features"]:
    """Return the weights of features that come nearest; BLAS would start threads that wait."""
    exact = features.astype(np.float64)
    square = np.einsum("fj,gj->fg", exact, exact) + _RIDGE * np.eye(_FEATURES)
    return np.linalg.solve(square, np.einsum("fj,j->f", exact, wanted)).astype(np.float32)
