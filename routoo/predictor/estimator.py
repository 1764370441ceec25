"""The fitted part of a predictor: from features to calibrated estimates."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float32

from routoo.predictor.calibration import Platt
from routoo.predictor.linear import Linear
from routoo.predictor.logistic import sigmoid
from routoo.predictor.memory import Memory
from routoo.predictor.standardise import Standardiser


@dataclass(frozen=True, slots=True)
class Estimates:
    """What an estimator says of prompts, models in its own order."""

    quality: Float32[np.ndarray, "prompts models"]
    quality_std: Float32[np.ndarray, "prompts models"]
    completion_tokens: Float32[np.ndarray, "prompts models"]
    novelty: Float32[np.ndarray, " prompts"]


@dataclass(frozen=True, slots=True)
class Estimator:
    """Linear views, one a fold, their calibration, the token head and the memory."""

    standardiser: Standardiser
    members: tuple[Linear, ...]
    platt: Platt
    tokens: Linear
    memory: Memory

    def __call__(self, features: Float32[np.ndarray, "prompts features"]) -> Estimates:
        """Estimate quality, its deviation, tokens and novelty."""
        scaled = self.standardiser.apply(features)
        logits = np.stack([member(scaled) for member in self.members])
        quality = self.platt(logits.mean(axis=0))
        spread = sigmoid(logits * self.platt.slope + self.platt.shift)
        count = len(self.members)
        # Delete-a-group jackknife (Shao and Tu 1995, section 2.3): members share most of their
        # data, so their plain spread is too small by (count - 1).
        deviation = np.sqrt((count - 1) * spread.var(axis=0))
        length = np.exp(np.clip(self.tokens(scaled), 0, 12))
        return Estimates(quality, deviation.astype(np.float32), length, self.memory.novelty(scaled))

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps, named by part."""
        parts: dict[str, Mapping[str, np.ndarray]] = {
            "standardiser": self.standardiser.tensors(),
            "platt": self.platt.tensors(),
            "tokens": self.tokens.tensors(),
            "memory": self.memory.tensors(),
        }
        parts |= {f"member{n}": member.tensors() for n, member in enumerate(self.members)}
        return {f"{part}.{key}": a for part, arrays in parts.items() for key, a in arrays.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Read the arrays back."""
        count = sum(1 for key in tensors if key.startswith("member") and key.endswith(".bias"))
        return cls(
            Standardiser.from_tensors(_part(tensors, "standardiser")),
            tuple(Linear.from_tensors(_part(tensors, f"member{n}")) for n in range(count)),
            Platt.from_tensors(_part(tensors, "platt")),
            Linear.from_tensors(_part(tensors, "tokens")),
            Memory.from_tensors(_part(tensors, "memory")),
        )


def _part(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    keys: Iterable[str] = (key for key in tensors if key.startswith(f"{name}."))
    return {key.removeprefix(f"{name}."): tensors[key] for key in keys}
