"""What a pool says of a model that nobody has graded yet: what it is like, its size, its scores."""

import difflib
import json
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from routoo.domain.endpoint import PoolRecord

GENERAL_CHECKPOINT = Path(__file__).resolve().parents[1] / "general_checkpoint"
"""Folder of the checkpoint that comes with the package: it places models that it was not trained
on by their priors."""
REFERENCE_MODELS = "reference_models"
"""Key of a general checkpoint's settings: names of the models that it can compare others with."""
BENCHMARKS = ("mmlu_redux", "mmlu_pro", "gsm8k", "math_level_5", "cruxeval", "bfcl")
"""Public benchmarks whose scores place a model."""

_DATE = re.compile(r"-(20\d\d-\d\d-\d\d|20\d{6})$")
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class ModelPrior(PoolRecord):
    """Public facts that place a model before any of its answers is graded."""

    like: Annotated[str, Field(min_length=1)] | None = None
    """A reference model that it resembles: an earlier version, or one of its family and size."""
    parameters_b: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Size in billions of parameters; all of them, not only the active ones."""
    mmlu_redux: Share | None = None
    """Share of right answers of MMLU-Redux, or of MMLU."""
    mmlu_pro: Share | None = None
    """The same of MMLU-Pro, with reasoning in steps."""
    gsm8k: Share | None = None
    """The same of GSM8K."""
    math_level_5: Share | None = None
    """The same of the hardest level of MATH."""
    cruxeval: Share | None = None
    """The same of CRUXEval's output prediction."""
    bfcl: Share | None = None
    """The same of the Berkeley Function-Calling Leaderboard, version 1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.facts
        if self.like is None and not given:
            msg = f"a prior needs one of {', '.join(type(self).model_fields)}"
            raise ValueError(msg)
        if self.like is not None and given:
            msg = f"like stands alone: a prior has it, or {', '.join(given)}"
            raise ValueError(msg)
        return self

    @property
    def facts(self) -> dict[str, float]:
        """The scores and the size that are given, by name."""
        values = {name: getattr(self, name) for name in ("parameters_b", *BENCHMARKS)}
        return {name: float(value) for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        """Return the prior in words."""
        if self.like is not None:
            return f"like {self.like}"
        return ", ".join(f"{name} {value:g}" for name, value in self.facts.items())


@cache
def reference_models() -> tuple[str, ...]:
    """Return the names of the general checkpoint's reference models; empty where it isn't there."""
    try:
        manifest = json.loads((GENERAL_CHECKPOINT / "manifest.json").read_text(encoding="utf-8"))
        return tuple(manifest["settings"][REFERENCE_MODELS])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def find_reference(name: str, known: tuple[str, ...]) -> str | None:
    """Return the reference model of a name, however it is written; None where there is none.

    A name without a date is that of the latest one.
    """
    by_name = {_folded(_DATE.sub("", one)): one for one in sorted(known)}
    by_name |= {_folded(one): one for one in known}
    return by_name.get(_folded(name))


def nearest_references(name: str, known: tuple[str, ...]) -> list[str]:
    """Return all reference models, those that are written most alike first."""
    by_name = {_folded(one): one for one in known}
    near = difflib.get_close_matches(_folded(name), list(by_name), n=5, cutoff=0.4)
    first = [by_name[one] for one in near]
    return [*first, *(one for one in sorted(known) if one not in first)]


def _folded(name: str) -> str:
    bare = name.rpartition("/")[2].lower()
    return "".join(character for character in bare if character.isalnum())
