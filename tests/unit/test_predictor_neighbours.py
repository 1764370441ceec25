"""The neighbour view on made-up prompts."""

import numpy as np
import pytest

from routoo.predictor.scores import bounded_sigmoid
from routoo.predictor.views.neighbours import NEIGHBOURS, NeighbourView

WIDTH = 16


def _memory(prompts: int, seed: int = 0) -> tuple[NeighbourView, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(prompts, WIDTH)).astype(np.float32)
    score = (generator.random((prompts, 2)) < 0.7).astype(np.float32)
    return NeighbourView.remember(vectors, score, 0), vectors, score


def test_a_score_does_not_jump_where_the_neighbourhood_ends_between_equal_prompts() -> None:
    _, vectors, score = _memory(400)
    asked = np.random.default_rng(1).normal(size=(1, WIDTH)).astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-(units @ asked[0]))
    last, left_out = order[NEIGHBOURS - 1], order[NEIGHBOURS]
    vectors[left_out] = vectors[last]
    score[last], score[left_out] = 0, 1
    both = [last, left_out]
    mirrored = vectors.copy(), score.copy()
    mirrored[1][both] = score[both[::-1]]
    quality = [
        bounded_sigmoid(memory.log_odds(asked))
        for memory in (
            NeighbourView.remember(*tables, 0) for tables in ((vectors, score), mirrored)
        )
    ]
    np.testing.assert_allclose(quality[0], quality[1], atol=1e-6)


def test_near_prompts_count_for_more_than_far_ones() -> None:
    memory, vectors, score = _memory(400)
    quality = bounded_sigmoid(memory.log_odds(vectors))
    assert np.corrcoef(quality.ravel(), score.ravel())[0, 1] > 0.3


@pytest.mark.parametrize("prompts", [1, 2, NEIGHBOURS, NEIGHBOURS + 1])
def test_a_small_memory_gives_an_answer_too(prompts: int) -> None:
    memory, vectors, _ = _memory(prompts)
    quality = bounded_sigmoid(memory.log_odds(vectors))
    assert ((quality > 0) & (quality < 1)).all()


def test_where_all_prompts_are_equally_far_the_models_means_are_left() -> None:
    same = np.ones((NEIGHBOURS + 20, WIDTH), np.float32)
    score = np.repeat([[1.0, 0.0]], len(same), axis=0).astype(np.float32)
    memory = NeighbourView.remember(same, score, 0)
    quality = bounded_sigmoid(memory.log_odds(same[:1]))
    np.testing.assert_allclose(quality[0], memory.means, atol=1e-5)
