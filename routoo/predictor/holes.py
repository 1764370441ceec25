"""Means over matrices with holes."""

import numpy as np
from jaxtyping import Float32


def known_mean(
    values: Float32[np.ndarray, "rows columns"], *, axis: int, empty: float = 0.0
) -> Float32[np.ndarray, " kept"]:
    """Return the mean over one axis of what is not NaN, and `empty` where nothing is known."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), empty).astype(np.float32)
