"""The fitted part of a predictor: from features to calibrated estimates."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32

from routoo.predictor.calibration import Calibration
from routoo.predictor.logistic import logit, sigmoid
from routoo.predictor.member import Member
from routoo.predictor.neighbours import Neighbours
from routoo.predictor.novelty import Novelty
from routoo.predictor.projection import Projection
from routoo.predictor.stack import Stack
from routoo.predictor.tokens import TokenHead


@dataclass(frozen=True, slots=True)
class Estimates:
    """What an estimator says of prompts, models in its own order."""

    quality: Float32[np.ndarray, "prompts models"]
    quality_std: Float32[np.ndarray, "prompts models"]
    completion_tokens: Float32[np.ndarray, "prompts models"]
    novelty: Float32[np.ndarray, " prompts"]


@dataclass(frozen=True, slots=True)
class Estimator:
    """Members of the ensemble, what mixes and calibrates them, and the heads beside."""

    projection: Projection
    landmarks: Float16[np.ndarray, "landmarks projected"]
    members: tuple[Member, ...]
    neighbours: Neighbours
    stack: Stack
    calibration: Calibration
    tokens: TokenHead
    novelty: Novelty

    def __call__(self, features: Float32[np.ndarray, "prompts features"]) -> Estimates:
        """Estimate quality, its deviation, tokens and novelty."""
        inputs = self.projection.apply(features)
        nearby = self.neighbours.nearby(inputs[:, : self.projection.width])
        around = self.neighbours.logits(nearby)[None]
        votes = [self.stack(np.concatenate([member(inputs), around])) for member in self.members]
        trust = self.novelty.trust(nearby.similarity)[:, None]
        level = logit(self.neighbours.means)
        informed = logit(self.calibration(np.mean(votes, axis=0)))
        quality = sigmoid(level + trust * (informed - level))
        return Estimates(
            quality,
            self._deviation(votes, trust),
            self.tokens(inputs),
            self.novelty(nearby.similarity),
        )

    def _deviation(
        self,
        votes: list[Float32[np.ndarray, "prompts models"]],
        trust: Float32[np.ndarray, "prompts 1"],
    ) -> Float32[np.ndarray, "prompts models"]:
        """Return the delete-a-group jackknife's deviation (Shao and Tu 1995, section 2.3).

        Members share most of their data, so their plain spread is too small by (members - 1).
        Where an estimate is not trusted, the spread of scores itself is what is left.
        """
        qualities = np.stack([self.calibration(vote) for vote in votes])
        jackknife = (len(votes) - 1) * qualities.var(axis=0)
        means = self.neighbours.means
        prior = means * (1 - means)
        return np.asarray(np.sqrt(trust * jackknife + (1 - trust) * prior), np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps, named by part."""
        parts: dict[str, Mapping[str, np.ndarray]] = {
            "projection": self.projection.tensors(),
            "neighbours": self.neighbours.tensors(),
            "stack": self.stack.tensors(),
            "calibration": self.calibration.tensors(),
            "tokens": self.tokens.tensors(),
            "novelty": self.novelty.tensors(),
        }
        parts |= {f"member{n}": member.tensors() for n, member in enumerate(self.members)}
        named = {f"{part}.{key}": a for part, arrays in parts.items() for key, a in arrays.items()}
        return {**named, "landmarks": self.landmarks}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Estimator":
        """Read the arrays back."""
        count = len({key.split(".")[0] for key in tensors if key.startswith("member")})
        landmarks = tensors["landmarks"]
        members = (_part(tensors, f"member{n}") for n in range(count))
        return cls(
            Projection.from_tensors(_part(tensors, "projection")),
            landmarks,
            tuple(Member.from_tensors(arrays, landmarks) for arrays in members),
            Neighbours.from_tensors(_part(tensors, "neighbours")),
            Stack.from_tensors(_part(tensors, "stack")),
            Calibration.from_tensors(_part(tensors, "calibration")),
            TokenHead.from_tensors(_part(tensors, "tokens")),
            Novelty.from_tensors(_part(tensors, "novelty")),
        )


def _part(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): a for key, a in tensors.items() if key.startswith(prefix)}
