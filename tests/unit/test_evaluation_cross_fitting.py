"""Which items are held out by each protocol, and that nothing of them is seen."""

import numpy as np
import pytest

from routoo.domain.items import Item
from routoo.errors import InputError
from routoo.evaluation.cross_fitting import PromptFeatures, cross_fit, split_items
from routoo.evaluation.quality_metrics import auc
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.fitting import FitOptions
from routoo.predictor.options import Protocol

HIDDEN = 6


def _matrix(items: int = 200) -> tuple[OutcomeMatrix, np.ndarray]:
    """Return outcomes that follow the first feature, in four domains of two datasets."""
    features = np.random.default_rng(0).normal(size=(items, HIDDEN + 2)).astype(np.float32)
    rows = tuple(
        Item(str(n), f"question {n}", dataset="xy"[n % 2], subject="abcd"[n % 4])
        for n in range(items)
    )
    score = (features[:, :1] + [0, 0.5] > 0).astype(np.float32)
    return OutcomeMatrix(rows, ("m", "n"), score, np.full_like(score, 9)), features


def test_random_parts_are_of_equal_size_and_another_seed_deals_anew() -> None:
    matrix, _ = _matrix()
    parts = split_items(matrix, Protocol.RANDOM, 0)
    assert np.bincount(parts).tolist() == [40] * 5
    assert (parts != split_items(matrix, Protocol.RANDOM, 1)).any()


@pytest.mark.parametrize(
    ("protocol", "column"), [(Protocol.DOMAINS, "subject"), (Protocol.DATASETS, "dataset")]
)
def test_whole_domains_and_whole_datasets_are_held_out(protocol: Protocol, column: str) -> None:
    matrix, _ = _matrix()
    parts = split_items(matrix, protocol, 0)
    names = np.array([getattr(item, column) for item in matrix.items])
    assert len(set(parts)) == len(set(names))
    for name in set(names):
        assert len(set(parts[names == name])) == 1


def test_estimates_of_a_held_out_dataset_come_from_the_others() -> None:
    matrix, features = _matrix()
    parts = split_items(matrix, Protocol.DATASETS, 0)
    estimates = cross_fit(matrix, lambda _: PromptFeatures(features, HIDDEN), parts, FitOptions())
    assert set(estimates) == {"predictor", "knn", "model_mean", "true_domain_mean"}
    assert auc(matrix.score[:, 0], estimates["predictor"][:, 0]) > 0.8
    # Without its own outcomes a dataset's domains are unknown: all that is left is a mean.
    assert len(np.unique(estimates["true_domain_mean"][parts == 0])) <= 2
    turned = matrix.score.copy()
    turned[parts == 0] = 1 - turned[parts == 0]
    other = OutcomeMatrix(matrix.items, matrix.models, turned, matrix.completion_tokens)
    again = cross_fit(other, lambda _: PromptFeatures(features, HIDDEN), parts, FitOptions())
    held = parts == 0
    np.testing.assert_array_equal(again["predictor"][held], estimates["predictor"][held])


def test_a_model_that_only_answered_what_is_held_out_is_named() -> None:
    matrix, features = _matrix()
    parts = split_items(matrix, Protocol.DATASETS, 0)
    score = matrix.score.copy()
    score[parts == 1, 1] = np.nan
    partial = OutcomeMatrix(matrix.items, matrix.models, score, matrix.completion_tokens)
    with pytest.raises(InputError, match=r"'n'.*--model"):
        cross_fit(partial, lambda _: PromptFeatures(features, HIDDEN), parts, FitOptions())


def test_items_of_one_domain_can_not_be_split_by_domain() -> None:
    matrix, _ = _matrix()
    alike = tuple(Item(item.item_id, item.prompt) for item in matrix.items)
    one = OutcomeMatrix(alike, matrix.models, matrix.score, matrix.completion_tokens)
    with pytest.raises(InputError, match="--protocol random"):
        split_items(one, Protocol.DOMAINS, 0)
