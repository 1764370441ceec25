"""Reads outcome tables as items x models, to choose a pool from."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from routoo.domain.tables import Outcomes
from routoo.errors import InputError


@dataclass(frozen=True, slots=True)
class AnswerTable:
    """Scores, costs and tokens of each model on each item; NaN where not known."""

    models: tuple[str, ...]
    """By name, so that the order of the rows decides nothing."""
    score: Float64[np.ndarray, "items models"]
    cost_usd: Float64[np.ndarray, "items models"]
    prompt_tokens: Float64[np.ndarray, "items models"]
    completion_tokens: Float64[np.ndarray, "items models"]

    def without(self, models: Collection[str]) -> "AnswerTable":
        """Leave some models out.

        Raises:
            InputError: One of them is not here, or none is left.
        """
        strange = sorted(set(models) - set(self.models))
        kept = [at for at, name in enumerate(self.models) if name not in models]
        if strange or not kept:
            known = ", ".join(self.models)
            raise InputError(f"the candidates are {known}", value=strange or list(models))
        return AnswerTable(
            tuple(self.models[at] for at in kept),
            self.score[:, kept],
            self.cost_usd[:, kept],
            self.prompt_tokens[:, kept],
            self.completion_tokens[:, kept],
        )

    @classmethod
    def of(cls, outcomes: Outcomes, item_ids: Sequence[str]) -> "AnswerTable":
        """Arrange outcomes; those of other items are left out.

        Raises:
            InputError: No outcome belongs to an item, or a pair comes twice.
        """
        models = tuple(sorted(set(outcomes.models)))
        column_of = {name: at for at, name in enumerate(models)}
        row = {item: at for at, item in enumerate(item_ids)}
        rows = np.array([row.get(item, -1) for item in outcomes.item_ids], dtype=np.int64)
        columns = np.array([column_of[name] for name in outcomes.models], dtype=np.int64)
        kept = rows >= 0
        if not kept.any():
            raise InputError("no outcome belongs to an item", remedy="Give tables that fit")
        flat = rows[kept] * len(models) + columns[kept]
        if len(np.unique(flat)) < len(flat):
            raise InputError("an item and a model come twice in the outcomes")
        numbers = (
            outcomes.score,
            outcomes.cost_usd,
            outcomes.prompt_tokens,
            outcomes.completion_tokens,
        )
        shape = (len(item_ids), len(models))
        return cls(models, *(_spread(values[kept], flat, shape) for values in numbers))


def _spread(
    values: Float[np.ndarray, " rows"], flat: np.ndarray, shape: tuple[int, int]
) -> Float64[np.ndarray, "items models"]:
    table = np.full(shape, np.nan)
    table.flat[flat] = values
    return table
