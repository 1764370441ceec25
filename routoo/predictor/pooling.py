"""Pooling: from a hidden state a token to one vector a prompt."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from routoo.predictor.options import Pooling

States = Float[Tensor, "batch tokens width"]
Mask = Int[Tensor, "batch tokens"]
"""1 where there is a token, 0 for padding at the end."""
Pooler = Callable[[States, Mask], Float[Tensor, "batch features"]]


def pooler(pooling: Pooling, *, skip_first: bool) -> Pooler:
    """Return the function that pools.

    Args:
        pooling: How.
        skip_first: Leave the first token out of a mean, where it is not the only one.
    """
    mean = _mean_of_rest if skip_first else _mean
    if pooling is Pooling.BOTH:
        return partial(_both, mean)
    return _last if pooling is Pooling.LAST else mean


def _mean(states: States, mask: Mask) -> Float[Tensor, "batch width"]:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _mean_of_rest(states: States, mask: Mask) -> Float[Tensor, "batch width"]:
    rest = mask.clone()
    rest[:, 0] = (mask.sum(1) == 1).to(mask.dtype)
    return _mean(states, rest)


def _last(states: States, mask: Mask) -> Float[Tensor, "batch width"]:
    rows = torch.arange(len(states), device=states.device)
    return states[rows, mask.sum(1) - 1]


def _both(mean: Pooler, states: States, mask: Mask) -> Float[Tensor, "batch features"]:
    return torch.cat([mean(states, mask), _last(states, mask)], dim=1)
