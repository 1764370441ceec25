"""Exact sums of floats: money that was promised not to be overspent can't be left to rounding."""

from fractions import Fraction

import numpy as np
from jaxtyping import Float

_MANTISSA_BITS = 53
_LOW_BITS = 26


def exact_sum(values: Float[np.ndarray, " values"]) -> Fraction:
    """Return the sum of the values without any rounding.

    Mantissas are summed as integers, apart for each exponent. Their halves have at most 27 bits, so
    float64 adds 2**26 of them without error.

    Args:
        values: Finite floats, at most 2**26 of them.

    Returns:
        Their exact sum.
    """
    if len(values) == 0:
        return Fraction(0)
    mantissa, exponent = np.frexp(np.asarray(values, dtype=np.float64))
    least = int(exponent.min())
    exponent -= least
    whole = np.ldexp(mantissa, _MANTISSA_BITS).astype(np.int64)
    high = np.bincount(exponent, weights=whole >> _LOW_BITS)
    low = np.bincount(exponent, weights=whole & ((1 << _LOW_BITS) - 1))
    total = 0
    for place in range(len(high)):
        total += ((int(high[place]) << _LOW_BITS) + int(low[place])) << place
    return Fraction(total) * Fraction(2) ** (least - _MANTISSA_BITS)
