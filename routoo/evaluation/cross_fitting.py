"""Estimates every item by a predictor, and by its baselines, that were not fitted on it.

The predictor is that of a checkpoint, or one that is fitted here: a protocol splits the items into
parts, and each part is estimated by fits on the other parts. The baselines are what a predictor
must beat.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64
from sklearn.neighbors import NearestNeighbors

from routoo.domain.tables import OutcomeTables
from routoo.errors import InputError
from routoo.evaluation.quality_metrics import Quality
from routoo.ports import Feedback
from routoo.predictor.dataset import OutcomeMatrix, grouped_folds, outcome_matrix, text_groups
from routoo.predictor.fitting import FitOptions, fit_estimator
from routoo.predictor.options import Protocol
from routoo.predictor.predictor import CheckpointPredictor, load_predictor
from routoo.predictor.scores import known_mean
from routoo.predictor.views.domain import domain_means, number_domains

SPLITS = 5
"""Parts that items or domains are split into."""
KNN = 40
"""Neighbours that the baseline `knn` averages over."""


@dataclass(frozen=True, slots=True)
class PromptFeatures:
    """Features of all items' prompts."""

    features: Float32[np.ndarray, "items features"]
    """Hidden states of the backbone, then features of the text's surface."""
    hidden: int
    """How many of the features are hidden states."""
    tuned_on: Bool[np.ndarray, " train"] | None = None
    """Which of the training items the backbone was tuned on: the features know their outcomes."""


FeatureReader = Callable[[OutcomeMatrix], PromptFeatures]
"""Reads all prompts, given the items that may be fitted on: a backbone may be tuned on these."""


def cross_fit(
    matrix: OutcomeMatrix,
    reader: FeatureReader,
    parts: Int64[np.ndarray, " items"],
    options: FitOptions,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Quality]:
    """Estimate each part by a predictor and baselines that are fitted on the other parts.

    Args:
        matrix: Outcomes.
        reader: Returns the prompts' features; called once for each part.
        parts: Part of each item, as `split_items` returns them.
        options: Of every fit.
        progress: Called when another part is done.

    Returns:
        Estimates of all items, by the predictor's and baselines' names.

    Raises:
        InputError: Outside some part there are too few items or no outcomes of a model.
    """
    names = ("predictor", "knn", "model_mean", "true_domain_mean")
    estimates = {name: np.zeros(matrix.score.shape, np.float32) for name in names}
    for inside, held in _trainings(matrix, parts):
        train, asked = matrix.take(np.flatnonzero(inside)), matrix.take(np.flatnonzero(held))
        read = reader(train)
        known, new = read.features[inside], read.features[held]
        estimator = fit_estimator(
            train, known, read.hidden, options, tuned_on=read.tuned_on
        ).estimator
        seen, unseen = estimator.projection.apply(known), estimator.projection.apply(new)
        estimates["predictor"][held] = estimator(new).quality
        estimates["knn"][held] = knn_quality(seen, train.score, unseen)
        estimates["model_mean"][held] = mean_quality(train, asked)
        estimates["true_domain_mean"][held] = domain_quality(train, asked)
        if progress:
            progress(1)
    return estimates


def split_items(
    matrix: OutcomeMatrix, protocol: Protocol, seed: int
) -> Int64[np.ndarray, " items"]:
    """Split the items into parts by a protocol; return the number of each item's part.

    Raises:
        InputError: There are fewer than two domains or datasets.
    """
    texts = text_groups(matrix.prompts)
    if protocol is Protocol.RANDOM:
        return grouped_folds(texts, SPLITS, seed)
    if protocol is Protocol.DOMAINS:
        groups = number_domains([item.subject for item in matrix.items])
    else:
        groups = number_domains([item.dataset for item in matrix.items])
    count = int(groups.max(initial=-1)) + 1
    if count <= 1:
        raise InputError(
            f"the items are of fewer than two {protocol}",
            remedy="Give `subject` or `dataset` in the items table, or use --protocol random",
        )
    if protocol is Protocol.DATASETS:
        return groups
    return grouped_folds(groups, min(SPLITS, count), seed)


def _trainings(
    matrix: OutcomeMatrix, parts: Int64[np.ndarray, " items"]
) -> Iterator[tuple[Bool[np.ndarray, " items"], Bool[np.ndarray, " items"]]]:
    """Yield which items are fitted on and which are held out; some items may be neither."""
    texts = text_groups(matrix.prompts)
    for part in np.unique(parts):
        held = parts == part
        # The same question under another domain's name would give its answers away.
        inside = ~held & ~np.isin(texts, texts[held])
        answered = ~np.isnan(matrix.score[inside]).all(axis=0)
        missing = [n for n, known in zip(matrix.models, answered, strict=True) if not known]
        if missing:
            raise InputError(
                "a model has no outcomes outside a part that is held out",
                value=", ".join(missing[:5]),
                remedy="Name models with --model that answered items of several parts",
            )
        yield inside, held


def knn_quality(
    known_features: Float32[np.ndarray, "train features"],
    known_score: Float32[np.ndarray, "train models"],
    features: Float32[np.ndarray, "items features"],
) -> Quality:
    """Return the plain mean scores of the 40 nearest training items by cosine."""
    index = NearestNeighbors(n_neighbors=min(KNN, len(known_features)), metric="cosine")
    rows = index.fit(known_features).kneighbors(features, return_distance=False)
    means = known_mean(known_score, axis=0)
    filled = np.where(np.isnan(known_score), means, known_score)
    return np.asarray(filled[rows].mean(axis=1), np.float32)


def mean_quality(train: OutcomeMatrix, held: OutcomeMatrix) -> Float32[np.ndarray, "items models"]:
    """Return each model's training mean for every item: routed by it, a mix chosen beforehand.

    The random mix of the held-out means is chosen with hindsight: the more models and the fewer
    items, the more of its quality is luck. This one is chosen as a user would have to choose it.
    """
    return np.repeat(known_mean(train.score, axis=0)[None], len(held.items), axis=0)


def domain_quality(
    train: OutcomeMatrix, held: OutcomeMatrix
) -> Float32[np.ndarray, "items models"]:
    """Return each model's training mean on the item's true domain: an informed baseline.

    It knows the domain, which a router does not.
    """
    names = [item.subject for item in (*train.items, *held.items)]
    numbers = number_domains(names)
    means = domain_means(train.score, numbers[: len(train.items)], int(numbers.max()) + 1)
    return np.asarray(means[numbers[len(train.items) :]])


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
