"""What a fit takes, from the options of the command line."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32
from rich.console import Console

from routoo.cli.fitting_options import FittingOptions
from routoo.console.progress import counted
from routoo.predictor.backbone.configuration import find_backbone
from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.embedding_cache import EmbeddingCache
from routoo.predictor.features import prompt_features
from routoo.predictor.fitting import FitOptions
from routoo.predictor.options import TuneOptions
from routoo.predictor.predictor import choose_device
from routoo.settings import load_settings


def load_encoder(options: FittingOptions) -> Encoder:
    """Load the backbone, not yet tuned.

    Raises:
        CheckpointError: There is no such backbone, or no such hidden state of it.
    """
    backbone, device = find_backbone(options.backbone), choose_device(options.device)
    return Encoder(backbone, options.reading, device=device)


def fit_options(options: FittingOptions) -> FitOptions:
    """Return what the fit of the views is told."""
    return FitOptions(seed=options.seed, class_weight=options.class_weight)


def tune_options(options: FittingOptions) -> TuneOptions:
    """Return what the tuning of the backbone is told."""
    return TuneOptions(
        options.rank, options.epochs, seed=options.seed, class_weight=options.class_weight
    )


def cache_folder(options: FittingOptions) -> Path:
    """Return where embeddings are kept."""
    return options.cache or load_settings().home / "cache" / "embeddings"


def read_prompts(
    matrix: OutcomeMatrix, encoder: Encoder, options: FittingOptions, console: Console
) -> Float32[np.ndarray, "items features"]:
    """Return the features of the items' prompts, a bar telling how far it is."""
    cache = EmbeddingCache(cache_folder(options), encoder)
    with counted(console, "Reading prompts", len(matrix.items)) as progress:
        features, _ = prompt_features(matrix.prompts, cache, progress)
    return features
