"""The predictor that scorers load: a backbone and a checkpoint behind one method."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32

from routoo.domain.pool import CandidateModel
from routoo.domain.prediction import Predictions
from routoo.errors import CheckpointError, InputError
from routoo.predictor.backbone.encoder import Encoder, Progress
from routoo.predictor.backbone.language_model import Backbone, find_backbone
from routoo.predictor.checkpoint import Checkpoint, read_checkpoint
from routoo.predictor.manifest import Manifest
from routoo.predictor.options import Pooling, Precision, Reading
from routoo.predictor.placement import Placer
from routoo.predictor.prompt_features import EmbeddingCache, PromptEncoder, prompt_features


class CheckpointPredictor:
    """Estimates how well each candidate model would answer (implements ports.Predictor).

    Args:
        checkpoint: What was fitted.
        encoder: The backbone it was fitted on.
    """

    def __init__(self, checkpoint: Checkpoint, encoder: PromptEncoder) -> None:
        self.checkpoint = checkpoint
        self.encoder = encoder

    @property
    def manifest(self) -> Manifest:
        """The checkpoint's facts."""
        return self.checkpoint.manifest

    @property
    def models(self) -> tuple[str, ...]:
        """Candidate models it can estimate."""
        return self.manifest.models

    def predict(
        self, prompts: Sequence[str], models: Sequence[str], progress: Progress | None = None
    ) -> Predictions:
        """Return estimates for the prompts, columns in the order of the models' names.

        Args:
            prompts: Any text, the empty one too.
            models: Any of the checkpoint's models, in any order.
            progress: Called with the number of prompts that were done since its last call.

        Raises:
            CheckpointError: The checkpoint doesn't know a model.
        """
        columns = self._columns(models)
        features, truncated = prompt_features(prompts, self.encoder, progress)
        estimates = self.checkpoint.estimator(features)
        return Predictions(
            np.ascontiguousarray(estimates.quality[:, columns]),
            np.ascontiguousarray(estimates.quality_std[:, columns]),
            np.ascontiguousarray(estimates.completion_tokens[:, columns]),
            estimates.novelty,
            truncated,
        )

    def covering(self, models: Sequence[CandidateModel]) -> "CheckpointPredictor | None":
        """Return a predictor that knows all these models; None where this can't place the others.

        A general checkpoint, and one that was made from it, places a model that it does not know
        by the prior that the pool states, by its name, or by its price.
        """
        unknown = [model for model in models if model.predicted_as not in self.models]
        if not unknown:
            return self
        placer = Placer.of(self.manifest, self.checkpoint.estimator.references)
        if placer is None:
            return None
        estimator, placed = self.checkpoint.estimator, placer.place(unknown)
        for one in placed:
            estimator = estimator.place(one.placement)
        manifest = replace(self.manifest, models=(*self.models, *(one.name for one in placed)))
        checkpoint = replace(self.checkpoint, estimator=estimator, manifest=manifest)
        return CheckpointPredictor(checkpoint, self.encoder)

    def prompt_factors(self, models: Sequence[str]) -> list[float]:
        """Return how many prompt tokens each model bills for one that is estimated."""
        known = self.manifest.metrics.get("prompt_factors") or {}
        return [float(known.get(name, 1.0)) for name in models]

    def floor_margins(self, models: Sequence[str], confidence: float) -> list[float]:
        """Return what to take off models' estimates so that the rest holds with confidence.

        Raises:
            CheckpointError: The checkpoint keeps no margins for such a confidence.
        """
        return self.manifest.floor_margins(models, confidence)

    def features(self, prompts: Sequence[str]) -> Float32[np.ndarray, "prompts features"]:
        """Return prompts as the estimator's views see them: what baselines are fitted on."""
        raw, _ = prompt_features(prompts, self.encoder)
        return self.checkpoint.estimator.projection.apply(raw)

    def remembers(self, prompts: Sequence[str]) -> Bool[np.ndarray, " prompts"]:
        """Return which prompts are among those that the checkpoint was trained on, or nearly so.

        Of very large trainings it remembers only a part (`NeighbourView.remember`).
        """
        estimator = self.checkpoint.estimator
        return estimator.neighbours.remembers(self.features(prompts))

    def _columns(self, models: Sequence[str]) -> list[int]:
        position = {name: column for column, name in enumerate(self.models)}
        unknown = [name for name in models if name not in position]
        if unknown:
            raise CheckpointError(
                "the checkpoint was not trained on a candidate model",
                value=", ".join(unknown[:5]),
                remedy=f"Take it out of the pool, or train with outcomes of it; "
                f"the checkpoint knows {', '.join(self.models[:50])}",
            )
        return [position[name] for name in models]


def load_predictor(
    checkpoint: Path, *, device: str = "auto", cache: Path | None = None, threads: int | None = None
) -> CheckpointPredictor:
    """Load a checkpoint and its backbone.

    Args:
        checkpoint: Folder that `routoo train` wrote.
        device: cpu, cuda, or auto for a GPU where there is one.
        cache: Folder of embeddings to read and to add to; None keeps none.
        threads: Most threads that read prompts on a CPU; None for as many as torch uses.

    Raises:
        CheckpointError: The checkpoint or its backbone is absent, damaged, or they don't fit.
    """
    read = read_checkpoint(checkpoint)
    backbone, reading = find_backbone(read.manifest.backbone), _reading(read.manifest)
    check_backbone(backbone, read.manifest)
    encoder = Encoder(backbone, reading, device=choose_device(device), threads=threads)
    encoder.adapt(read.adapters)
    cached = encoder if cache is None else EmbeddingCache(cache, encoder)
    return CheckpointPredictor(read, cached)


def _reading(manifest: Manifest) -> Reading:
    try:
        pooling, precision = Pooling(manifest.pooling), Precision(manifest.precision)
    except ValueError as error:
        raise CheckpointError(
            "the manifest names an unknown way to read prompts",
            value=str(error),
            remedy="Another release wrote it: train it again with `routoo train`",
        ) from error
    return Reading(manifest.layers, pooling, manifest.suffix, precision, manifest.compiled)


def choose_device(device: str) -> str:
    """Return the device to compute on: the one that was named, or the best there is for auto.

    Raises:
        InputError: There is no such device here.
    """
    count = torch.cuda.device_count()
    if device == "auto":
        return "cuda" if count else "cpu"
    known = {"cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))}
    if device not in known:
        raise InputError(
            "there is no such device here",
            value=device,
            remedy=f"Give auto, or one of {', '.join(sorted(known))}",
        )
    return device


def check_backbone(backbone: Backbone, manifest: Manifest) -> None:
    """Check that a backbone is the one that a checkpoint was trained with.

    Raises:
        CheckpointError: It is not.
    """
    if backbone.weights_sha256 != manifest.backbone_sha256:
        raise CheckpointError(
            "the backbone's weights are not those the checkpoint was trained on",
            where=str(backbone.path),
            value=backbone.weights_sha256,
            remedy=f"Install the weights with sha256 {manifest.backbone_sha256}, or train again",
        )
    if manifest.reader_sha256 not in {"", backbone.reader_sha256}:
        raise CheckpointError(
            "the backbone's configuration or tokenizer is not that the checkpoint was trained with",
            where=str(backbone.path),
            value=backbone.reader_sha256,
            remedy="Restore the folder as it was at the training, or train again",
        )
