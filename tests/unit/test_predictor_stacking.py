"""Stacking of views on made-up outcomes: what each part of a view is worth."""

import numpy as np

from routoo.predictor.scores import bounded_sigmoid
from routoo.predictor.stacking import StackingWeights

ITEMS = 4000


def _half_true() -> tuple[np.ndarray, np.ndarray]:
    """Return one view of four models, and scores.

    What it says of strong models (0, 1) against weak ones (2, 3) is true; what it says of one
    strong model against the other, and of one weak model against the other, is noise.
    """
    generator = np.random.default_rng(5)
    strong = generator.normal(size=(ITEMS, 1)) * np.array([1.0, 1.0, -1.0, -1.0])
    noise = generator.normal(size=(ITEMS, 2)) @ np.array([[1.0, -1.0, 0, 0], [0, 0, 1.0, -1.0]])
    drawn = generator.random(strong.shape) < bounded_sigmoid(strong.astype(np.float32))
    return (strong + noise)[None].astype(np.float32), drawn.astype(np.float32)


def test_differences_between_models_are_shrunk_by_what_each_kind_of_them_is_worth() -> None:
    view, score = _half_true()
    logits = StackingWeights.fit(view, score)(view)
    groups = logits[:, :2].sum(axis=1) - logits[:, 2:].sum(axis=1)
    within = logits[:, 0] - logits[:, 1]
    said = view[0, :, :2].sum(axis=1) - view[0, :, 2:].sum(axis=1)
    assert np.polyfit(said, groups, 1)[0] > 0.8
    assert np.polyfit(view[0, :, 0] - view[0, :, 1], within, 1)[0] < 0.3


def test_a_missing_outcome_is_no_evidence() -> None:
    view, score = _half_true()
    partial = score.copy()
    partial[::3, 2] = np.nan
    whole, part = StackingWeights.fit(view, score)(view), StackingWeights.fit(view, partial)(view)
    assert np.corrcoef(whole.ravel(), part.ravel())[0, 1] > 0.95


def test_a_stack_of_an_earlier_checkpoint_weighs_all_differences_alike() -> None:
    view, score = _half_true()
    tensors = StackingWeights.fit(view, score).tensors() | {"own": np.array([0.5], np.float32)}
    stack = StackingWeights.from_tensors(tensors)
    logits = stack(view) - stack.bias
    own = (view - stack.centre[:, None])[0]
    own -= own.mean(axis=1, keepdims=True)
    expected = 0.5 * own
    assert np.allclose(logits - logits.mean(axis=1, keepdims=True), expected, atol=1e-5)


def test_one_model_alone_has_no_differences() -> None:
    view, score = _half_true()
    logits = StackingWeights.fit(view[:, :, :1], score[:, :1])(view[:, :, :1])
    assert np.corrcoef(logits[:, 0], view[0, :, 0])[0, 1] > 0.99
