"""Fits a predictor and writes its checkpoint, held-out figures and learning curve."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from routoo.domain.tables import OutcomeTables
from routoo.evaluation.quality_metrics import mean_metrics, metrics_by_model
from routoo.ports import Feedback
from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.checkpoint import pack, weights_sha256, write_checkpoint
from routoo.predictor.completion_tokens import UNKNOWN_TOKENS
from routoo.predictor.dataset import OutcomeMatrix, content_sha256, outcome_matrix
from routoo.predictor.fitting import FitOptions, FitResult, fit_estimator
from routoo.predictor.logistic import sigmoid
from routoo.predictor.manifest import Manifest
from routoo.selector.confidence import floor_margins
from routoo.training.learning_curve import learning_curve, plot_learning_curve
from routoo.training.predictor_settings import PredictorSettings
from routoo.training.tune import TUNING_STATE, tune_encoder

FEW_OUTCOMES = 50
"""A model with fewer outcomes gets a remark: its estimates are uncertain."""


@dataclass(frozen=True, slots=True)
class TrainedPredictor:
    """A predictor that was fitted, and what it was fitted on."""

    matrix: OutcomeMatrix
    features: Float32[np.ndarray, "items features"]
    fitted: FitResult
    fit: FitOptions
    manifest: Manifest

    def draw_learning_curve(self, path: Path) -> None:
        """Draw held-out quality against the number of items; takes about as long as the fit."""
        points = learning_curve(self.matrix, self.features, self.fitted.estimator, self.fit)
        plot_learning_curve(points, self.matrix.models, path)


def train_predictor(
    tables: OutcomeTables,
    models: Sequence[str] | None,
    settings: PredictorSettings,
    out: Path,
    feedback: Feedback,
) -> TrainedPredictor:
    """Fit a predictor and write its checkpoint.

    Args:
        tables: Items and outcomes to fit on.
        models: Candidate models to fit; None takes all that have outcomes.
        settings: The backbone, and how it is tuned and fitted.
        out: Folder of the checkpoint; an interrupted tuning goes on from its state there.
        feedback: Shows how far it is.

    Raises:
        InputError: The tables can't be fitted on.
        CheckpointError: There is no such backbone.
    """
    matrix = outcome_matrix(tables.items, tables.outcomes, models)
    for remark in _remarks(tables, matrix):
        feedback.note(remark)
    out.mkdir(parents=True, exist_ok=True)
    encoder, fit = settings.load_encoder(), settings.fit
    facts, tuned_on = asdict(fit), None
    if settings.tuning is not None:
        tuned_on = tune_encoder(encoder, matrix, settings.tuning, out / TUNING_STATE, feedback)
        facts["tuning"] = asdict(settings.tuning)
    features = settings.read_prompts(matrix, encoder, feedback)
    with feedback.progress_bar("Fitting folds", fit.folds) as progress:
        fitted = fit_estimator(matrix, features, encoder.width, fit, progress, tuned_on=tuned_on)
    judged = np.arange(len(matrix.items)) if tuned_on is None else np.flatnonzero(~tuned_on)
    weights = pack(fitted.estimator, encoder.adapters)
    metrics = _metrics(matrix, fitted, judged, fit)
    manifest = replace(_manifest(encoder, matrix, weights), settings=facts, metrics=metrics)
    write_checkpoint(out, weights, manifest)
    return TrainedPredictor(matrix, features, fitted, fit, manifest)


def _remarks(tables: OutcomeTables, matrix: OutcomeMatrix) -> Iterator[str]:
    """Yield what people should know about the tables before they rely on a fit to them."""
    counts = (~np.isnan(matrix.score)).sum(axis=0)
    given = sum(name in matrix.models for name in tables.outcomes.models)
    if given > counts.sum():
        replaced = given - int(counts.sum())
        yield f"{replaced} outcomes gave way to later ones of the same item and model"
    if np.isnan(matrix.completion_tokens).all():
        yield f"no answer's length is known: {UNKNOWN_TOKENS:.0f} tokens are assumed"
    of_each = zip(matrix.models, counts, strict=True)
    few = [f"{name} ({count})" for name, count in of_each if count < FEW_OUTCOMES]
    if few:
        yield (
            f"fewer than {FEW_OUTCOMES} outcomes of {', '.join(few)}: such estimates lean on the "
            "other models', and their quality_std is large"
        )


def _manifest(encoder: Encoder, matrix: OutcomeMatrix, weights: bytes) -> Manifest:
    return Manifest(
        models=matrix.models,
        backbone=encoder.backbone.name,
        backbone_sha256=encoder.backbone.weights_sha256,
        reader_sha256=encoder.backbone.reader_sha256,
        layers=encoder.layers,
        pooling=encoder.pooling,
        suffix=encoder.reading.suffix,
        precision=encoder.reading.precision,
        compiled=encoder.reading.compiled,
        weights_sha256=weights_sha256(weights),
        data_sha256=content_sha256(matrix),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings={},
        metrics={},
    )


def _metrics(
    matrix: OutcomeMatrix,
    fitted: FitResult,
    rows: Int64[np.ndarray, " rows"],
    options: FitOptions,
) -> dict[str, Any]:
    """Return figures on the items that the backbone was not tuned on."""
    score, models = matrix.score[rows], matrix.models
    by_model = metrics_by_model(score, fitted.held_out_quality[rows], models)
    views = {name: sigmoid(view[rows]) for name, view in fitted.held_out_views.items()}
    return {
        "protocol": f"{options.folds} folds grouped by text, each predicted by the others' fit",
        "items": len(rows),
        "mean": mean_metrics(by_model),
        "models": by_model,
        "floor_margins": floor_margins(fitted.held_out_quality[rows], score, models),
        # Before stacking only the order of a view's values has a meaning, not their level.
        "view_auc": {
            name: mean_metrics(metrics_by_model(score, quality, models))["auc"]
            for name, quality in views.items()
        },
        "calibration": dict(zip(models, fitted.calibration_methods, strict=True)),
    }
