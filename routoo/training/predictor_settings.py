"""What a predictor is made of: the backbone that reads its prompts, and how both are fitted."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from routoo.ports import Feedback
from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.backbone.language_model import find_backbone
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.fitting import FitOptions
from routoo.predictor.options import DEFAULT_BACKBONE, Reading, TuneOptions
from routoo.predictor.predictor import choose_device
from routoo.predictor.prompt_features import EmbeddingCache, prompt_features


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorSettings:
    """How to make a predictor from outcomes."""

    cache: Path
    """Folder of cached embeddings."""
    backbone: str = DEFAULT_BACKBONE
    """Package or path of the language model that reads the prompts."""
    reading: Reading = field(default_factory=Reading)
    """How the backbone reads a prompt."""
    device: str = "auto"
    """Where the backbone computes: cpu, cuda or auto."""
    fit: FitOptions = field(default_factory=FitOptions)
    tuning: TuneOptions | None = None
    """How the backbone is tuned first; None leaves it as it is."""

    def load_encoder(self) -> Encoder:
        """Load the backbone, not yet tuned.

        Raises:
            CheckpointError: There is no such backbone, or it has no such hidden state.
        """
        backbone, device = find_backbone(self.backbone), choose_device(self.device)
        return Encoder(backbone, self.reading, device=device)

    def read_prompts(
        self, matrix: OutcomeMatrix, encoder: Encoder, feedback: Feedback
    ) -> Float32[np.ndarray, "items features"]:
        """Return the features of the items' prompts; known embeddings come from the cache."""
        cache = EmbeddingCache(self.cache, encoder)
        with feedback.progress_bar("Reading prompts", len(matrix.items)) as progress:
            features, _ = prompt_features(matrix.prompts, cache, progress)
        return features
