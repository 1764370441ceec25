"""Fitting on made-up outcomes whose truth is known."""

import numpy as np
import pytest

from routoo.domain.items import Item
from routoo.errors import InputError
from routoo.evaluation.quality_metrics import auc, brier, ece
from routoo.predictor.checkpoint import pack
from routoo.predictor.dataset import OutcomeMatrix, grouped_folds, text_groups
from routoo.predictor.fitting import FitOptions, FitResult, fit_estimator
from routoo.predictor.scores import PRIOR_OUTCOMES
from routoo.training.train import learning_curve

HIDDEN = 24
ITEMS = 600


def _made_up(items: int = ITEMS, seed: int = 3) -> tuple[OutcomeMatrix, np.ndarray, np.ndarray]:
    """Return outcomes of two models, features, and the chances they were drawn from."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(items, HIDDEN + 4)).astype(np.float32)
    hard, special = features[:, 0], features[:, 1]
    logits = np.stack([1 - 1.5 * hard + 1.5 * special, 0.5 - 1.5 * hard - 1.5 * special], axis=1)
    chance = 1 / (1 + np.exp(-logits))
    score = (generator.random(chance.shape) < chance).astype(np.float32)
    tokens = np.exp(3 + 0.5 * hard[:, None] + 0.1 * generator.normal(size=chance.shape))
    rows = tuple(Item(str(n), f"question {n}", subject="a" if n % 2 else "b") for n in range(items))
    return OutcomeMatrix(rows, ("m", "n"), score, tokens.astype(np.float32)), features, chance


def _fit(matrix: OutcomeMatrix, features: np.ndarray) -> FitResult:
    return fit_estimator(matrix, features, HIDDEN, FitOptions())


@pytest.fixture(scope="module")
def fitted() -> FitResult:
    matrix, features, _ = _made_up()
    return _fit(matrix, features)


def test_estimates_rank_unseen_prompts_and_their_probabilities_hold(fitted: FitResult) -> None:
    matrix, features, _ = _made_up(items=2000, seed=4)
    quality = fitted.estimator(features).quality
    for column in range(2):
        assert auc(matrix.score[:, column], quality[:, column]) > 0.75
        assert ece(matrix.score[:, column], quality[:, column]) < 0.08


def test_the_stated_deviation_is_of_the_size_of_the_error(fitted: FitResult) -> None:
    _, features, chance = _made_up(items=2000, seed=4)
    estimates = fitted.estimator(features)
    error = float(np.sqrt(np.mean((estimates.quality - chance) ** 2)))
    assert 0.2 * error < float(estimates.quality_std.mean()) < 5 * error


def test_expected_tokens_follow_the_prompt(fitted: FitResult) -> None:
    matrix, features, _ = _made_up(items=2000, seed=4)
    expected = fitted.estimator(features).completion_tokens
    assert np.corrcoef(expected[:, 0], matrix.completion_tokens[:, 0])[0, 1] > 0.5
    assert abs(expected.mean() / matrix.completion_tokens.mean() - 1) < 0.1


def test_a_prompt_unlike_all_others_is_novel_and_shrinks_to_the_models_mean() -> None:
    matrix, features, _ = _made_up()
    features[:, 2:] *= 0.05
    features[:, 2:6] += np.sign(features[:, :1])
    estimator = _fit(matrix, features).estimator
    # Training prompts lie in two narrow cones; this one lies across both.
    strange = np.zeros((1, HIDDEN + 4), np.float32)
    strange[:, 10:20] = 0.2 * np.resize([1, -1], 10)
    estimates = estimator(np.concatenate([strange, features[:50]]))
    means = matrix.score.mean(axis=0)
    assert estimates.novelty[0] > 0.95
    assert estimates.novelty[1:].mean() < 0.8
    assert np.abs(estimates.quality[0] - means).max() < 0.1
    assert (estimates.quality_std[0] > estimates.quality_std[1:].mean(axis=0)).all()


def test_the_same_data_and_seed_give_the_same_bytes(fitted: FitResult) -> None:
    matrix, features, _ = _made_up()
    assert pack(_fit(matrix, features).estimator, {}) == pack(fitted.estimator, {})


def test_outcomes_that_are_missing_are_left_out_not_taken_as_wrong() -> None:
    matrix, features, _ = _made_up()
    holes = np.random.default_rng(5).random(matrix.score.shape) < 0.5
    holes[holes.all(axis=1)] = [True, False]
    score = np.where(holes, np.nan, matrix.score).astype(np.float32)
    partial = OutcomeMatrix(matrix.items, matrix.models, score, matrix.completion_tokens)
    quality = _fit(partial, features).estimator(features).quality
    assert np.abs(quality.mean(axis=0) - matrix.score.mean(axis=0)).max() < 0.06


def test_soft_scores_are_learnt_as_expected_scores() -> None:
    matrix, features, chance = _made_up()
    soft = OutcomeMatrix(matrix.items, matrix.models, chance.astype(np.float32), matrix.score)
    quality = _fit(soft, features).estimator(features).quality
    assert np.abs(quality - chance).mean() < 0.12


def test_models_whose_answer_lengths_are_unknown_still_get_a_positive_estimate() -> None:
    matrix, features, _ = _made_up()
    unknown = np.full_like(matrix.score, np.nan)
    blind = OutcomeMatrix(matrix.items, matrix.models, matrix.score, unknown)
    assert (_fit(blind, features).estimator(features).completion_tokens >= 1).all()


def test_outcomes_that_the_features_were_tuned_on_do_not_judge_the_views() -> None:
    matrix, features, _ = _made_up()
    folds = grouped_folds(text_groups(matrix.prompts), 5, seed=0)
    tuned_on = folds != 0
    # Features that give the outcomes away where they were tuned on them, and only there.
    features[:, 1:3] = np.where(tuned_on[:, None], 3 * matrix.score, features[:, 1:3])
    fooled = _fit(matrix, features).estimator
    wary = fit_estimator(matrix, features, HIDDEN, FitOptions(), tuned_on=tuned_on).estimator
    fresh, unseen, _ = _made_up(seed=4)
    score = fresh.score.ravel()
    errors = [brier(score, one(unseen).quality.ravel()) for one in (wary, fooled)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(("right", "of"), [(1, 1), (2, 2), (0, 2), (6, 6), (10, 10)])
def test_of_a_model_with_few_outcomes_little_is_known(
    fitted: FitResult, right: int, of: int
) -> None:
    matrix, features, _ = _made_up()
    folds = grouped_folds(text_groups(matrix.prompts), 5, seed=0)
    score = np.column_stack([matrix.score, np.full(ITEMS, np.nan, np.float32)])
    score[np.flatnonzero(folds == 1)[:of], 2] = np.arange(of) < right  # one fold has them all
    tokens = np.full_like(score, 9)
    with_few = _fit(OutcomeMatrix(matrix.items, ("m", "n", "few"), score, tokens), features)
    known = with_few.estimator(features)
    few = known.quality[:, 2]
    assert 0.1 < few.mean() < 0.98
    expected = (right + PRIOR_OUTCOMES * matrix.score.mean()) / (of + PRIOR_OUTCOMES)
    spread = np.sqrt(expected * (1 - expected) / (of + PRIOR_OUTCOMES))
    assert known.quality_std[:, 2].mean() > 0.9 * spread
    others = fitted.estimator(features).quality
    assert np.abs(known.quality[:, :2] - others).mean() < 0.05


def test_held_out_figures_of_noise_are_those_of_noise() -> None:
    figures = []
    for seed in range(5):
        matrix, features, _ = _made_up(items=60, seed=seed)
        generator = np.random.default_rng(seed)
        score = (generator.random((60, 8)) < 0.6).astype(np.float32)
        noise = OutcomeMatrix(matrix.items, tuple("abcdefgh"), score, np.full_like(score, 9))
        quality = _fit(noise, features).held_out_quality
        figures += [auc(score[:, m], quality[:, m]) for m in range(8)]
    assert np.mean(figures) < 0.53


def test_too_few_items_are_refused_with_a_remedy() -> None:
    matrix, features, _ = _made_up(items=10)
    with pytest.raises(InputError, match="Collect outcomes"):
        _fit(matrix, features)


def test_more_items_make_a_better_fit(fitted: FitResult) -> None:
    matrix, features, _ = _made_up()
    points = learning_curve(matrix, features, fitted.estimator, FitOptions())
    figures = [auc(point.score[:, 0], point.quality[:, 0]) for point in points]
    assert [point.items for point in points] == sorted(point.items for point in points)
    assert figures[-1] > figures[0]
