"""`routoo train`: fit a predictor from outcome tables."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from routoo.cli.progress import counted
from routoo.domain.tables import read_items, read_outcomes
from routoo.evaluation.metrics import mean_metrics, metrics_by_model
from routoo.evaluation.plots import plot_learning_curve
from routoo.predictor.backbone import DEFAULT_BACKBONE, find_backbone
from routoo.predictor.cache import EmbeddingCache
from routoo.predictor.checkpoint import pack, weights_sha256, write_checkpoint
from routoo.predictor.dataset import OutcomeMatrix, content_sha256, outcome_matrix
from routoo.predictor.encoder import Encoder
from routoo.predictor.features import prompt_features
from routoo.predictor.fitting import FitOptions, Fitted, fit_estimator
from routoo.predictor.learning import learning_curve
from routoo.predictor.logistic import sigmoid
from routoo.predictor.manifest import Manifest
from routoo.predictor.predictor import choose_device
from routoo.settings import load_settings

DEFAULT_LAYERS = (2, 4, 6)


def train(
    items: Annotated[list[Path], typer.Option(help="Items table (Parquet or JSONL); repeatable.")],
    outcomes: Annotated[list[Path], typer.Option(help="Outcomes table (Parquet); repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Only this candidate model; repeatable.")
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="Package or path of the language model that reads the prompts.")
    ] = DEFAULT_BACKBONE,
    seed: Annotated[int, typer.Option(help="Deals the folds.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="Folder of cached embeddings; under ROUTOO_HOME if unset.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Learning curve to draw; learning_curve.png in OUT if unset."),
    ] = None,
) -> None:
    """Fit a predictor of quality and answer length from outcome tables."""
    console = Console(stderr=True)
    matrix = outcome_matrix(read_items(*items), read_outcomes(*outcomes), model)
    encoder = Encoder(find_backbone(backbone), DEFAULT_LAYERS, device=choose_device(device))
    folder = cache or load_settings().home / "cache" / "embeddings"
    with counted(console, "Reading prompts", len(matrix.items)) as progress:
        features, _ = prompt_features(matrix.prompts, EmbeddingCache(folder, encoder), progress)
    options = FitOptions(seed=seed)
    with counted(console, "Fitting folds", options.folds) as progress:
        fitted = fit_estimator(matrix, features, encoder.width, options, progress)
    manifest = _write(out, matrix, encoder, fitted, options)
    curve = learning_curve(matrix, features, fitted.estimator, options)
    plot_learning_curve(curve, matrix.models, plot or out / "learning_curve.png")
    mean = manifest.metrics["mean"]
    console.print(
        f"{out}: {len(matrix.items)} items, {len(matrix.models)} models; held out: "
        f"AUC {mean['auc']:.3f}, ECE {mean['ece']:.3f}, Brier {mean['brier']:.3f}"
    )


def _write(
    out: Path, matrix: OutcomeMatrix, encoder: Encoder, fitted: Fitted, options: FitOptions
) -> Manifest:
    by_model = metrics_by_model(matrix.score, fitted.held_out_quality, matrix.models)
    weights = pack(fitted.estimator)
    manifest = Manifest(
        models=matrix.models,
        backbone=encoder.backbone.name,
        backbone_sha256=encoder.backbone.weights_sha256,
        layers=encoder.layers,
        weights_sha256=weights_sha256(weights),
        data_sha256=content_sha256(matrix),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=asdict(options),
        metrics={
            "protocol": f"{options.folds} folds grouped by text, each predicted by the others' fit",
            "items": len(matrix.items),
            "mean": mean_metrics(by_model),
            "models": by_model,
            "view_auc": _view_auc(matrix, fitted),
            "calibration": dict(zip(matrix.models, fitted.calibration_methods, strict=True)),
        },
    )
    write_checkpoint(out, weights, manifest)
    return manifest


def _view_auc(matrix: OutcomeMatrix, fitted: Fitted) -> dict[str, float]:
    """Return each view's mean AUC: before stacking their level means nothing."""
    views = fitted.held_out_views.items()
    return {
        name: mean_metrics(metrics_by_model(matrix.score, sigmoid(logits), matrix.models))["auc"]
        for name, logits in views
    }
