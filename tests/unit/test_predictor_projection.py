"""Principal components of hidden states, narrow and wide."""

import numpy as np
import pytest

from routoo.predictor import projection
from routoo.predictor.projection import COMPONENTS, Projection

ITEMS = 600


def wide_features(width: int) -> np.ndarray:
    """Return features that 40 hidden directions and a little noise explain."""
    generator = np.random.default_rng(0)
    few = generator.normal(size=(ITEMS, 40)) * np.geomspace(10, 1, 40)
    features = few @ generator.normal(size=(40, width))
    return np.asarray(features + generator.normal(size=features.shape), np.float32)


def spread(features: np.ndarray, fitted: Projection) -> float:
    return float(fitted.apply(features)[:, : fitted.width].var(axis=0).sum())


def test_wide_states_keep_as_much_spread_as_exact_components(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = wide_features(2500)
    quick = Projection.fit(features, 2500)
    monkeypatch.setattr(projection, "_EXACT_WIDTH", 2500)
    exact = Projection.fit(features, 2500)
    assert quick.width == exact.width == COMPONENTS
    assert spread(features, quick) >= 0.99 * spread(features, exact)


@pytest.mark.parametrize("width", [50, 2500])
def test_the_same_features_give_the_same_components(width: int) -> None:
    features = wide_features(width)
    one, other = (Projection.fit(features, width) for _ in range(2))
    np.testing.assert_array_equal(one.components, other.components)
    np.testing.assert_allclose(
        one.components.T @ one.components, np.eye(one.width), atol=1e-4, err_msg="not orthonormal"
    )


def test_the_surface_stands_beside_the_components() -> None:
    features = wide_features(50)
    fitted = Projection.fit(features, 45)
    assert fitted.apply(features).shape == (ITEMS, 45 + 5)
