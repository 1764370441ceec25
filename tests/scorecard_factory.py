"""A scorecard of a small made-up trial, with every part of a report in it."""

from dataclasses import replace
from functools import cache

import numpy as np

from routoo.domain.items import Item
from routoo.evaluation.bootstrap import Interval
from routoo.evaluation.scorecard import EvaluationData, PastRun, Scorecard, build_scorecard
from routoo.predictor.dataset import OutcomeMatrix

SUBJECTS = ("algebra", "law", "medicine")
MODELS = ("small-8b-instruct", "medium-70b-instruct-v0.2", "large-frontier-2024-05-13")


@cache
def make_scorecard(model: str = MODELS[0], items: int = 240) -> Scorecard:
    """Return figures of three models, the last two better and dearer."""
    rng = np.random.default_rng(0)
    names = (model, *MODELS[1:])
    ease = rng.random((items, 1))
    quality = np.clip(ease * np.array([0.8, 1.0, 1.2]) + 0.1, 0.02, 0.98).astype(np.float32)
    score = (rng.random(quality.shape) < quality).astype(np.float32)
    cost = np.array([2e-4, 9e-4, 7e-3]) * rng.lognormal(0, 0.3, quality.shape)
    rows = tuple(
        Item(str(number), f"question {number}", subject=SUBJECTS[number % 3])
        for number in range(items)
    )
    matrix = OutcomeMatrix(rows, names, score, np.ones_like(score))
    latency = rng.lognormal(0, 0.4, quality.shape).astype(np.float32)
    blurred = np.clip(quality + rng.normal(0, 0.2, quality.shape), 0, 1).astype(np.float32)
    evidence = EvaluationData(matrix, cost, latency, {"predictor": quality, "knn": blurred})
    card = build_scorecard("Nightly: example", {"items": str(items), "seed": "0"}, evidence, 0)
    past = [
        PastRun(f"2026-11-{day:02}", Interval(0.7, 0.66, 0.74), Interval(2e-3, 1e-3, 3e-3), 0.03)
        for day in range(1, 8)
    ]
    return replace(card, history=tuple(past))
