"""Adds a candidate model to a checkpoint from a few hundred of its graded answers."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from routoo.domain.tables import OutcomeTables
from routoo.errors import InputError
from routoo.evaluation.quality_metrics import metrics_by_model
from routoo.judge.files import copy_judge
from routoo.predictor.checkpoint import pack, weights_sha256, write_checkpoint
from routoo.predictor.dataset import (
    OutcomeMatrix,
    content_sha256,
    grouped_folds,
    outcome_matrix,
    text_groups,
)
from routoo.predictor.manifest import Manifest, read_manifest
from routoo.predictor.placement import Placer
from routoo.predictor.predictor import load_predictor
from routoo.selector.confidence import floor_margins
from routoo.training.tables import prompt_factors

FOLDS = 5
"""Parts of the graded answers; each is predicted by a fit on the others."""


def add_model(
    folder: Path, model: str, tables: OutcomeTables, out: Path, *, device: str, cache: Path
) -> dict[str, Any]:
    """Write a checkpoint that knows one more model; nothing else is fitted again.

    Args:
        folder: The checkpoint to start from.
        model: Name of the new model.
        tables: Items and outcomes with its graded answers.
        out: Folder of the new checkpoint; may be the old one.
        device: Where the backbone computes: cpu, cuda or auto.
        cache: Folder of cached embeddings.

    Returns:
        The new model's figures: on answers held out, and as the checkpoint now estimates it.

    Raises:
        InputError: The checkpoint knows the model already, or its graded answers are too few.
        CheckpointError: The checkpoint can't be read.
    """
    _check_new(folder, model)
    matrix = outcome_matrix(tables.items, tables.outcomes, [model])
    predictor = load_predictor(folder, device=device, cache=cache)
    before = predictor.checkpoint
    inputs = predictor.features(matrix.prompts)
    score = matrix.score[:, 0]
    placer = Placer.of(before.manifest, before.estimator.references)
    placement = None if placer is None else placer.place_named(model)
    lengths = matrix.completion_tokens[:, 0]
    estimator = before.estimator.add_model(inputs, score, lengths, placement)
    folds = grouped_folds(text_groups(matrix.prompts), FOLDS, seed=0)
    quality = before.estimator.held_out_quality(inputs, score, folds, placement)
    manifest = _manifest(before.manifest, matrix, quality[:, None], prompt_factors(tables, [model]))
    weights = pack(estimator, before.adapters)
    copy_judge(folder, out, manifest.judge)
    write_checkpoint(out, weights, replace(manifest, weights_sha256=weights_sha256(weights)))
    # Reading it back shows that what was written can be used.
    estimates = load_predictor(out, device=device, cache=cache).predict(matrix.prompts, [model])
    return {
        "model": model,
        "held_out": manifest.metrics["models"][model],
        "quality": float(estimates.quality.mean()),
        "quality_std": float(estimates.quality_std.mean()),
    }


def _check_new(folder: Path, model: str) -> None:
    if model in read_manifest(folder).models:
        raise InputError(
            "the checkpoint knows this model already",
            value=model,
            where=str(folder),
            remedy="Give another name, or train again with `routoo train`",
        )


def _manifest(
    before: Manifest,
    matrix: OutcomeMatrix,
    quality: Float32[np.ndarray, "answers 1"],
    factors: Mapping[str, float],
) -> Manifest:
    (model,) = matrix.models
    added = {
        "answers": len(matrix.items),
        "data_sha256": content_sha256(matrix),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": f"{FOLDS} folds of the graded answers",
    }
    figures = metrics_by_model(matrix.score, quality, matrix.models)
    metrics = before.metrics | {"models": before.metrics["models"] | figures}
    metrics["prompt_factors"] = metrics.get("prompt_factors", {}) | factors
    if "floor_margins" in metrics:
        margins = metrics["floor_margins"]
        new = floor_margins(quality, matrix.score, matrix.models)["models"]
        metrics["floor_margins"] = margins | {"models": margins["models"] | new}
    settings = before.settings | {"added": before.settings.get("added", {}) | {model: added}}
    return replace(before, models=(*before.models, model), metrics=metrics, settings=settings)
