"""Shares with score intervals."""

from math import sqrt


def share_interval(share: float, count: int, deviations: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share, which holds for few observations too.

    Args:
        share: The observed share, in [0, 1].
        count: Observations, at least 1.
        deviations: Normal quantile of the interval: 1.96 for 95 %.

    Returns:
        Its ends, within [0, 1] and around the share. Source: Wilson, Probable inference, the law of
        succession, and statistical inference, JASA 22 (1927).
    """
    doubt = deviations**2 / count
    middle = (share + doubt / 2) / (1 + doubt)
    half = deviations / (1 + doubt) * sqrt(share * (1 - share) / count + doubt / (4 * count))
    # At a share of 0 or 1 rounding may leave the share itself outside by a hair.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))
