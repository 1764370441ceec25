"""Adding a model to a predictor that was fitted on others, from made-up answers."""

import numpy as np
import pytest

from routoo.domain.items import Item
from routoo.errors import InputError
from routoo.evaluation.quality_metrics import auc
from routoo.predictor.answer_lengths import AnswerLengths, supported_slope
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.estimator import Estimator
from routoo.predictor.fitting import FitOptions, fit_estimator

HIDDEN = 12


def _features(items: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(items, HIDDEN + 2)).astype(np.float32)


def _answers(features: np.ndarray, strength: float, gift: float) -> np.ndarray:
    """Draw answers of a model; its gift is to profit from the second feature."""
    logits = strength - 1.5 * features[:, 0] + gift * features[:, 1]
    chance = 1 / (1 + np.exp(-logits))
    drawn = np.random.default_rng(int(100 * gift + 700)).random(len(features)) < chance
    return drawn.astype(np.float32)


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    features = _features(400, seed=1)
    score = np.stack([_answers(features, 1, 1.5), _answers(features, 0, -1.5)], axis=1)
    rows = tuple(Item(str(n), f"question {n}") for n in range(len(features)))
    tokens = np.full_like(score, 100)
    matrix = OutcomeMatrix(rows, ("gifted", "plain"), score, tokens)
    return fit_estimator(matrix, features, HIDDEN, FitOptions()).estimator


def _add(estimator: Estimator, count: int, gift: float, length: float = np.nan) -> Estimator:
    features = _features(count, seed=2)
    lengths = np.full(count, length, np.float32)
    inputs = estimator.projection.apply(features)
    return estimator.add_model(inputs, _answers(features, -1, gift), lengths)


def test_an_added_model_is_ranked_by_its_own_answers_and_its_level_is_met(
    estimator: Estimator,
) -> None:
    fresh = _features(1500, seed=3)
    for gift in (1.5, -1.5):
        score = _answers(fresh, -1, gift)
        few = _add(estimator, 200, gift)(fresh).quality
        assert auc(score, few[:, 2]) > 0.7
        assert abs(float(few[:, 2].mean() - score.mean())) < 0.08
        like, unlike = (few[:, 0], few[:, 1])[:: 1 if gift > 0 else -1]
        assert np.corrcoef(few[:, 2], like)[0, 1] > np.corrcoef(few[:, 2], unlike)[0, 1]


def test_the_other_models_estimates_stay_as_they_were(estimator: Estimator) -> None:
    fresh = _features(50, seed=3)
    before, after = estimator(fresh), _add(estimator, 50, 1.5)(fresh)
    np.testing.assert_array_equal(after.quality[:, :2], before.quality)
    np.testing.assert_array_equal(after.quality_std[:, :2], before.quality_std)


def test_more_answers_leave_less_doubt(estimator: Estimator) -> None:
    inputs = estimator.projection.apply(_features(200, seed=3))
    departure = estimator.departure(inputs, seen=False)
    few, some, many = (_add(estimator, n, 1.5).added_models for n in (20, 100, 500))
    doubts = [float(one.variance(departure).mean()) for one in (few, some, many)]
    assert doubts[0] > 2 * doubts[1] > 4 * doubts[2] > 0


def test_answer_lengths_scale_those_of_the_others_and_may_be_unknown(estimator: Estimator) -> None:
    fresh = _features(50, seed=3)
    longer = _add(estimator, 200, 1.5, length=300)(fresh).completion_tokens
    assert abs(float(longer[:, 2].mean()) - 300) < 10
    unknown = _add(estimator, 200, 1.5)(fresh).completion_tokens
    np.testing.assert_allclose(unknown[:, 2], unknown[:, 0], rtol=0.05)


def _lengths(seed: int, answers: int, *, follow: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw usual lengths, and those of a model: they follow a visible word, or vary by chance."""
    generator = np.random.default_rng(seed)
    has_word = generator.random(answers) < 0.5
    noise = generator.normal(scale=0.25, size=(2, answers))
    usual = 150 * np.where(has_word, 2.0, 1.0) * np.exp(noise[0])
    own = 30 * np.where(has_word & follow, 2.0, 1.0) * np.exp(noise[1])
    return usual.astype(np.float32), own.astype(np.float32)


def _expected(lengths: AnswerLengths, usual: np.ndarray) -> np.ndarray:
    return np.asarray(lengths.factor * usual**lengths.slope)


@pytest.mark.parametrize("before", [AnswerLengths(1.0), AnswerLengths.placed(2.0)])
def test_lengths_that_do_not_follow_the_prompt_are_expected_at_their_mean(
    before: AnswerLengths,
) -> None:
    fresh, _ = _lengths(99, 500, follow=False)
    for seed in range(20):
        usual, own = _lengths(seed, 50, follow=False)
        expected = _expected(before.fitted(usual, own), fresh)
        assert expected.mean() == pytest.approx(own.mean(), rel=0.04)
        assert np.log(expected).std() < 0.08
        assert np.log(fresh).std() > 0.4


def test_lengths_that_follow_the_prompt_keep_their_spread() -> None:
    fresh, truth = _lengths(99, 500, follow=True)
    for seed in range(10):
        usual, own = _lengths(seed, 200, follow=True)
        expected = _expected(AnswerLengths.placed(2.0).fitted(usual, own), fresh)
        assert expected.mean() == pytest.approx(truth.mean(), rel=0.07)
        assert np.log(expected).std() > 0.2
        assert np.corrcoef(np.log(expected), np.log(truth))[0, 1] > 0.5


def test_few_answers_bear_no_slope_out_and_none_shrinks_below_0_or_above_1() -> None:
    line = np.linspace(1, 4, 100)
    assert supported_slope(line[:2], line[:2]) == 0
    assert supported_slope(line, -line) == 0
    assert supported_slope(np.full(100, 5.0), line) == 0
    assert 0.9 < supported_slope(line, 2 * line) <= 1
    assert supported_slope(line[::33], line[::33]) < supported_slope(line, line)


def test_a_model_without_known_lengths_keeps_those_it_was_placed_with() -> None:
    unknown = np.full(3, np.nan, np.float32)
    placed = AnswerLengths.placed(2.0)
    assert placed.fitted(np.ones(3, np.float32), unknown) == placed
    assert _expected(placed, np.array([100.0])) == pytest.approx(200)
    spread = np.ptp(np.log(_expected(placed, np.array([50.0, 200.0]))))
    assert spread < 0.5 * np.log(4)


def test_checkpoints_that_name_no_length_slopes_are_read_as_they_were(
    estimator: Estimator,
) -> None:
    tensors = _add(estimator, 100, 1.5, length=300).tensors()
    del tensors["adopted.token_slope"]
    tensors["adopted.token_factor"][:] = 3
    tokens = Estimator.from_tensors(tensors)(_features(50, seed=3)).completion_tokens
    np.testing.assert_allclose(tokens[:, 2], 300, rtol=0.05)


def test_models_can_be_added_one_after_the_other_and_survive_the_checkpoint(
    estimator: Estimator,
) -> None:
    first = _add(estimator, 100, 1.5)
    both = _add(first, 100, -1.5)
    fresh = _features(50, seed=3)
    again = Estimator.from_tensors(both.tensors())
    np.testing.assert_array_equal(again(fresh).quality, both(fresh).quality)
    np.testing.assert_array_equal(again(fresh).completion_tokens, both(fresh).completion_tokens)
    np.testing.assert_allclose(both(fresh).quality[:, 2], first(fresh).quality[:, 2], atol=1e-6)


def test_even_a_model_that_is_always_right_gets_finite_estimates(estimator: Estimator) -> None:
    inputs = estimator.projection.apply(_features(30, seed=2))
    ones, unknown = np.ones(30, np.float32), np.full(30, np.nan, np.float32)
    quality = estimator.add_model(inputs, ones, unknown)(_features(50, seed=3)).quality[:, 2]
    assert quality.mean() > 0.85
    assert quality.max() < 1


def test_held_out_estimates_do_not_see_the_answer_they_are_for(estimator: Estimator) -> None:
    features = _features(40, seed=2)
    inputs, score = estimator.projection.apply(features), _answers(features, -1, 1.5)
    folds = np.arange(40) % 5
    before = estimator.held_out_quality(inputs, score, folds)
    flipped = np.where(folds == 2, 1 - score, score).astype(np.float32)
    after = estimator.held_out_quality(inputs, flipped, folds)
    np.testing.assert_array_equal(after[folds == 2], before[folds == 2])
    assert (after[folds == 1] != before[folds == 1]).any()


def test_a_handful_of_answers_is_refused(estimator: Estimator) -> None:
    with pytest.raises(InputError, match="better 200"):
        _add(estimator, 5, 1.5)


def test_prompts_it_was_fitted_on_are_no_neighbours_of_themselves(estimator: Estimator) -> None:
    width = estimator.projection.width
    inputs = estimator.projection.apply(_features(400, seed=1))[:, :width]
    assert (estimator.neighbours.nearby(inputs).similarity[:, 0] > 0.999).all()
    assert (estimator.neighbours.nearby(inputs, others=True).similarity[:, 0] < 0.999).all()
