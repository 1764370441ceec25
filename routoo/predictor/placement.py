"""Places candidate models that a checkpoint was not trained on, by what their pool says of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from scipy.special import expit

from routoo.domain.model_prior import REFERENCE_MODELS, find_reference
from routoo.domain.pool import CandidateModel
from routoo.errors import CheckpointError
from routoo.predictor.added_models import Posterior
from routoo.predictor.manifest import WEIGHTS_FILE, Manifest, read_manifest
from routoo.predictor.reference_models import Placement, ReferenceModels

_NORMAL_95 = 1.96
GRADED_ANSWERS = 50
"""Answers a model after which the remaining doubt is told."""


@dataclass(frozen=True, slots=True)
class ModelLevel:
    """How well a model is expected to do on the mean prompt, with its 95 % interval."""

    quality: float
    low: float
    high: float

    @classmethod
    def of(cls, belief: Posterior) -> "ModelLevel":
        """Return the level of a model's vector."""
        deviation = float(np.sqrt(max(belief.covariance[0, 0], 0)))
        level = float(belief.theta[0])
        edges = (level, level - _NORMAL_95 * deviation, level + _NORMAL_95 * deviation)
        return cls(*(float(expit(edge)) for edge in edges))


@dataclass(frozen=True, slots=True)
class PlacedModel:
    """A model that was placed by a prior."""

    name: str
    by: str
    """What it was placed by, in words."""
    placement: Placement
    level: ModelLevel
    after_answers: ModelLevel
    """The level that `GRADED_ANSWERS` graded answers are expected to leave, at the same mean."""

    def as_json(self) -> dict[str, Any]:
        """Return what people want to know of it."""
        known: dict[str, Any] = {"model": self.name, "by": self.by}
        for key, level in (("now", self.level), ("after_50_answers", self.after_answers)):
            known[key] = {"quality": level.quality, "low": level.low, "high": level.high}
        return known


@dataclass(frozen=True, slots=True)
class Placer:
    """Places models among a checkpoint's reference models."""

    references: ReferenceModels
    names: tuple[str, ...]
    """Of the reference models, in order."""

    @classmethod
    def of(cls, manifest: Manifest, references: ReferenceModels | None) -> "Placer | None":
        """Return the placer of a checkpoint; None where it has no reference models."""
        if references is None:
            return None
        return cls(references, tuple(manifest.settings[REFERENCE_MODELS]))

    def place(self, models: Sequence[CandidateModel]) -> list[PlacedModel]:
        """Place each distinct model once, in order; a batch channel lies where its model lies."""
        first: dict[str, CandidateModel] = {}
        for model in sorted(models, key=lambda one: one.is_batch_channel):
            first.setdefault(model.predicted_as, model)
        names = dict.fromkeys(model.predicted_as for model in models)
        return [self._place(name, first[name]) for name in names]

    def place_named(self, name: str) -> Placement:
        """Return where a model lies of which only the name is known."""
        known = self._position(name)
        if known is None:
            return self.references.place({})
        return self.references.place_like(known, same=True)

    def _place(self, name: str, model: CandidateModel) -> PlacedModel:
        placement, by = self._placement(model)
        after = self.references.after_answers(placement.prior, GRADED_ANSWERS)
        return PlacedModel(
            name, by, placement, ModelLevel.of(placement.prior), ModelLevel.of(after)
        )

    def _placement(self, model: CandidateModel) -> tuple[Placement, str]:
        prior = model.prior
        if prior is not None and prior.facts:
            return self.references.place(prior.facts), f"its {prior}"
        like = None if prior is None or prior.like is None else self._position(prior.like)
        if like is not None:
            return self.references.place_like(like, same=False), f"{prior} (stated)"
        for name in (model.predicted_as, model.model_at_endpoint):
            known = self._position(name)
            if known is not None:
                placement = self.references.place_like(known, same=True)
                return placement, f"its name: graded tables have {self.names[known]}"
        price = float(model.price_usd_per_mtok.completion)
        if price > 0:
            facts = {"completion_usd_per_mtok": price}
            return self.references.place(facts), f"its price ({price:g} USD/Mtok); no prior stated"
        return self.references.place({}), "nothing: it is free, and no prior is stated"

    def _position(self, name: str) -> int | None:
        found = find_reference(name, self.names)
        return None if found is None else self.names.index(found)


def read_placer(checkpoint: Path) -> Placer | None:
    """Return the placer of a checkpoint without loading the rest of it.

    Raises:
        CheckpointError: The checkpoint can't be read.
    """
    manifest, path = read_manifest(checkpoint), checkpoint / WEIGHTS_FILE
    prefix = "references."
    try:
        with safe_open(str(path), framework="numpy") as weights:
            keys = [key for key in weights.keys() if key.startswith(prefix)]  # noqa: SIM118 - no mapping
            tensors = {key.removeprefix(prefix): weights.get_tensor(key) for key in keys}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "the checkpoint's weights can't be read", where=str(path), value=str(error)
        ) from error
    return Placer.of(manifest, ReferenceModels.from_tensors(tensors))
