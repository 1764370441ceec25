"""The real `routoo-worker`, whose scorers need no PyTorch until a checkpoint is promoted.

The checkpoint that the settings name is stood for by a predictor that goes by the prompt's verb: a
scorer with the real one takes six seconds of CPU to start, and each prompt some more. Checkpoints
that a test promotes are loaded as ever.
"""

import os
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import worker.supervisor
from routoo.domain.pool import CandidateModel
from routoo.domain.prediction import Predictions
from routoo.pipeline import score
from routoo.ports import Predictor
from routoo.predictor.manifest import read_manifest
from worker.cli import main
from worker.roles import Role

MODULE = "tests.acceptance.worker"
_SCORING_S = 0.0002
"""For each word of a prompt, asleep: a scorer of long prompts can be killed at its work."""
_TOKENS = 5.0
_load, _commands = score._load, worker.supervisor._commands


class ByVerb(Predictor):
    """A predictor which knows that the small model proves nothing."""

    def predict(self, prompts: Sequence[str], models: Sequence[str]) -> Predictions:
        time.sleep(_SCORING_S * sum(len(prompt.split()) for prompt in prompts))
        quality = np.array(
            [[_quality(prompt, model) for model in models] for prompt in prompts], np.float32
        ).reshape(len(prompts), len(models))
        return Predictions(
            quality=quality,
            quality_std=np.full_like(quality, 0.1),
            completion_tokens=np.full_like(quality, _TOKENS),
            novelty=np.zeros(len(prompts), np.float32),
            truncated=np.zeros(len(prompts), np.bool_),
        )

    def covering(self, models: Sequence[CandidateModel]) -> "ByVerb | None":
        return self if {model.predicted_as for model in models} <= {"small", "large"} else None

    def prompt_factors(self, models: Sequence[str]) -> Sequence[float]:
        return [1.0] * len(models)

    def floor_margins(self, models: Sequence[str], confidence: float) -> Sequence[float]:
        return [1 - confidence] * len(models)


def _quality(prompt: str, model: str) -> float:
    spread = zlib.crc32(prompt.encode()) % 100 / 1000
    if model == "large":
        return 0.85 + spread
    return (0.2 if "rove" in prompt else 0.7) + spread


def _load_cheaply(path: Path, threads: int | None) -> score.ScoringCheckpoint:
    if str(path) != os.environ["ROUTOO_CHECKPOINT"]:
        return _load(path, threads)
    return score.ScoringCheckpoint(read_manifest(path).weights_sha256, ByVerb())


def _commands_of_this_module(
    counts: Mapping[Role, int], *, json_logs: bool
) -> dict[str, list[str]]:
    """Return the processes' commands, with this module in the place of the worker's own."""
    commands = _commands(counts, json_logs=json_logs)
    return {
        name: [MODULE if word == "worker.cli" else word for word in command]
        for name, command in commands.items()
    }


if __name__ == "__main__":
    score._load = _load_cheaply
    worker.supervisor._commands = _commands_of_this_module
    sys.argv[0] = "routoo-worker"
    main()
