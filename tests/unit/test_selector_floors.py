"""Quality floors that hold with stated confidence, from the checkpoint to the mask."""

import json
from dataclasses import replace

import numpy as np
import pytest

from routoo.domain.tables import read_items, read_outcomes
from routoo.errors import CheckpointError
from routoo.predictor.dataset import outcome_matrix
from routoo.predictor.manifest import Manifest
from routoo.selector.confidence import CONFIDENCES, floor_margins
from tests.unit.test_selector_real_tables import DATA

MANIFEST = Manifest((), "", "", (), "", "", "", {}, {})


def manifest_of(quality: np.ndarray, score: np.ndarray, models: list[str]) -> Manifest:
    """Return a manifest as it comes back from disk."""
    table = floor_margins(quality, score, models)
    return replace(MANIFEST, metrics=json.loads(json.dumps({"floor_margins": table})))


@pytest.mark.parametrize("confidence", [0.5, 0.77, 0.9, 0.99])
def test_margins_survive_the_manifest_and_promise_at_least_what_was_asked(
    confidence: float,
) -> None:
    rng = np.random.default_rng(7)
    truth = rng.random((8000, 2))
    score = (rng.random((8000, 2)) < truth).astype(np.float32)
    quality = np.clip(truth + np.array([0.2, -0.1]), 0, 1)  # one estimate brags, one is too humble
    manifest = manifest_of(quality[:4000], score[:4000], ["brags", "humble"])
    margins = manifest.floor_margins(["humble", "brags"], confidence)[::-1]
    floor = np.clip(quality[4000:] - margins, 0, 1)
    assert (score[4000:] >= floor).mean(axis=0).min() >= confidence - 0.02


@pytest.mark.parametrize("name", ["mmlu_pro", "bfcl", "zeroeval_gsm8k"])
def test_floors_hold_on_items_that_no_margin_was_fitted_on(name: str) -> None:
    file = DATA / f"{name}_outcomes.parquet"
    if not file.exists():
        pytest.skip(f"{file.name} is not at hand: set ROUTOO_DATA_DIR")
    matrix = outcome_matrix(read_items(DATA / f"{name}_items.parquet"), read_outcomes(file))
    deal = np.random.default_rng(0).permutation(len(matrix.items)) % 3
    score = np.where(np.isfinite(matrix.score), matrix.score, np.nan)
    domains = np.array([item.subject or item.dataset for item in matrix.items])
    quality = np.tile(np.nanmean(score[deal == 0], axis=0), (len(score), 1))
    for domain in np.unique(domains):
        known = score[(domains == domain) & (deal == 0)]
        if len(known) > 5:
            quality[domains == domain] = np.nan_to_num(known.mean(axis=0), nan=0.5)
    manifest = manifest_of(quality[deal == 1], score[deal == 1], list(matrix.models))
    for confidence in (0.6, 0.9):
        margins = manifest.floor_margins(matrix.models, confidence)
        held, floor = score[deal == 2], np.clip(quality[deal == 2] - margins, 0, 1)
        graded = np.isfinite(held)
        assert (held >= floor)[graded].mean() >= confidence - 0.01


def test_a_confidence_beyond_the_manifest_is_refused_with_a_remedy() -> None:
    quality = np.full((50, 1), 0.5)
    manifest = manifest_of(quality, quality, ["a"])
    with pytest.raises(CheckpointError, match="--floor-confidence"):
        manifest.floor_margins(["a"], 0.999)
    with pytest.raises(CheckpointError, match="train again"):
        MANIFEST.floor_margins(["a"], 0.9)


def test_too_few_grades_for_a_confidence_promise_nothing() -> None:
    margins = floor_margins(np.full((5, 1), 0.5), np.ones((5, 1)), ["a"])["models"]["a"]
    assert margins[CONFIDENCES.index(0.99)] == 1.0
