"""Runs a scorer whose predictor is linear in hashed words: for load tests of what is around it.

Everything else is the scorer that `routoo-worker scorer` runs. Its weights are drawn, not fitted:
the predictions differ from prompt to prompt and mean nothing.
"""

import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from routoo.domain.pool import CandidateModel
from routoo.domain.prediction import Predictions
from routoo.pipeline import score
from worker.cli import main

_FEATURES = 4096
_TOKENS = 12.0
"""Expected length of every answer, in tokens."""


class HashedWords:
    """A predictor of drawn weights, one for each model and hashed word."""

    def predict(self, prompts: Sequence[str], models: Sequence[str]) -> Predictions:
        """Return estimates between 0.2 and 1 for the prompts, a column a model."""
        weights = np.stack([_weights(model) for model in models])
        sums = np.empty((len(prompts), len(models)), np.float32)
        for row, prompt in enumerate(prompts):
            words = [zlib.crc32(word) % _FEATURES for word in prompt.encode().split()]
            sums[row] = weights[:, words].mean(axis=1) if words else 0
        quality = (0.6 + 0.4 * np.tanh(4 * sums)).astype(np.float32)
        return Predictions(
            quality=quality,
            quality_std=np.full_like(quality, 0.1),
            completion_tokens=np.full_like(quality, _TOKENS),
            novelty=np.zeros(len(prompts), np.float32),
            truncated=np.zeros(len(prompts), np.bool_),
        )

    def covering(self, models: Sequence[CandidateModel]) -> "HashedWords":
        """Return itself: it knows every model."""
        del models
        return self

    def prompt_factors(self, models: Sequence[str]) -> Sequence[float]:
        """Return 1: no endpoint counts otherwise than we do."""
        return [1.0] * len(models)

    def floor_margins(self, models: Sequence[str], confidence: float) -> Sequence[float]:
        """Return one margin for all models; it means as little as the predictions."""
        return [1 - confidence] * len(models)


def _weights(model: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(model.encode()))
    return rng.normal(size=_FEATURES).astype(np.float32)


def _load(path: Path, _threads: int | None) -> score.ScoringCheckpoint:
    return score.ScoringCheckpoint(f"hashed words beside {path.name}", HashedWords())


if __name__ == "__main__":
    score._load = _load  # noqa: SLF001 - the one part of the scorer that is replaced
    sys.argv = ["routoo-worker", "scorer", "--json-logs"]
    main()
