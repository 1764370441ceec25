"""The headline figures of a run: what a list of runs shows and later runs are compared with."""

from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Float64

from routoo.evaluation.bootstrap import mean_interval
from routoo.evaluation.evaluation_run import NO_MODEL, EvaluationRun


def chosen_quality(run: EvaluationRun) -> Float64[np.ndarray, " items"]:
    """Return the predicted quality of each item's answer; NaN where no model answered."""
    rows = np.flatnonzero(run.answered)
    expected = np.full(len(run.item_ids), np.nan)
    expected[rows] = run.predicted_quality[rows, run.answered_by[rows]]
    return expected


def chosen_cost(run: EvaluationRun) -> Float64[np.ndarray, " items"]:
    """Return the expected cost of each item's planned call; NaN where the plan refused it."""
    rows = np.flatnonzero(run.chosen != NO_MODEL)
    expected = np.full(len(run.item_ids), np.nan)
    expected[rows] = run.expected_cost_usd[rows, run.chosen[rows]]
    return expected


def headline(run: EvaluationRun) -> dict[str, Any]:
    """Return quality, cost and calibration of a graded run as JSON, with 95 % intervals.

    Keys: `items`, `answered`, `graded`, `ungraded`, `sampled`, `cost_usd` (total of the routed
    jobs), `sample_cost_usd`, and with `mean`, `low`, `high`, `items`: `quality` (an item without an
    answer counts 0), `expected_quality` and `overconfidence` (expected less actual, over graded
    answers), `cost_per_item_usd`, `expected_cost_per_item_usd`, `novelty`; and `models`: share of
    the answers and, over the sample, the quality of each.
    """
    quality = run.quality.astype(np.float64)
    expected = chosen_quality(run)
    figures = {
        "quality": quality,
        "expected_quality": expected,
        "overconfidence": expected - quality,
        "cost_per_item_usd": run.cost_usd,
        "expected_cost_per_item_usd": chosen_cost(run),
        "novelty": run.novelty.astype(np.float64),
    }
    return {
        "items": len(run.item_ids),
        "answered": int(run.answered.sum()),
        "graded": int(run.graded.sum()),
        "ungraded": run.ungraded,
        "sampled": len(run.sampled),
        "cost_usd": float(run.cost_usd.sum()),
        "sample_cost_usd": float(np.nansum(run.sample_cost_usd)),
        **{name: _plain(values) for name, values in figures.items()},
        "models": [_model(run, column) for column in range(len(run.models))],
    }


def _model(run: EvaluationRun, column: int) -> dict[str, Any]:
    alone = run.sample_quality[:, column].astype(np.float64)
    return {
        "model": run.models[column],
        "answers": int((run.answered_by == column).sum()),
        "sample_quality": _plain(alone),
    }


def _plain(values: Float64[np.ndarray, " items"]) -> dict[str, float | None]:
    """Return a mean with its interval; JSON knows no NaN."""
    found = asdict(mean_interval(values))
    return {name: None if np.isnan(value) else value for name, value in found.items()}
