"""Reads the tables a predictor is trained on: files, and graded answers of the database."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from routoo.domain.items import Item
from routoo.domain.prompt import bound_text_tokens, estimate_text_tokens
from routoo.domain.tables import (
    Outcomes,
    OutcomeTables,
    read_answers,
    read_items,
    read_outcomes,
    write_items,
    write_outcomes,
)
from routoo.errors import InputError, NotFoundError
from routoo.evaluation.answer_log import write_answers
from routoo.evaluation_runs.load import (
    join_tables,
    load_graded_outcomes,
    without_evaluation_items,
)
from routoo.ports import Feedback
from routoo.store.database import Database

_PRIOR_OUTCOMES = 10
"""Weight of the estimate as it is, in outcomes."""
_HOW_TO_GET_SOME = (
    "Grade batches with `routoo-producer grade`, or run a set that was added with --for-training"
)


def read_tables(
    items: Sequence[Path], outcomes: Sequence[Path], answers: Sequence[Path] = ()
) -> OutcomeTables:
    """Read items, outcomes and recorded answers from files.

    Raises:
        InputError: Items, outcomes or both are missing, or a table can't be read.
    """
    if bool(items) != bool(outcomes):
        raise InputError(
            "items and outcomes go together", remedy="Give both --items and --outcomes"
        )
    if answers and not items:
        raise InputError(
            "there are no items that the answers are to", remedy="Give --items and --outcomes too"
        )
    known = tuple(read_answers(*answers))
    return OutcomeTables(tuple(read_items(*items)), read_outcomes(*outcomes), known)


def prompt_factors(tables: OutcomeTables, models: Sequence[str]) -> dict[str, float]:
    """Return how many prompt tokens each model billed for one that is estimated.

    It is drawn to 1 where outcomes are few. Recorded prompts that have more tokens than an item's
    text has bytes held more than that text, such as examples, and teach nothing.

    Args:
        tables: Items, and outcomes with the tokens that were recorded.
        models: Names of the models.
    """
    bodies = {item.item_id: _body(item) for item in tables.items}
    bounds = {item_id: bound_text_tokens(body) for item_id, body in bodies.items()}
    expected = {item_id: estimate_text_tokens(body) for item_id, body in bodies.items()}
    sums: dict[str, list[float]] = {name: [0.0, 0.0, 0.0] for name in models}
    outcomes = tables.outcomes
    for item_id, model, tokens in zip(
        outcomes.item_ids, outcomes.models, outcomes.prompt_tokens.tolist(), strict=True
    ):
        if model in sums and 0 < tokens <= bounds.get(item_id, 0):
            counts = sums[model]
            counts[0], counts[1] = counts[0] + tokens, counts[1] + expected[item_id]
            counts[2] += 1
    return {name: _drawn_to_one(*counts) for name, counts in sums.items() if counts[2]}


def mean_costs(outcomes: Outcomes) -> dict[str, float]:
    """Return the mean cost of a call of each model that has a known one, in USD."""
    models, costs = np.array(outcomes.models), outcomes.cost_usd
    known = ~np.isnan(costs)
    return {
        str(name): float(costs[known & (models == name)].mean())
        for name in np.unique(models[known])
    }


def _body(item: Item) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": item.prompt}]}


def _drawn_to_one(billed: float, estimated: float, count: float) -> float:
    prior = _PRIOR_OUTCOMES * estimated / count
    return (billed + prior) / (estimated + prior)


async def add_graded_answers(
    database: Database, files: OutcomeTables | None, feedback: Feedback
) -> OutcomeTables:
    """Return tables from files and the database's graded answers, without evaluation items.

    Items of evaluation sets are left out of the files too: a predictor is measured on them.

    Args:
        database: Where batches and runs were graded.
        files: Tables from files; None where there are none.
        feedback: Shows how many items were left out.

    Raises:
        InputError: Nothing is left to train on.
    """
    async with database.transaction() as conn:
        graded = await load_graded_outcomes(conn)
        tables, left_out = graded.training, len(graded.evaluation.items)
        if files is not None:
            kept, taken = await without_evaluation_items(conn, files)
            tables, left_out = join_tables([kept, tables]), left_out + taken
    feedback.note(f"{left_out} evaluation items are kept out of the fit")
    if not tables.items:
        raise InputError("no batch has graded answers to fit on", remedy=_HOW_TO_GET_SOME)
    return tables


async def export_tables(
    database: Database,
    items: Path,
    outcomes: Path,
    answers: Path | None,
    *,
    with_evaluation: bool,
) -> dict[str, int]:
    """Write the database's graded answers as tables of items, outcomes and texts.

    Args:
        database: Where batches and runs were graded.
        items: Items table to write.
        outcomes: Outcomes table to write.
        answers: Table of what was answered, to write; None writes none.
        with_evaluation: Write items of evaluation sets too.

    Returns:
        How many items and outcomes were written, and how many evaluation items were left out.

    Raises:
        NotFoundError: There is nothing that may be written.
    """
    async with database.transaction() as conn:
        graded = await load_graded_outcomes(conn)
    held_out = graded.evaluation
    tables = join_tables([graded.training, held_out]) if with_evaluation else graded.training
    if not tables.items:
        raise NotFoundError(
            "no batch has graded answers that may be written",
            value=f"{len(held_out.items)} evaluation items have some",
            remedy=_HOW_TO_GET_SOME,
        )
    write_items(items, tables.items)
    write_outcomes(outcomes, tables.outcomes)
    if answers is not None:
        write_answers(answers, tables.answers)
    return {
        "items": len(tables.items),
        "outcomes": len(tables.outcomes.item_ids),
        "evaluation_items_left_out": 0 if with_evaluation else len(held_out.items),
    }
