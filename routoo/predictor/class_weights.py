"""Class weights: how much each outcome counts in a loss. No torch.

Weights move a loss's optimum away from the outcomes' chances. So only views are fitted with them,
whose levels mean nothing; what turns views into probabilities (stack, calibration) counts every
held-out outcome alike.
"""

import numpy as np
from jaxtyping import Float32

from routoo.predictor.missing_values import known_mean
from routoo.predictor.options import ClassWeight


def outcome_weights(
    score: Float32[np.ndarray, "items models"], class_weight: ClassWeight
) -> Float32[np.ndarray, "items models"]:
    """Return what each outcome counts for.

    Balanced, an outcome `s` counts `s * w1 + (1 - s) * w0` with `w1 = 1 / (2 p)` and
    `w0 = 1 / (2 (1 - p))`, where `p` is the model's mean score: its successes and its failures then
    weigh the same together. Where all outcomes are failures, or successes, each counts 1.

    Args:
        score: In [0, 1], soft or not; NaN where a model did not answer.
        class_weight: How.

    Returns:
        Weights of mean 1 over each model's known outcomes, 0 where an outcome is missing.
    """
    known = np.asarray(~np.isnan(score), np.float32)
    if class_weight is ClassWeight.NONE:
        return known
    good = known_mean(score, axis=0)
    bad = known_mean(1 - score, axis=0)
    mixed = (good > 0) & (bad > 0)
    for_good, for_bad = (0.5 / np.where(mixed, share, 0.5) for share in (good, bad))
    weight = np.nan_to_num(score) * for_good + np.nan_to_num(1 - score) * for_bad
    return np.asarray(weight * known, np.float32)
