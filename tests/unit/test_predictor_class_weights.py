"""Class weights on made-up outcomes, most of them failures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from routoo.domain.items import Item
from routoo.evaluation.quality_metrics import auc
from routoo.predictor import scores
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.fitting import FitOptions, FitResult, fit_estimator
from routoo.predictor.options import ClassWeight
from routoo.predictor.regression import Ridge, fit_logistic, outcome_weights
from routoo.predictor.scores import bounded_sigmoid

HIDDEN = 12
SHAPE = st.tuples(st.integers(1, 30), st.integers(1, 3))
SCORES = arrays.arrays(
    np.float32,
    SHAPE,
    elements=st.sampled_from([0.0, 1.0, 0.25, 1e-6, float("nan")]).map(np.float32),
)


def _rare(items: int, seed: int) -> tuple[OutcomeMatrix, np.ndarray]:
    """Return outcomes of two models, of which 4 and 7 % are right, some missing, and features."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(items, HIDDEN + 2)).astype(np.float32)
    logits = 1.2 * features[:, :1] + 0.6 * features[:, 1:3] - np.array([4.0, 3.3])
    score = (generator.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    score[::9, 0] = np.nan
    rows = tuple(Item(str(n), f"question {n}", subject="ab"[n % 2]) for n in range(items))
    return OutcomeMatrix(rows, ("m", "n"), score, np.full_like(score, 9)), features


def _fit(class_weight: ClassWeight) -> FitResult:
    matrix, features = _rare(3000, seed=1)
    return fit_estimator(matrix, features, HIDDEN, FitOptions(class_weight=class_weight))


@pytest.fixture(scope="module")
def balanced() -> FitResult:
    return _fit(ClassWeight.BALANCED)


@given(SCORES, st.sampled_from(ClassWeight))
def test_weights_have_mean_one_over_known_outcomes_and_are_zero_where_missing(
    score: np.ndarray, class_weight: ClassWeight
) -> None:
    weight = outcome_weights(score, class_weight)
    known = ~np.isnan(score)
    assert (weight[~known] == 0).all()
    assert np.isfinite(weight).all()
    np.testing.assert_allclose(weight.sum(axis=0), known.sum(axis=0), rtol=1e-3)


def test_balanced_successes_weigh_as_much_as_failures_soft_scores_in_between() -> None:
    score = np.array([[1, 0, 0, 0, np.nan], [1, 1, 1, 0, 0.5]], np.float32).T
    weight = outcome_weights(score, ClassWeight.BALANCED)
    np.testing.assert_allclose(weight[:, 0], [2, 2 / 3, 2 / 3, 2 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(weight[3, 1] / weight[0, 1], 3.5 / 1.5, rtol=1e-6)
    np.testing.assert_allclose(weight[4, 1], (weight[0, 1] + weight[3, 1]) / 2, rtol=1e-6)


def test_balanced_log_odds_are_those_of_a_table_with_the_rare_outcomes_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The prior would count for less in a larger table.
    monkeypatch.setattr(scores, "PRIOR_OUTCOMES", 0.0)
    features = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    score = (features[:, :1] > 0.7).astype(np.float32)
    score[:4] = 1 - score[:4]
    rare = np.flatnonzero(score[:, 0])
    rows = np.repeat(np.arange(80), np.where(score[:, 0] > 0, 80 - len(rare), len(rare)))
    ridge = Ridge(2.0, 2.0)
    more = len(rows) / 80
    repeated = fit_logistic(features[rows], score[rows], Ridge(2.0 * more, 2.0 * more))
    weighted = fit_logistic(features, score, ridge, ClassWeight.BALANCED)
    np.testing.assert_allclose(weighted(features), repeated(features), atol=2e-3)


def test_probabilities_hold_though_the_weighted_view_takes_rare_outcomes_for_common(
    balanced: FitResult,
) -> None:
    matrix, features = _rare(6000, seed=2)
    quality = balanced.estimator(features).quality
    seen, _ = _rare(3000, seed=1)
    for column in range(2):
        observed = np.nanmean(matrix.score[:, column])
        assert observed < 0.1
        assert abs(quality[:, column].mean() - observed) < 0.015
        raw = bounded_sigmoid(balanced.held_out_views["linear"][:, column])
        assert raw.mean() > 0.3 > 3 * np.nanmean(seen.score[:, column])


def test_the_weighted_fit_ranks_unseen_prompts(balanced: FitResult) -> None:
    matrix, features = _rare(6000, seed=2)
    quality = balanced.estimator(features).quality
    for column in range(2):
        known = ~np.isnan(matrix.score[:, column])
        assert auc(matrix.score[known, column], quality[known, column]) > 0.75


def test_without_class_weights_the_fit_is_another() -> None:
    usual = _fit(ClassWeight.NONE).held_out_views["linear"]
    assert bounded_sigmoid(usual).mean() < 0.1
