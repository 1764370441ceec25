"""Turns outcome tables into matrices, items x models, NaN where a model did not answer an item."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from routoo.domain.items import Item
from routoo.domain.tables import Outcomes
from routoo.errors import InputError

PASSAGE_CHARACTERS = 240
"""A line this long is taken for a passage: questions about the same one stay together."""
PASSAGE_QUESTIONS = 50
"""A line that more prompts share, or all of them, is the template they were written by."""


@dataclass(frozen=True, slots=True)
class OutcomeMatrix:
    """What models scored on items."""

    items: tuple[Item, ...]
    models: tuple[str, ...]
    score: Float32[np.ndarray, "items models"]
    """In [0, 1]; NaN where the model did not answer the item."""
    completion_tokens: Float32[np.ndarray, "items models"]
    """Length of the answer in tokens; NaN where not known."""

    @property
    def prompts(self) -> list[str]:
        """The items' texts."""
        return [item.prompt for item in self.items]

    def take(self, rows: Int64[np.ndarray, " rows"]) -> "OutcomeMatrix":
        """Return the items at these positions."""
        return OutcomeMatrix(
            tuple(self.items[row] for row in rows),
            self.models,
            self.score[rows],
            self.completion_tokens[rows],
        )


def outcome_matrix(
    items: Sequence[Item], outcomes: Outcomes, models: Sequence[str] | None = None
) -> OutcomeMatrix:
    """Join items and outcomes; items without any outcome are left out.

    Args:
        items: Questions.
        outcomes: Rows of (item, model); where a pair comes twice, the later row counts.
        models: Which models, in which order; None for all, by name.

    Raises:
        InputError: An outcome's item is missing, or a named model has no outcomes.
    """
    present = set(outcomes.models)
    names = tuple(sorted(present)) if models is None else tuple(dict.fromkeys(models))
    absent = [name for name in names if name not in present]
    if absent or not names:
        raise InputError(
            "there are no outcomes of a model",
            value=absent[:5] or None,
            remedy=f"The table has {', '.join(sorted(present)[:50]) or 'no graded answers at all'}",
        )
    return _filled(items, outcomes, names)


def _filled(items: Sequence[Item], outcomes: Outcomes, names: tuple[str, ...]) -> OutcomeMatrix:
    column = {name: position for position, name in enumerate(names)}
    row = {item.item_id: position for position, item in enumerate(items)}
    unknown = next((key for key in outcomes.item_ids if key not in row), None)
    if unknown is not None:
        raise InputError(
            "an outcome's item is not in the items",
            value=unknown,
            remedy="Name the items table that belongs to the outcomes",
        )
    wanted = [number for number, name in enumerate(outcomes.models) if name in column]
    rows = [row[outcomes.item_ids[number]] for number in wanted]
    columns = [column[outcomes.models[number]] for number in wanted]
    score = np.full((len(items), len(names)), np.nan, np.float32)
    tokens = np.full((len(items), len(names)), np.nan, np.float32)
    score[rows, columns] = outcomes.score[wanted]
    tokens[rows, columns] = outcomes.completion_tokens[wanted]
    answered = np.flatnonzero(~np.isnan(score).all(axis=1))
    return OutcomeMatrix(tuple(items), names, score, tokens).take(answered)


def text_groups(prompts: Sequence[str]) -> Int64[np.ndarray, " prompts"]:
    """Number the prompts so that equal questions, and questions on one passage, share a number.

    Sharing lets a split keep them on one side: otherwise held-out figures are too good.
    """
    folded = [re.sub(r"[^\S\n]+", " ", text.strip().lower()) for text in prompts]
    passages = [[line for line in text.split("\n") if _is_long(line)] for text in folded]
    shared = Counter(line for lines in passages for line in set(lines))
    most = min(PASSAGE_QUESTIONS, max(len(prompts) - 1, 1))
    numbers: dict[str, int] = {}
    signatures = (
        max((line for line in lines if shared[line] <= most), key=len, default=text)
        for text, lines in zip(folded, passages, strict=True)
    )
    return np.array([numbers.setdefault(one, len(numbers)) for one in signatures], int)


def _is_long(line: str) -> bool:
    return len(line) >= PASSAGE_CHARACTERS


def grouped_folds(
    groups: Int64[np.ndarray, " items"], count: int, seed: int
) -> Int64[np.ndarray, " items"]:
    """Deal groups into folds of nearly equal size.

    Args:
        groups: Group number of each item.
        count: Number of folds, at least 2.
        seed: Another seed deals anew; the same seed and groups always deal alike.

    Returns:
        Fold number of each item.
    """
    generator = np.random.default_rng(seed)
    sizes = np.bincount(groups)
    folds = np.zeros(len(sizes), np.int64)
    filled = np.zeros(count, np.int64)
    for group in generator.permutation(len(sizes)):
        folds[group] = filled.argmin()
        filled[folds[group]] += sizes[group]
    return np.asarray(folds[groups])


def content_sha256(matrix: OutcomeMatrix) -> str:
    """Return a hash over texts, models, scores and tokens: it identifies the data of a fit."""
    digest = hashlib.sha256()
    for text in (*matrix.models, *matrix.prompts):
        digest.update(text.encode("utf-8", errors="surrogatepass") + b"\0")
    digest.update(np.ascontiguousarray(matrix.score).tobytes())
    digest.update(np.ascontiguousarray(matrix.completion_tokens).tobytes())
    return digest.hexdigest()
