"""Estimates by a protocol: fit on the rest, ask about what was held out."""

from rich.console import Console

from routoo.cli.progress import counted
from routoo.evaluation.protocol_names import Protocol
from routoo.evaluation.protocols import Quality, cross_fit, deal
from routoo.predictor.backbone import find_backbone
from routoo.predictor.cache import EmbeddingCache
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.encoder import Encoder
from routoo.predictor.features import prompt_features
from routoo.predictor.fitting import FitOptions
from routoo.predictor.predictor import choose_device
from routoo.settings import load_settings


def cross_estimates(
    matrix: OutcomeMatrix, protocol: Protocol, backbone: str, seed: int, device: str
) -> dict[str, Quality]:
    """Return the predictor's and its baselines' estimates of every item, none fitted on it.

    Raises:
        CheckpointError: There is no such backbone.
        InputError: The items can't be split so, or the rest of them is too little to fit on.
    """
    console = Console(stderr=True)
    parts = deal(matrix, protocol, seed)
    encoder = Encoder(find_backbone(backbone), device=choose_device(device))
    embeds = EmbeddingCache(load_settings().home / "cache" / "embeddings", encoder)
    with counted(console, "Reading prompts", len(matrix.items)) as progress:
        features, _ = prompt_features(matrix.prompts, embeds, progress)
    with counted(console, "Fitting without each part", int(parts.max()) + 1) as progress:
        return cross_fit(matrix, features, encoder.width, parts, FitOptions(seed=seed), progress)
