"""Fitting a predictor as `routoo train` was told, and writing its checkpoint."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import typer
from jaxtyping import Int64
from rich.console import Console

from routoo.cli.train_options import TrainOptions
from routoo.console.output import messages
from routoo.console.progress import counted
from routoo.evaluation.quality_metrics import mean_metrics, metrics_by_model
from routoo.evaluation.report.number_format import fixed
from routoo.evaluation_runs.graded_outcomes import OutcomeTables
from routoo.files import check_suffix
from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.checkpoint import pack, weights_sha256, write_checkpoint
from routoo.predictor.completion_tokens import UNKNOWN_TOKENS
from routoo.predictor.dataset import OutcomeMatrix, content_sha256, outcome_matrix
from routoo.predictor.fitting import FitOptions, Fitted, fit_estimator
from routoo.predictor.logistic import sigmoid
from routoo.predictor.manifest import Manifest
from routoo.selector.confidence import floor_margins
from routoo.training.learning_curve import PLOT_FORMATS, learning_curve, plot_learning_curve
from routoo.training.predictor_settings import fit_options, load_encoder, read_prompts, tune_options
from routoo.training.retrain import promote_if_not_worse, refuse_folder_in_use, training_tables
from routoo.training.tune import TUNING_STATE, tune_encoder

FEW_OUTCOMES = 50
"""With fewer of a model it is said that little is known of it."""


def fit_checkpoint(options: TrainOptions) -> None:
    """Fit a predictor, write its checkpoint and curve, and say how good it is.

    Raises:
        InputError: The tables can't be fitted on, or the folder is not free for a new checkpoint.
        CheckpointError: There is no such backbone.
    """
    console = messages()
    if options.from_runs:
        refuse_folder_in_use(options.out)
    tables = training_tables(
        options.items or (), options.outcomes or (), console, from_runs=options.from_runs
    )
    matrix = outcome_matrix(tables.items, tables.outcomes, options.model)
    plot = _prepare(options)
    for remark in _remarks(tables, matrix):
        console.print(remark, highlight=False)
    encoder, fit = load_encoder(options), fit_options(options)
    settings = asdict(fit)
    told = None
    if options.tune:
        tuning = tune_options(options)
        told = tune_encoder(console, encoder, matrix, tuning, options.out / TUNING_STATE)
        settings["tuning"] = asdict(tuning)
    features = read_prompts(matrix, encoder, options, console)
    with counted(console, "Fitting folds", fit.folds) as progress:
        fitted = fit_estimator(matrix, features, encoder.width, fit, progress, told=told)
    judged = np.arange(len(matrix.items)) if told is None else np.flatnonzero(~told)
    weights = pack(fitted.estimator, encoder.adapters)
    metrics = _metrics(matrix, fitted, judged, fit)
    manifest = replace(_manifest(encoder, matrix, weights), settings=settings, metrics=metrics)
    write_checkpoint(options.out, weights, manifest)
    if options.curve:
        points = learning_curve(matrix, features, fitted.estimator, fit)
        plot_learning_curve(points, matrix.models, plot)
    _tell(options.out, matrix, metrics["mean"], console)
    if options.json:
        typer.echo(orjson.dumps(_facts(options.out, matrix, metrics)).decode())
    if options.from_runs:
        promote_if_not_worse(options.out, options.device, console)


def _prepare(options: TrainOptions) -> Path:
    """Make the folders that are written to, before all the work, and return the curve's file."""
    plot = options.plot or options.out / "learning_curve.png"
    check_suffix(plot, PLOT_FORMATS, "no such format to draw in")
    for folder in (options.out, plot.parent):
        folder.mkdir(parents=True, exist_ok=True)
    return plot


def _facts(out: Path, matrix: OutcomeMatrix, metrics: dict[str, Any]) -> dict[str, Any]:
    shown = ("mean", "models", "calibration")
    return {
        "out": str(out),
        "items": len(matrix.items),
        "held_out": {key: metrics[key] for key in shown},
    }


def _tell(out: Path, matrix: OutcomeMatrix, mean: dict[str, float], console: Console) -> None:
    console.print(
        f"{out}: {len(matrix.items)} items, {len(matrix.models)} models; held out: "
        f"AUC {fixed(mean['auc'])}, ECE {fixed(mean['ece'])}, Brier {fixed(mean['brier'])}"
    )


def _remarks(tables: OutcomeTables, matrix: OutcomeMatrix) -> Iterator[str]:
    """Yield what people should know of the tables before they rely on a fit to them."""
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
    fitted: Fitted,
    rows: Int64[np.ndarray, " rows"],
    options: FitOptions,
) -> dict[str, Any]:
    """Return figures on the items whose outcomes the features don't know."""
    score, models = matrix.score[rows], matrix.models
    by_model = metrics_by_model(score, fitted.held_out_quality[rows], models)
    views = {name: sigmoid(view[rows]) for name, view in fitted.held_out_views.items()}
    return {
        "protocol": f"{options.folds} folds grouped by text, each predicted by the others' fit",
        "items": len(rows),
        "mean": mean_metrics(by_model),
        "models": by_model,
        "floor_margins": floor_margins(fitted.held_out_quality[rows], score, models),
        # Before stacking a view's level means nothing: only its ranking counts.
        "view_auc": {
            name: mean_metrics(metrics_by_model(score, quality, models))["auc"]
            for name, quality in views.items()
        },
        "calibration": dict(zip(models, fitted.calibration_methods, strict=True)),
    }
