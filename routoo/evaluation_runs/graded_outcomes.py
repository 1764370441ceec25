"""Exports graded answers as outcome tables, and keeps evaluation items out of training data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from psycopg import AsyncConnection

from routoo.domain.items import Item
from routoo.domain.prompt import prompt_text, text_sha256
from routoo.domain.tables import Outcomes, OutcomeTables
from routoo.store.evaluation import eval_sets, grades
from routoo.store.evaluation.grades import ScoredAnswer


@dataclass(frozen=True, slots=True)
class GradedOutcomes:
    """All graded answers, those to evaluation items in tables of their own."""

    training: OutcomeTables
    evaluation: OutcomeTables


async def load_graded_outcomes(conn: AsyncConnection) -> GradedOutcomes:
    """Load the graded answers of all batches as tables.

    An item's id is the hash of its prompt's words, so that the same question in two batches is one
    item; of several answers of a model to it the latest counts. A question that is part of any
    version of an evaluation set is an evaluation item, also where a user sent it.

    Args:
        conn: A transaction.
    """
    items: dict[str, Item] = {}
    rows: dict[tuple[str, str], ScoredAnswer] = {}
    async for answer in grades.iterate_graded(conn):
        prompt = prompt_text(orjson.loads(answer.body_json))
        key = text_sha256(prompt)
        items[key] = Item(key, prompt, dataset=answer.source, subject=answer.subject)
        rows[key, answer.model] = answer
    held_out = await eval_sets.held_out(conn, list(items))
    return GradedOutcomes(
        training=_tables(items, rows, lambda key: key not in held_out),
        evaluation=_tables(items, rows, lambda key: key in held_out),
    )


async def without_evaluation_items(
    conn: AsyncConnection, tables: OutcomeTables
) -> tuple[OutcomeTables, int]:
    """Remove the items of evaluation sets from tables that were read from files.

    Returns:
        The tables that may be trained on, and how many items were removed.
    """
    hashes = {item.item_id: text_sha256(item.prompt) for item in tables.items}
    held_out = await eval_sets.held_out(conn, list(hashes.values()))
    kept = [item for item in tables.items if hashes[item.item_id] not in held_out]
    known = {item.item_id for item in kept}
    keep = np.array([item_id in known for item_id in tables.outcomes.item_ids], np.bool_)
    left = OutcomeTables(tuple(kept), tables.outcomes.select(keep))
    return left, len(tables.items) - len(kept)


def join_tables(tables: Sequence[OutcomeTables]) -> OutcomeTables:
    """Concatenate tables; of an item that is in several of them the first counts."""
    items: dict[str, Item] = {}
    for one in tables:
        for item in one.items:
            items.setdefault(item.item_id, item)
    return OutcomeTables(tuple(items.values()), Outcomes.joined([one.outcomes for one in tables]))


def _tables(
    items: dict[str, Item],
    rows: dict[tuple[str, str], ScoredAnswer],
    wanted: Callable[[str], bool],
) -> OutcomeTables:
    found = [(key, model, row) for (key, model), row in rows.items() if wanted(key)]
    return OutcomeTables(
        tuple(item for key, item in items.items() if wanted(key)),
        Outcomes(
            [key for key, _, _ in found],
            [model for _, model, _ in found],
            np.array([row.score for _, _, row in found], np.float32),
            _numbers([row.prompt_tokens for _, _, row in found]),
            _numbers([row.completion_tokens for _, _, row in found]),
            np.array([row.cost_usd for _, _, row in found], np.float64),
            _numbers([row.latency_s for _, _, row in found]),
        ),
    )


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float32)
