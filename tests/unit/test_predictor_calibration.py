"""Curves are fitted where held-out outcomes ask for one, and nowhere else."""

import numpy as np
import pytest

from routoo.evaluation.quality_metrics import ece
from routoo.predictor.calibration import NONE, fit_calibration
from routoo.predictor.scores import bounded_sigmoid


def _outcomes(items: int, models: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true log-odds, outcomes drawn from them, and folds."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0.5, 1.2, (items, models)).astype(np.float32)
    score = (generator.random(logits.shape) < bounded_sigmoid(logits)).astype(np.float32)
    return logits, score, generator.integers(0, 5, items)


@pytest.mark.parametrize("items", [60, 600, 6000])
def test_log_odds_that_hold_are_left_as_they_are(items: int) -> None:
    logits, score, folds = _outcomes(items, models=10)
    calibration, methods = fit_calibration(logits, score, folds)
    assert methods.count(NONE) >= 8, "one in six beats a standard error by luck at most"
    kept = [column for column, method in enumerate(methods) if method == NONE]
    np.testing.assert_allclose(
        calibration(logits)[:, kept],
        bounded_sigmoid(logits)[:, kept],
        atol=1e-5,
        err_msg="identity",
    )


@pytest.mark.parametrize(
    ("distort", "usual"),
    [
        (lambda x: x / 3, {"temperature", "platt"}),
        (lambda x: 2.5 * x, {"temperature", "platt"}),
        (lambda x: x - 1, {"platt"}),
        (lambda x: np.sign(x) * x**2, {"isotonic", "temperature", "platt"}),
    ],
)
def test_log_odds_that_are_off_are_mended(distort: object, usual: set[str]) -> None:
    logits, score, folds = _outcomes(6000, models=2)
    off = distort(logits).astype(np.float32)  # type: ignore[operator]
    calibration, methods = fit_calibration(off, score, folds)
    assert set(methods) <= usual
    unseen, outcome, _ = _outcomes(6000, models=2, seed=1)
    said = calibration(distort(unseen).astype(np.float32))  # type: ignore[operator]
    assert all(ece(outcome[:, m], said[:, m]) < 0.03 for m in range(2))


def test_a_model_without_outcomes_keeps_its_log_odds() -> None:
    logits, score, folds = _outcomes(200, models=2)
    score[:, 1] = np.nan
    calibration, methods = fit_calibration(logits, score, folds)
    assert methods[1] == NONE
    assert np.isfinite(calibration(logits)).all()
