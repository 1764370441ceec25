"""Measures how soon a plan knows the length of a model's answers, by recorded outcomes.

For every model of every table, lengths are predicted from those of the other models, well or with a
level that is off. Some calls then correct them as plans do, and later calls show by how much the
corrected length is off, for several weights of what was predicted.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float64

from routoo.pipeline.select.experience import LENGTH_WEIGHT, correction
from routoo.predictor.answer_lengths import PLACED_SLOPE

CALLS = (5, 20, 50, 200)
WEIGHTS = (0, 1, LENGTH_WEIGHT, 5, 10, 20)
_LATER = 300
_FITTED_SHARE = 1 / 3
_LEAST_VARIANCE = 1e-4
"""Of logarithms: tables whose answers all have one length teach nothing."""
_SHARED = 0.5
"""Share of the items that a model must have answered."""


class Case(NamedTuple):
    """One model's answers in one table, in random order."""

    known: Float64[np.ndarray, " answers"]
    """Their lengths, in tokens."""
    usual: Float64[np.ndarray, " answers"]
    """Logarithms of the other models' mean lengths."""


def read_cases(paths: Sequence[Path], random: np.random.Generator) -> Iterator[Case]:
    """Yield the models of tables of outcomes that have enough answers of known length."""
    for path in paths:
        table = pq.read_table(path, columns=["item_id", "model", "completion_tokens"]).to_pandas()
        table = table[table.completion_tokens > 0]
        wide = table.pivot_table(index="item_id", columns="model", values="completion_tokens")
        wide = wide.loc[:, wide.notna().mean() > _SHARED]
        logs = np.log(wide.to_numpy(float, na_value=np.nan))
        for column in range(logs.shape[1] if logs.shape[1] > 1 else 0):
            others = np.delete(logs, column, axis=1)
            rows = ~np.isnan(logs[:, column]) & ~np.isnan(others).all(axis=1)
            own, usual = logs[rows, column], np.nanmean(others[rows], axis=1)
            enough = len(own) * (1 - _FITTED_SHARE) >= max(CALLS)
            if enough and min(own.var(), usual.var()) > _LEAST_VARIANCE:
                order = random.permutation(len(own))
                yield Case(np.exp(own[order]), usual[order])


def predict(
    case: Case, fitted: int, slope: float | None, off: float
) -> Float64[np.ndarray, " answers"]:
    """Return lengths as a predictor would: mean and, unless given, slope of the first answers.

    Args:
        case: The answers.
        fitted: How many of them are known.
        slope: Of their logarithm over that of the usual length.
        off: Logarithm of the factor by which the level is off.
    """
    usual, own = case.usual[:fitted], np.log(case.known[:fitted])
    if slope is None:
        slope = float(np.cov(usual, own)[0, 1] / usual.var())
    shape = np.exp(slope * case.usual)
    return np.asarray(shape * case.known[:fitted].mean() / shape[:fitted].mean() * np.exp(off))


def measure(case: Case, slope: float | None, off: float) -> Float64[np.ndarray, "weights calls"]:
    """Return by how much later lengths are off, as logarithms, for each weight and count."""
    fitted = int(len(case.known) * _FITTED_SHARE)
    predicted, known = predict(case, fitted, slope, off)[fitted:], case.known[fitted:]
    errors = np.empty((len(WEIGHTS), len(CALLS)))
    for column, calls in enumerate(CALLS):
        later = slice(calls, calls + _LATER)
        for row, weight in enumerate(WEIGHTS):
            seen, estimated = known[:calls].tolist(), predicted[:calls].tolist()
            factor = correction(seen, estimated, weight=weight)
            errors[row, column] = np.log(factor * predicted[later].sum() / known[later].sum())
    return np.abs(errors)


def main() -> None:
    """Print the mean error of each kind of prediction, weight and count of calls as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outcomes", type=Path, nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    cases = list(read_cases(options.outcomes, random))
    kinds = {
        "well, by prompts of the same kind": (None, lambda: 0.0),
        "by prompts of another kind: a factor of 1.5 off": (None, lambda: random.normal(0, 0.4)),
        "by a prior: a factor of e off": (PLACED_SLOPE, lambda: random.normal(0, 1)),
        "ten times too long or short": (PLACED_SLOPE, lambda: random.choice([-1, 1]) * np.log(10)),
    }
    print(json.dumps({"cases": len(cases), "calls": CALLS, "weights": WEIGHTS}))
    for kind, (slope, off) in kinds.items():
        mean = np.mean([measure(case, slope, off()) for case in cases], axis=0)
        rows = {str(w): row.round(3).tolist() for w, row in zip(WEIGHTS, mean, strict=True)}
        print(json.dumps({"predicted": kind, "error_by_weight": rows}))


if __name__ == "__main__":
    main()
