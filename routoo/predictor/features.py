"""The features of a prompt: pooled hidden states and the surface, side by side."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32

from routoo.predictor.backbone.encoder import Encoded, Progress
from routoo.predictor.prompt_features import LEXICAL_WIDTH, lexical_features


@runtime_checkable
class Embeds(Protocol):
    """An encoder, or a cache before one."""

    def encode(self, prompts: Sequence[str], progress: Progress | None = None) -> Encoded:
        """Return the pooled hidden states of each prompt."""
        ...


def prompt_features(
    prompts: Sequence[str], embeds: Embeds, progress: Progress | None = None
) -> tuple[Float32[np.ndarray, "prompts features"], Bool[np.ndarray, " prompts"]]:
    """Return each prompt's features, and whether it was cut to the backbone's window."""
    encoded = embeds.encode(prompts, progress)
    surface = np.zeros((len(prompts), LEXICAL_WIDTH), np.float32)
    for row, prompt in enumerate(prompts):
        surface[row] = lexical_features(prompt)
    return np.concatenate([encoded.features, surface], axis=1), encoded.truncated
