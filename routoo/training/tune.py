"""Tuning a backbone from the command line."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool
from rich.console import Console

from routoo.console.progress import counted
from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.backbone.tuning import tune
from routoo.predictor.dataset import OutcomeMatrix, grouped_folds, text_groups
from routoo.predictor.fitting import FitOptions, check_enough
from routoo.predictor.options import TuneOptions

TUNING_STATE = "tuning.safetensors"
"""File in the checkpoint's folder that an interrupted tuning goes on from."""


def tune_encoder(
    console: Console, encoder: Encoder, matrix: OutcomeMatrix, options: TuneOptions, state: Path
) -> Bool[np.ndarray, " items"]:
    """Tune the encoder on all folds but the first.

    Returns:
        The items whose outcomes it was told: the views are weighted and calibrated on the others.

    Raises:
        InputError: There are too few items.
    """
    groups = text_groups(matrix.prompts)
    check_enough(groups)
    folds = grouped_folds(groups, FitOptions().folds, options.seed)
    told: Bool[np.ndarray, " items"] = np.not_equal(folds, 0)
    with counted(console, "Tuning the backbone", int(told.sum()) * options.epochs) as progress:
        tuned = tune(encoder, matrix, told, options, state, progress)
    losses = ", ".join(f"{loss:.4f}" for loss in tuned.losses)
    console.print(f"log loss on items kept back, after each pass: {losses}")
    return told
