"""Fits the judge of answers that dispatch.py's probed jobs are judged by: on made-up answers."""

import tempfile
from pathlib import Path

import numpy as np

from routoo.console.output import ConsoleFeedback
from routoo.domain.completion import RecordedAnswer
from routoo.domain.items import Item
from routoo.judge.files import pack_judge, write_judge
from routoo.predictor.checkpoint import write_checkpoint
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.manifest import Manifest
from routoo.training.judge import PromptEstimates, fit_judge

MODELS = ("bench", "strong")
_ANSWERS = 400
_RIGHT, _STRONG_RIGHT = 0.6, 0.9
"""Shares of right answers."""


def made_up_judge() -> bytes:
    """Return a judge of the benchmark's first model, as the database keeps it."""
    generator = np.random.default_rng(3)
    right = generator.random(_ANSWERS) < _RIGHT
    hedges = generator.random(_ANSWERS) < np.where(right, 0.15, 0.85)
    score = np.stack([right, generator.random(_ANSWERS) < _STRONG_RIGHT], axis=1)
    items = tuple(Item(f"i{n}", f"Question {n}: what is it?") for n in range(_ANSWERS))
    texts = ("It might perhaps be 41. The answer is 41.", "The answer is 42.")
    answers = [
        RecordedAnswer(item.item_id, MODELS[0], texts[0] if hedge else texts[1])
        for item, hedge in zip(items, hedges, strict=True)
    ]
    quality = np.tile(np.array([_RIGHT, _STRONG_RIGHT], np.float32), (_ANSWERS, 1))
    tokens = np.full((_ANSWERS, 2), 12.0, np.float32)
    matrix, estimates = (
        OutcomeMatrix(items, MODELS, score, tokens),
        PromptEstimates(quality, tokens),
    )
    judge = fit_judge(matrix, estimates, answers, ConsoleFeedback(), seed=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts = write_judge(folder, judge)
        write_checkpoint(folder, b"", Manifest(MODELS, "", "", (), "", "", "", {}, {}, judge=facts))
        packed = pack_judge(folder)
    assert packed is not None, "the answers tell nothing"
    return packed
