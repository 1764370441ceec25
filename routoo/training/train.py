"""Fits a predictor and writes its checkpoint, held-out figures and learning curve.

A predictor that was trained from evaluation runs is put into use unless it predicts evaluation
items worse than the one before it.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from routoo.domain.tables import OutcomeTables
from routoo.errors import InputError
from routoo.evaluation.bootstrap import MeanInterval, mean_interval
from routoo.evaluation.quality_metrics import mean_metrics, metrics_by_model
from routoo.evaluation_runs.load import load_graded_outcomes
from routoo.judge.files import remove_old_judges, write_judge
from routoo.judge.judge import AnswerJudge
from routoo.ports import Feedback
from routoo.predictor.answer_lengths import UNKNOWN_TOKENS
from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.checkpoint import pack, weights_sha256, write_checkpoint
from routoo.predictor.dataset import (
    OutcomeMatrix,
    content_sha256,
    grouped_folds,
    outcome_matrix,
    text_groups,
)
from routoo.predictor.estimator import Estimator
from routoo.predictor.fitting import FitOptions, FitResult, fit_estimator, training_items
from routoo.predictor.manifest import Manifest, read_manifest
from routoo.predictor.predictor import load_predictor
from routoo.predictor.scores import bounded_sigmoid
from routoo.predictor.stacking import EnsembleMember
from routoo.predictor.views.neighbours import NeighbourView
from routoo.selector.confidence import floor_margins
from routoo.settings import Settings
from routoo.store import checkpoints
from routoo.store.database import Database
from routoo.training.judge import PromptEstimates, fit_judge
from routoo.training.predictor_settings import PredictorSettings
from routoo.training.promote import promote_checkpoint, register_folder
from routoo.training.tables import mean_costs, prompt_factors
from routoo.training.tune import TUNING_STATE, tune_encoder

FEW_OUTCOMES = 50
"""A model with fewer outcomes gets a remark: its estimates are uncertain."""
MIN_ITEMS = 20
"""Held-out items without which nothing can be said about a new checkpoint."""
PLOT_FORMATS = (".png", ".svg", ".pdf")
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Parts of the items that the curve's points are fitted on."""


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
        tables: Items and outcomes to fit on; answers too, for a judge of them.
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
    metrics["prompt_factors"] = prompt_factors(tables, matrix.models)
    # What the backbone was tuned on it knows: a judge fitted there would trust the prompt too much.
    unseen = _without(matrix, tuned_on)
    judge = AnswerJudge.none(matrix.models)
    if tables.answers:
        expected, costs = _prompt_estimates(fitted, features), mean_costs(tables.outcomes)
        answers, seed = tables.answers, fit.seed
        judge = fit_judge(unseen, expected, answers, feedback, seed=seed, cost_usd=costs)
    judge_facts = write_judge(out, judge)
    manifest = replace(
        manifest_of(encoder, matrix, weights), settings=facts, metrics=metrics, judge=judge_facts
    )
    write_checkpoint(out, weights, manifest)
    remove_old_judges(out, judge_facts)
    return TrainedPredictor(matrix, features, fitted, fit, manifest)


def _prompt_estimates(
    fitted: FitResult, features: Float32[np.ndarray, "items features"]
) -> PromptEstimates:
    estimator = fitted.estimator
    tokens = estimator.tokens(estimator.projection.apply(features))
    return PromptEstimates(fitted.held_out_quality, tokens)


def _without(matrix: OutcomeMatrix, rows: Bool[np.ndarray, " items"] | None) -> OutcomeMatrix:
    """Return outcomes without the scores of some items."""
    if rows is None:
        return matrix
    return replace(matrix, score=np.where(rows[:, None], np.nan, matrix.score))


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


def manifest_of(encoder: Encoder, matrix: OutcomeMatrix, weights: bytes) -> Manifest:
    """Return a checkpoint's manifest, still without its settings and metrics."""
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
    views = {name: bounded_sigmoid(view[rows]) for name, view in fitted.held_out_views.items()}
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


async def check_folder_free(database: Database, folder: Path, default: Path) -> None:
    """Refuse to write over a checkpoint that is registered, or that scorers use.

    The new checkpoint is compared with the one in use, and a rollback must find the old ones
    unchanged.

    Args:
        database: Where checkpoints are registered.
        folder: Folder of the checkpoint to write.
        default: Folder that scorers use while no checkpoint is promoted.

    Raises:
        InputError: The folder holds such a checkpoint.
    """
    async with database.transaction() as conn:
        registered = [Path(one.path) for one in await checkpoints.list_all(conn)]
    if _is_one_of(folder, [*registered, default]):
        raise InputError(
            "the folder holds a checkpoint that is registered or in use",
            value=str(folder),
            where="--out",
            remedy='Give each checkpoint a folder of its own, such as checkpoints/"$(date +%F)"',
        )


async def promote_if_not_worse(
    database: Database, folder: Path, settings: Settings, device: str, feedback: Feedback
) -> bool:
    """Register a checkpoint, and put it into use unless it does worse on evaluation items.

    Both checkpoints predict the graded answers to the items of evaluation sets, which the new one
    was not fitted on. The mean over items of the differences of squared errors decides: the new
    checkpoint is worse if the whole 95 % interval of that mean is above 0.

    Args:
        database: Where answers are graded and checkpoints are registered.
        folder: The new checkpoint.
        settings: Name the checkpoint in use while none is promoted, and the home of the cache.
        device: Where backbones compute: cpu, cuda or auto.
        feedback: Shows what was decided, and why.

    Returns:
        Whether it is in use now.
    """
    async with database.transaction() as conn:
        tables = (await load_graded_outcomes(conn)).evaluation
        promoted = await checkpoints.promoted(conn)
    present = settings.checkpoint if promoted is None else Path(promoted.path)
    cache = settings.embeddings
    rise = await asyncio.to_thread(compare_checkpoints, tables, (present, folder), device, cache)
    better = rise is not None and rise.items >= MIN_ITEMS and not rise.low > 0
    why = f"Brier score on evaluation items: {_describe(rise)}"
    async with database.transaction() as conn:
        found = await register_folder(conn, folder)
        if better:
            reason = f"trained from runs; {why}"
            await promote_checkpoint(conn, found, reason, settings.checkpoint)
    if better:
        feedback.note(f"in use from the next batch on; {why}")
        if lost := _judges(present) - _judges(folder):
            names = ", ".join(sorted(lost))
            feedback.note(f"answers of {names} were judged so far, and no longer are")
    else:
        feedback.note(_why_not_promoted(rise, why))
    return better


def _judges(folder: Path) -> set[str]:
    """Return the models whose answers a checkpoint can judge."""
    return set(read_manifest(folder).judge.get("probes", ()))


def compare_checkpoints(
    tables: OutcomeTables, folders: tuple[Path, Path], device: str, cache: Path
) -> MeanInterval | None:
    """Return how far the new checkpoint's squared error is above the present one's, an item.

    Args:
        tables: Graded answers that neither was fitted on.
        folders: The present checkpoint and the new one.
        device: Where backbones compute.
        cache: Folder of cached embeddings.

    Returns:
        The mean with its 95 % interval; None where there are fewer than `MIN_ITEMS` items, or no
        model that both know.
    """
    models = set(tables.outcomes.models)
    models.intersection_update(*(read_manifest(folder).models for folder in folders))
    if not models or len(tables.items) < MIN_ITEMS:
        return None
    rows = np.array([name in models for name in tables.outcomes.models], np.bool_)
    matrix = outcome_matrix(tables.items, tables.outcomes.select(rows), sorted(models))
    present, new = (_squared_error(folder, matrix, device, cache) for folder in folders)
    return mean_interval(new - present)


def _is_one_of(folder: Path, others: Sequence[Path]) -> bool:
    return folder.resolve() in {other.resolve() for other in others}


def _squared_error(folder: Path, matrix: OutcomeMatrix, device: str, cache: Path) -> np.ndarray:
    predictor = load_predictor(folder, device=device, cache=cache)
    quality = predictor.predict(matrix.prompts, matrix.models).quality
    return np.asarray(np.nanmean((quality - matrix.score) ** 2, axis=1), np.float64)


def _why_not_promoted(rise: MeanInterval | None, why: str) -> str:
    reason = why if rise is not None else f"fewer than {MIN_ITEMS} graded evaluation items"
    how = "`routoo checkpoint promote` does so anyway"
    return f"registered and not promoted: {reason}; {how}"


def _describe(rise: MeanInterval | None) -> str:
    if rise is None:
        return "not compared"
    between = f"95 % interval {rise.low:+.4f} to {rise.high:+.4f}"
    return f"{rise.mean:+.4f} against the present one ({between}, {rise.items} items)"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A fit on part of the items, asked about the ones left out."""

    items: int
    """Items it was fitted on."""
    score: Float32[np.ndarray, "held models"]
    quality: Float32[np.ndarray, "held models"]


def learning_curve(
    matrix: OutcomeMatrix,
    features: Float32[np.ndarray, "items features"],
    estimator: Estimator,
    options: FitOptions,
) -> list[CurvePoint]:
    """Fit the views on growing parts of all folds but one, and predict that one.

    The projection, the views' weights and the calibration are those of the whole fit: few numbers,
    and the same for every point, so that the curve shows the views alone.
    """
    folds = grouped_folds(text_groups(matrix.prompts), options.folds, options.seed)
    items = training_items(matrix, estimator.projection, features, options)
    held = folds == 0
    order = np.random.default_rng(options.seed).permutation(np.flatnonzero(~held))
    points = []
    for share in SHARES:
        part = items.take(np.sort(order[: max(int(share * len(order)), 1)]))
        views = [
            *EnsembleMember.fit(part).log_odds(items.features[held]),
            NeighbourView.fit(part).log_odds(items.features[held]),
        ]
        quality = estimator.calibration(estimator.stacking(np.stack(views)))
        points.append(CurvePoint(len(part.score), matrix.score[held], quality))
    return points


def plot_learning_curve(points: Sequence[CurvePoint], models: tuple[str, ...], path: Path) -> None:
    """Draw mean AUC and Brier score over the number of training items into an image file."""
    rows = [mean_metrics(metrics_by_model(point.score, point.quality, models)) for point in points]
    items = np.array([point.items for point in points])
    from matplotlib.figure import Figure  # takes 0.5 s: not for a training without a curve

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("auc", "brier"), strict=True):
        axes.plot(items, [row[name] for row in rows], marker="o")
        axes.set_xscale("log")
        axes.set_xlabel("training items")
        axes.set_ylabel(f"held-out {name}, mean over {len(models)} models")
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=120, metadata={"Software": None} if path.suffix == ".png" else None)
