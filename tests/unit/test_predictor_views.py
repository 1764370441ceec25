"""The seam for views: one file and one line make another view a part of the predictor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from routoo.domain.items import Item
from routoo.predictor import fitting, stacking
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.estimator import Estimator
from routoo.predictor.fitting import FitOptions, fit_estimator
from routoo.predictor.views import FOLD_VIEWS
from routoo.predictor.views.neighbours import NeighbourView
from routoo.predictor.views.view import TrainingItems


@dataclass(frozen=True, slots=True)
class FirstFeatureView:
    """Expects of every model what the first feature says."""

    name: ClassVar[str] = "first"
    shared: ClassVar[tuple[str, ...]] = ()
    slope: np.ndarray

    @classmethod
    def fit(cls, items: TrainingItems) -> "FirstFeatureView":
        return cls(np.ones(items.score.shape[1], np.float32))

    def log_odds(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features[:, :1] * self.slope)

    def tensors(self) -> dict[str, np.ndarray]:
        return {"slope": self.slope}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "FirstFeatureView":
        return cls(tensors["slope"])


def _fit() -> tuple[fitting.FitResult, np.ndarray]:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(100, 6)).astype(np.float32)
    score = (generator.random((100, 2)) < 0.5).astype(np.float32)
    items = tuple(Item(str(n), f"question {n}") for n in range(100))
    matrix = OutcomeMatrix(items, ("m", "n"), score, np.full_like(score, 9))
    return fit_estimator(matrix, features, 4, FitOptions()), features


def test_a_view_in_the_list_is_fitted_stacked_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    old, features = _fit()
    names = (*(view.name for view in FOLD_VIEWS), "first", NeighbourView.name)
    monkeypatch.setattr(stacking, "FOLD_VIEWS", (*FOLD_VIEWS, FirstFeatureView))
    monkeypatch.setattr(fitting, "VIEW_NAMES", names)
    new, _ = _fit()
    assert tuple(new.held_out_views) == names
    again = Estimator.from_tensors(new.estimator.tensors())
    np.testing.assert_array_equal(again(features).quality, new.estimator(features).quality)
    assert "member0.first_slope" in new.estimator.tensors()
    earlier = Estimator.from_tensors(old.estimator.tensors())
    np.testing.assert_array_equal(earlier(features).quality, old.estimator(features).quality)
