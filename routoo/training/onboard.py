"""Brings a pool of models into use in one budgeted run: ask, grade, learn, register, promote.

A pool's models are placed on the general checkpoint by their priors, and their graded answers
update that by Bayes' rule. With answers to enough items a predictor of their own is fitted too, and
the one that predicts the graded answers better, each held out, is used.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from routoo.domain.model_prior import GENERAL_CHECKPOINT, REFERENCE_MODELS
from routoo.domain.pool import Pool
from routoo.domain.tables import OutcomeTables
from routoo.errors import CheckpointError, InputError
from routoo.evaluation.quality_metrics import metrics_by_model
from routoo.ports import Feedback
from routoo.predictor.checkpoint import Checkpoint, pack, weights_sha256, write_checkpoint
from routoo.predictor.dataset import (
    OutcomeMatrix,
    content_sha256,
    grouped_folds,
    outcome_matrix,
    text_groups,
)
from routoo.predictor.estimator import Estimator
from routoo.predictor.manifest import Manifest, read_manifest
from routoo.predictor.placement import PlacedModel, Placer
from routoo.predictor.predictor import CheckpointPredictor, load_predictor
from routoo.selector.confidence import floor_margins
from routoo.settings import Settings
from routoo.store import checkpoints
from routoo.store.checkpoints import CheckpointRecord
from routoo.store.database import Database
from routoo.training.add_model import FOLDS
from routoo.training.general import ANCHOR_NAMES
from routoo.training.predictor_settings import PredictorSettings
from routoo.training.promote import promote_checkpoint, register_folder
from routoo.training.tables import prompt_factors
from routoo.training.train import train_predictor

OWN_FIT_ITEMS = 200
"""With fewer different items a predictor of the pool's own is not tried."""
ORIGIN = "general_sha256"
"""Key of a checkpoint's settings: the weights of the general checkpoint that it was made from."""
OWN, GENERAL = "own", "general"
"""What the checkpoint was made of: the pool's answers alone, or the general one updated by them."""


@dataclass(frozen=True, slots=True)
class Onboarded:
    """A checkpoint that was made for a pool, and what is known of its models now."""

    folder: Path
    made_of: str
    """`OWN` or `GENERAL`."""
    matrix: OutcomeMatrix
    """The graded answers."""
    placed: tuple[PlacedModel, ...]
    """Where the models lay before."""
    quality: Mapping[str, Float32[np.ndarray, "items models"]]
    """Expected of each graded item, held out: `prior`, `general`, and `own` where it was fitted."""

    def brier(self, name: str) -> float:
        """Return the mean squared error of one kind of estimates on the graded answers."""
        return _brier(self.quality[name], self.matrix.score)


@dataclass(frozen=True, slots=True)
class GradedPool:
    """A pool, and what its models answered."""

    pool: Pool
    tables: OutcomeTables
    """With texts there is a judge where a predictor of the pool's own is fitted."""


def learn_pool(
    graded: GradedPool,
    work: Path,
    settings: PredictorSettings,
    base: Path,
    feedback: Feedback,
) -> Onboarded:
    """Make a pool's checkpoint of graded answers, or find the one that the same answers gave.

    Args:
        graded: The candidate models and their graded answers.
        work: Folder under which each checkpoint gets a folder of its own.
        settings: Where the backbone computes, and the cache of embeddings.
        base: The checkpoint to start from: a general one, or one that was made from it.
        feedback: Shows how far it is.

    Raises:
        InputError: No answer of the pool could be graded.
        CheckpointError: The base can't be read, or places no models.
    """
    pool, tables = graded.pool, graded.tables
    names = list(dict.fromkeys(model.predicted_as for model in pool.models))
    known = [name for name in names if name in set(tables.outcomes.models)]
    if not known:
        raise InputError(
            "no answer of the pool's models is graded", remedy="Give items that have answers"
        )
    matrix = outcome_matrix(tables.items, tables.outcomes, known)
    predictor = load_predictor(base, device=settings.device, cache=settings.cache)
    learner = _Learner(predictor, pool, matrix, feedback)
    placed, quality, estimator = learner.learn()
    settings_of = {ORIGIN: predictor.manifest.weights_sha256} | predictor.manifest.settings
    made_from = replace(predictor.manifest, settings=settings_of)
    folder = work / f"checkpoint-{_identity(pool, matrix, made_from)}"
    own = None
    if len(np.unique(text_groups(matrix.prompts))) >= OWN_FIT_ITEMS and known == names:
        trained = train_predictor(tables, known, settings, folder, feedback)
        own = trained.fitted.held_out_quality
        quality[OWN] = own
    made_of = GENERAL
    if own is not None and _brier(own, matrix.score) < _brier(quality[GENERAL], matrix.score):
        made_of = OWN
    else:
        checkpoint = replace(predictor.checkpoint, estimator=estimator, manifest=made_from)
        _write(folder, checkpoint, names, matrix, _metrics(matrix, quality[GENERAL], tables))
    return Onboarded(folder, made_of, matrix, tuple(placed), quality)


def _brier(
    quality: Float32[np.ndarray, "items models"], score: Float32[np.ndarray, "items models"]
) -> float:
    return float(np.nanmean((quality - score) ** 2))


def _identity(pool: Pool, matrix: OutcomeMatrix, base: Manifest) -> str:
    """Return a short hash of what a checkpoint is made of."""
    priors = [(one.predicted_as, str(one.prior), one.price_usd_per_mtok) for one in pool.models]
    own = {model.predicted_as for model in pool.models}
    others = [name for name in base.models if name not in own]
    text = f"{content_sha256(matrix)} {base.settings[ORIGIN]} {others} {priors}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(slots=True)
class _Learner:
    """Updates a pool's placements by its graded answers."""

    predictor: CheckpointPredictor
    pool: Pool
    matrix: OutcomeMatrix
    feedback: Feedback

    def learn(
        self,
    ) -> tuple[list[PlacedModel], dict[str, Float32[np.ndarray, "items models"]], Estimator]:
        """Return where the models lay, held-out estimates, and the estimator that learnt them."""
        placer = Placer.of(self.predictor.manifest, self._start.references)
        if placer is None:
            raise CheckpointError("the checkpoint places no models", remedy="Use a general one")
        placed = placer.place(self.pool.models)
        inputs = self._inputs()
        folds = grouped_folds(text_groups(self.matrix.prompts), FOLDS, seed=0)
        estimator, quality = (
            self._start,
            {name: np.full_like(self.matrix.score, np.nan) for name in ("prior", GENERAL)},
        )
        for one in placed:
            column = self._column(one.name)
            rows = np.flatnonzero(self._known(column))
            score, lengths = self._answers(column, rows)
            if column is not None:
                quality["prior"][:, column] = self._expected(one, inputs)
                quality[GENERAL][:, column] = quality["prior"][:, column]
                held_out = self._start.held_out_quality(
                    inputs[rows], score, folds[rows], one.placement
                )
                quality[GENERAL][rows, column] = held_out
            estimator = estimator.add_model(inputs[rows], score, lengths, one.placement)
        return placed, quality, estimator

    @property
    def _start(self) -> Estimator:
        """The estimator without the pool's models, which are learnt anew."""
        estimator, models = self.predictor.checkpoint.estimator, self.predictor.models
        added = models[len(models) - len(estimator.added_models.theta) :]
        own = {model.predicted_as for model in self.pool.models}
        kept = [row for row, name in enumerate(added) if name not in own]
        return replace(estimator, added_models=estimator.added_models.take(kept))

    def _inputs(self) -> Float32[np.ndarray, "items projected"]:
        with self.feedback.progress_bar("Reading prompts", 1) as progress:
            inputs = self.predictor.features(self.matrix.prompts)
            progress(1)
        return inputs

    def _column(self, name: str) -> int | None:
        return self.matrix.models.index(name) if name in self.matrix.models else None

    def _known(self, column: int | None) -> np.ndarray:
        if column is None:
            return np.zeros(len(self.matrix.items), np.bool_)
        return np.asarray(~np.isnan(self.matrix.score[:, column]))

    def _answers(
        self, column: int | None, rows: Int64[np.ndarray, " rows"]
    ) -> tuple[Float32[np.ndarray, " rows"], Float32[np.ndarray, " rows"]]:
        if column is None:
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        return self.matrix.score[rows, column], self.matrix.completion_tokens[rows, column]

    def _expected(
        self, one: PlacedModel, inputs: Float32[np.ndarray, "items projected"]
    ) -> Float32[np.ndarray, " items"]:
        departure = self._start.departure(inputs, seen=False)
        alone = replace(self._start, added_models=self._start.added_models.take([]))
        return alone.place(one.placement).added_models.quality(departure)[:, 0]


def _metrics(
    matrix: OutcomeMatrix, held_out: Float32[np.ndarray, "items models"], tables: OutcomeTables
) -> dict[str, Any]:
    return {
        "protocol": f"{FOLDS} folds of the graded answers; anchors as in the general checkpoint",
        "models": metrics_by_model(matrix.score, held_out, matrix.models),
        "floor_margins": floor_margins(held_out, matrix.score, matrix.models),
        "prompt_factors": prompt_factors(tables, matrix.models),
    }


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    names: Sequence[str],
    matrix: OutcomeMatrix,
    metrics: dict[str, Any],
) -> None:
    """Write a general checkpoint that learnt a pool's models; others that it knew stay known."""
    before = checkpoint.manifest
    others = [name for name in before.models if name not in names]
    metrics["models"] = before.metrics["models"] | metrics["models"]
    weights = pack(checkpoint.estimator, checkpoint.adapters)
    manifest = replace(
        before,
        models=(*others, *names),
        weights_sha256=weights_sha256(weights),
        data_sha256=content_sha256(matrix),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics=before.metrics | metrics,
    )
    write_checkpoint(folder, weights, manifest)


async def base_checkpoint(database: Database) -> Path:
    """Return the checkpoint to learn from: the one in use, if it places models, else the package's.

    So other pools that were onboarded before stay known.
    """
    async with database.transaction() as conn:
        promoted = await checkpoints.promoted(conn)
    if promoted is None:
        return GENERAL_CHECKPOINT
    folder = Path(promoted.path)
    try:
        read_manifest(folder)
    except CheckpointError:
        return GENERAL_CHECKPOINT
    places = REFERENCE_MODELS in promoted.manifest["settings"]
    return folder if places else GENERAL_CHECKPOINT


async def put_into_use(
    database: Database,
    onboarded: Onboarded,
    settings: Settings,
    feedback: Feedback,
    *,
    routes_worse: bool = False,
) -> tuple[CheckpointRecord, bool]:
    """Register a checkpoint and promote it, unless that loses models in use or routes worse.

    Args:
        database: Where checkpoints are promoted.
        onboarded: What was made.
        settings: What scorers use while no checkpoint is promoted.
        feedback: Told why it is not promoted, and how it can be.
        routes_worse: Whether routing by it was credibly worse than by priors, held out.

    Returns:
        The registered checkpoint, and whether it is in use now.
    """
    async with database.transaction() as conn:
        promoted = await checkpoints.promoted(conn)
        found = await register_folder(conn, onboarded.folder)
        used = () if promoted is None else tuple(promoted.manifest["models"])
        kept = {*found.manifest["models"], *ANCHOR_NAMES}
        lost = [name for name in used if name not in kept]
        in_use = promoted is not None and promoted.id == found.id
        if not (lost or routes_worse or in_use):
            why = f"onboarded from {len(onboarded.matrix.items)} graded items"
            await promote_checkpoint(conn, found, why, settings.checkpoint)
            in_use = True
    if not in_use:
        why = "on your questions it routes worse than priors alone"
        if lost:
            why = f"the checkpoint in use knows {', '.join(lost[:5])} too"
        feedback.note(
            f"registered and not promoted: {why}; `routoo checkpoint promote "
            f"{found.weights_sha256[:12]}` puts it into use anyway"
        )
    return found, in_use
