"""Tunes a backbone on outcomes, once for a checkpoint or anew for each part of a cross-fit."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool

from routoo.evaluation.cross_fitting import FeatureReader, PromptFeatures
from routoo.ports import Feedback
from routoo.predictor.backbone.batching import string_sha256
from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.backbone.tuning import tune
from routoo.predictor.dataset import OutcomeMatrix, content_sha256, grouped_folds, text_groups
from routoo.predictor.fitting import FitOptions, check_enough
from routoo.predictor.options import TuneOptions
from routoo.training.predictor_settings import PredictorSettings

TUNING_STATE = "tuning.safetensors"
"""File in the checkpoint's folder that an interrupted tuning goes on from."""


def tune_encoder(
    encoder: Encoder, matrix: OutcomeMatrix, options: TuneOptions, state: Path, feedback: Feedback
) -> Bool[np.ndarray, " items"]:
    """Tune the encoder on all folds but the first.

    Args:
        encoder: Its backbone gets adapters (LoRA).
        matrix: Outcomes of all folds.
        options: How it is tuned.
        state: File that an interrupted tuning goes on from.
        feedback: Shows how far it is.

    Returns:
        Which items it was tuned on: views are weighted and calibrated on the others.

    Raises:
        InputError: There are too few items.
    """
    groups = text_groups(matrix.prompts)
    check_enough(groups)
    folds = grouped_folds(groups, FitOptions().folds, options.seed)
    inside: Bool[np.ndarray, " items"] = np.not_equal(folds, 0)
    total = int(inside.sum()) * options.epochs
    with feedback.progress_bar("Tuning the backbone", total) as progress:
        tuned = tune(encoder, matrix, inside, options, state, progress)
    losses = ", ".join(f"{loss:.4f}" for loss in tuned.losses)
    feedback.note(f"log loss on items kept back, after each pass: {losses}")
    return inside


def prompt_reader(
    matrix: OutcomeMatrix, settings: PredictorSettings, cache: Path, feedback: Feedback
) -> FeatureReader:
    """Return how a cross-fit reads all prompts, given the items that it may fit on.

    Without tuning the prompts are read once, for all parts. With tuning the backbone is tuned anew
    for each part, on the others. Each tuning is cached: an evaluation that was cut off goes on,
    and the next one with the same options finds it done.

    Args:
        matrix: Outcomes of all items.
        settings: The backbone, and how it is tuned.
        cache: Folder of the cached tunings.
        feedback: Shows how far it is.

    Raises:
        CheckpointError: There is no such backbone.
    """
    tuning = settings.tuning
    if tuning is None:
        encoder = settings.load_encoder()
        readout = PromptFeatures(settings.read_prompts(matrix, encoder, feedback), encoder.width)
        return lambda _: readout

    def read(train: OutcomeMatrix) -> PromptFeatures:
        encoder = settings.load_encoder()
        name = string_sha256(f"{content_sha256(train)} {encoder.identity} {tuning}")
        state = cache / f"{name}.safetensors"
        inside = tune_encoder(encoder, train, tuning, state, feedback)
        features = settings.read_prompts(matrix, encoder, feedback)
        return PromptFeatures(features, encoder.width, inside)

    return read
