"""Quality floors that hold with stated confidence, lower bounds and intervals of quality."""

import json
from dataclasses import replace

import numpy as np
import pytest

from routoo.domain.tables import read_items, read_outcomes
from routoo.errors import CheckpointError, InputError
from routoo.predictor.dataset import outcome_matrix
from routoo.predictor.manifest import Manifest
from routoo.selector.confidence import (
    CONFIDENCES,
    fit_floor,
    floor_margins,
    lower_quality,
    quality_interval,
    risk_of_confidence,
)
from tests.unit.test_selector_real_tables import DATA

MANIFEST = Manifest((), "", "", (), "", "", "", {}, {})


def manifest_of(quality: np.ndarray, score: np.ndarray, models: list[str]) -> Manifest:
    """Return a manifest as it comes back from disk."""
    table = floor_margins(quality, score, models)
    return replace(MANIFEST, metrics=json.loads(json.dumps({"floor_margins": table})))


@pytest.mark.parametrize("confidence", [0.5, 0.77, 0.9, 0.99])
def test_margins_survive_the_manifest_and_promise_at_least_what_was_asked(
    confidence: float,
) -> None:
    rng = np.random.default_rng(7)
    truth = rng.random((8000, 2))
    score = (rng.random((8000, 2)) < truth).astype(np.float32)
    quality = np.clip(truth + np.array([0.2, -0.1]), 0, 1)  # one estimate brags, one is too humble
    manifest = manifest_of(quality[:4000], score[:4000], ["brags", "humble"])
    margins = manifest.floor_margins(["humble", "brags"], confidence)[::-1]
    floor = np.clip(quality[4000:] - margins, 0, 1)
    assert (score[4000:] >= floor).mean(axis=0).min() >= confidence - 0.02


@pytest.mark.parametrize("name", ["mmlu_pro", "bfcl", "zeroeval_gsm8k"])
def test_floors_hold_on_items_that_no_margin_was_fitted_on(name: str) -> None:
    file = DATA / f"{name}_outcomes.parquet"
    if not file.exists():
        pytest.skip(f"{file.name} is not at hand: set ROUTOO_DATA_DIR")
    matrix = outcome_matrix(read_items(DATA / f"{name}_items.parquet"), read_outcomes(file))
    deal = np.random.default_rng(0).permutation(len(matrix.items)) % 3
    score = np.where(np.isfinite(matrix.score), matrix.score, np.nan)
    domains = np.array([item.subject or item.dataset for item in matrix.items])
    quality = np.tile(np.nanmean(score[deal == 0], axis=0), (len(score), 1))
    for domain in np.unique(domains):
        known = score[(domains == domain) & (deal == 0)]
        if len(known) > 5:
            quality[domains == domain] = np.nan_to_num(known.mean(axis=0), nan=0.5)
    manifest = manifest_of(quality[deal == 1], score[deal == 1], list(matrix.models))
    for confidence in (0.6, 0.9):
        margins = manifest.floor_margins(matrix.models, confidence)
        held, floor = score[deal == 2], np.clip(quality[deal == 2] - margins, 0, 1)
        graded = np.isfinite(held)
        assert (held >= floor)[graded].mean() >= confidence - 0.01


def test_a_confidence_beyond_the_manifest_is_refused_with_a_remedy() -> None:
    quality = np.full((50, 1), 0.5)
    manifest = manifest_of(quality, quality, ["a"])
    with pytest.raises(CheckpointError, match="--floor-confidence"):
        manifest.floor_margins(["a"], 0.999)
    with pytest.raises(CheckpointError, match="train again"):
        MANIFEST.floor_margins(["a"], 0.9)


def test_too_few_grades_for_a_confidence_promise_nothing() -> None:
    margins = floor_margins(np.full((5, 1), 0.5), np.ones((5, 1)), ["a"])["models"]["a"]
    assert margins[CONFIDENCES.index(0.99)] == 1.0


def test_risk_takes_standard_deviations_off_and_stops_at_zero() -> None:
    quality = np.array([[0.5, 0.7, 0.9], [0.5, 0.7, 0.85]], dtype=np.float32)
    std = np.array([[0.1, 0.5, 0.0]] * 2, dtype=np.float32)
    assert lower_quality(quality, std, 2.0)[0].tolist() == pytest.approx([0.3, 0.0, 0.9])
    assert risk_of_confidence(0.95) == pytest.approx(1.645, abs=1e-3)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_a_conformal_floor_covers_the_stated_share_of_held_out_answers(confidence: float) -> None:
    rng = np.random.default_rng(11)
    truth = rng.random((8_000, 2))
    # One model is overestimated, the other very noisy: the floor must not trust either.
    error = rng.normal([0.2, 0.0], [0.05, 0.3], truth.shape)
    quality = np.clip(truth + error, 0, 1)
    floor = fit_floor(quality[:4_000], truth[:4_000], confidence)
    covered = (truth[4_000:] >= floor.lower(quality[4_000:])).mean(axis=0)
    # The mean of 4,000 trials; calibration adds as much again.
    slack = 4 * np.sqrt(2 * confidence * (1 - confidence) / 4_000)
    assert (covered >= confidence - slack).all()
    assert (floor.lower(quality[4_000:]) >= 0).all()


def test_too_few_graded_answers_promise_nothing() -> None:
    quality = np.full((5, 1), 0.9)
    score = np.array([[1.0], [1.0], [np.nan], [1.0], [1.0]])
    assert fit_floor(quality, score, 0.95).lower(quality).tolist() == [[0.0]] * 5
    assert np.isfinite(fit_floor(quality, score, 0.5).margin).all()
    with pytest.raises(InputError):
        fit_floor(quality, score, 1.0)


def test_an_interval_of_quality_covers_the_graded_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    quality = rng.random(300)
    low, high = quality_interval(quality, np.zeros(300), 0.9)
    means = (rng.random((2_000, 300)) < quality).mean(axis=1)
    assert ((means >= low) & (means <= high)).mean() == pytest.approx(0.9, abs=0.03)
    assert quality_interval(np.ones(4), np.zeros(4), 0.9) == (1.0, 1.0)
    assert quality_interval(np.empty(0), np.empty(0), 0.9) == (0.0, 0.0)
