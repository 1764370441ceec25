"""Measures how near a backbone comes to its device's rate of multiplication, for predictor.py."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.backbone.language_model import is_decoder

_PRODUCTS = 10
_WIDTH = {"cpu": 2048, "cuda": 8192}


def read_work(encoder: Encoder, prompts: Sequence[str]) -> tuple[int, float]:
    """Return the tokens of prompts, and the floating-point operations that reading them takes.

    Two for each weight of the layers and token, and for each pair of tokens that attention
    compares; padding counts nothing, nor do embeddings (Chowdhery et al. 2022, appendix B).
    """
    lengths = [len(ids) for ids in encoder.tokenise(prompts)[0]]
    config = encoder.model.config
    depth, width = config.num_hidden_layers, config.hidden_size
    stacks = (part for part in encoder.model.modules() if isinstance(part, nn.ModuleList))
    layers = next(stack for stack in stacks if len(stack) == depth)
    weights = sum(part.weight.numel() for part in layers.modules() if isinstance(part, nn.Linear))
    # Queries with keys, then weights with values; a decoder's token looks at earlier ones only.
    pairs = sum(length * length for length in lengths) / (2 if is_decoder(config) else 1)
    return sum(lengths), 2.0 * weights * sum(lengths) + 4.0 * depth * width * pairs


def limit_flops_per_s(
    device: torch.device, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the operations a second of large matrix products: the best of several, right now."""
    width = _WIDTH[device.type]
    left, right = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    taken_s = []
    for _ in range(_PRODUCTS):
        started = clock()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken_s.append(clock() - started)
    return 2.0 * width**3 / min(taken_s)
