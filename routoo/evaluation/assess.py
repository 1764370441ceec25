"""Estimates held-out outcomes: by a checkpoint, or by fits that each leave a part out."""

from collections.abc import Callable
from pathlib import Path

from routoo.domain.tables import OutcomeTables
from routoo.evaluation.build_scorecard import EvaluationData
from routoo.evaluation.cross_fitting import (
    FeatureReader,
    cross_fit,
    domain_quality,
    knn_quality,
    mean_quality,
    split_items,
)
from routoo.evaluation.protocol import Protocol
from routoo.evaluation.quality_metrics import Quality
from routoo.evaluation.routing import cost_matrix, latency_matrix
from routoo.ports import Feedback
from routoo.predictor.dataset import OutcomeMatrix, outcome_matrix
from routoo.predictor.fitting import FitOptions
from routoo.predictor.predictor import CheckpointPredictor, load_predictor


def evaluation_data(
    tables: OutcomeTables, matrix: OutcomeMatrix, estimates: dict[str, Quality]
) -> EvaluationData:
    """Return what a scorecard is built from: outcomes, costs, latencies and estimates."""
    costs = cost_matrix(matrix, tables.outcomes)
    latencies = latency_matrix(matrix, tables.outcomes)
    return EvaluationData(matrix, costs, latencies, estimates)


def estimate_by_checkpoint(
    checkpoint: Path,
    matrix: OutcomeMatrix,
    trained_on: OutcomeTables | None,
    feedback: Feedback,
    *,
    device: str,
    cache: Path,
) -> dict[str, Quality]:
    """Return a checkpoint's estimates of all items.

    Args:
        checkpoint: Its folder.
        matrix: Held-out outcomes of models that the checkpoint knows.
        trained_on: Tables that it was fitted on: with them baselines are estimated too.
        feedback: Shows how far it is; warns where prompts are not new to the checkpoint.
        device: Where the backbone computes: cpu, cuda or auto.
        cache: Folder of cached embeddings.

    Returns:
        Estimates by name: "predictor", and the baselines'.

    Raises:
        CheckpointError: The checkpoint can't be read.
    """
    predictor = load_predictor(checkpoint, device=device, cache=cache)
    with feedback.progress_bar("Predicting", len(matrix.items)) as progress:
        quality = predictor.predict(matrix.prompts, matrix.models, progress).quality
    if known := int(predictor.remembers(matrix.prompts).sum()):
        feedback.note(
            f"warning: {known:,} of {len(matrix.items):,} prompts are, word for word or nearly so, "
            "among those the checkpoint was trained on: there its figures flatter"
        )
    estimates = {"predictor": quality}
    if trained_on is not None:
        train = outcome_matrix(trained_on.items, trained_on.outcomes, matrix.models)
        estimates |= _baselines(predictor, train, matrix)
    return estimates


def estimate_by_protocol(
    matrix: OutcomeMatrix,
    protocol: Protocol,
    fit: FitOptions,
    make_reader: Callable[[OutcomeMatrix], FeatureReader],
    feedback: Feedback,
) -> dict[str, Quality]:
    """Return the predictor's and its baselines' estimates of every item, none fitted on it.

    Args:
        matrix: Outcomes of all items.
        protocol: How the items are split into parts.
        fit: Options of each fit; its seed splits the items.
        make_reader: Returns how prompts are read, given the outcomes of all items.
        feedback: Shows how far it is.

    Raises:
        CheckpointError: There is no such backbone.
        InputError: The items can't be split so, or the rest of them is too little to fit on.
    """
    parts = split_items(matrix, protocol, fit.seed)
    reader = make_reader(matrix)
    with feedback.progress_bar("Fitting without each part", int(parts.max()) + 1) as progress:
        return cross_fit(matrix, reader, parts, fit, progress)


def _baselines(
    predictor: CheckpointPredictor, train: OutcomeMatrix, held: OutcomeMatrix
) -> dict[str, Quality]:
    known, asked = predictor.features(train.prompts), predictor.features(held.prompts)
    return {
        "knn": knn_quality(known, train.score, asked),
        "model_mean": mean_quality(train, held),
        "true_domain_mean": domain_quality(train, held),
    }
