"""Loads what was graded: an evaluation run as arrays, all graded answers as outcome tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import orjson
from psycopg import AsyncConnection

from routoo.domain.completion import RecordedAnswer, TokenProbabilities
from routoo.domain.items import Item
from routoo.domain.pool import Pool
from routoo.domain.prompt import prompt_text, text_sha256
from routoo.domain.tables import Outcomes, OutcomeTables
from routoo.evaluation.evaluation_run import NO_MODEL, EvaluationRun, RunFacts, RunMode
from routoo.pipeline.select.matrix import BatchMatrix, load_matrix
from routoo.store import batches, predictions, schedules
from routoo.store.batches.records import BatchRecord
from routoo.store.evaluation import eval_runs, eval_sets, grades
from routoo.store.evaluation.eval_runs import RunRecord, RunResult
from routoo.store.evaluation.grades import ScoredAnswer


async def load_run(conn: AsyncConnection, run_id: UUID) -> EvaluationRun:
    """Load a run, whether it is graded yet or not.

    Args:
        conn: A transaction, so that all parts come from one snapshot.
        run_id: The run.

    Raises:
        NotFoundError: There is no such run.
        StoreError: Its jobs are not all scored yet.
    """
    run = await eval_runs.get(conn, run_id)
    batch = await batches.get(conn, run.batch_id)
    items = await eval_sets.load_items(conn, run.eval_set_id)
    matrix = await load_matrix(conn, batch)
    found = await eval_runs.load_results(conn, run.batch_id)
    sample = await _load_sample(conn, run, matrix.quality.shape)
    return EvaluationRun(
        facts=await _facts(conn, run, batch),
        models=batch.pool.names,
        item_ids=tuple(item.item_id for item in items),
        prompts=tuple(item.prompt for item in items),
        domains=tuple(item.subject or item.dataset or "" for item in items),
        predicted_quality=matrix.quality,
        expected_cost_usd=_expected_cost(matrix, batch.pool, found),
        novelty=(await predictions.load_batch(conn, run.batch_id)).novelty,
        chosen=_positions(batch.pool, [row.chosen for row in found]),
        answered_by=_positions(
            batch.pool, [row.model if row.answer is not None else None for row in found]
        ),
        answer_sha256=tuple(row.answer_sha256 for row in found),
        quality=np.array([_quality(row) for row in found], np.float32),
        cost_usd=np.array([row.cost_usd or 0.0 for row in found], np.float64),
        latency_s=np.array([_or_nan(row.latency_s) for row in found], np.float32),
        sample_quality=sample[0].astype(np.float32),
        sample_cost_usd=sample[1],
        sample_latency_s=sample[2].astype(np.float32),
        decisions=tuple(row.decision if row.answer is not None else None for row in found),
        judged_quality=np.array([_or_nan(row.judged_quality) for row in found], np.float32),
        planned_cost_usd=np.array([_or_nan(row.expected_cost_usd) for row in found], np.float64),
        planned=batch.plan or {},
    )


async def _load_sample(conn: AsyncConnection, run: RunRecord, shape: tuple[int, ...]) -> np.ndarray:
    """Return quality, cost and latency of the sample's answers; NaN where there is none."""
    sample = np.full((3, *shape), np.nan)
    if run.sample_batch_id is not None:
        _fill_sample(sample, run, await eval_runs.load_results(conn, run.sample_batch_id))
    return sample


async def _facts(conn: AsyncConnection, run: RunRecord, batch: BatchRecord) -> RunFacts:
    eval_set = await eval_sets.get(conn, run.eval_set_id)
    schedule = None
    if run.schedule_id is not None:
        schedule = (await schedules.get(conn, run.schedule_id)).name
    return RunFacts(
        run_id=run.id,
        name=batch.name,
        batch_id=run.batch_id,
        sample_batch_id=run.sample_batch_id,
        eval_set=eval_set.name,
        content_sha256=eval_set.content_sha256,
        mode=RunMode(run.mode),
        recorded=run.recorded,
        schedule=schedule,
        checkpoint_sha256=run.checkpoint_sha256,
        budget_usd=batch.budget_usd,
        goal=batch.objective.goal,
        created_at=run.created_at,
        finished_at=run.finished_at,
    )


def _expected_cost(matrix: BatchMatrix, pool: Pool, found: list[RunResult]) -> np.ndarray:
    """Return estimated costs of one call; for models chosen directly they are the plan's own.

    What a plan expects of a probe is the cost of all calls, and so not that of one.
    """
    costs = matrix.cost_usd.copy()
    for row in found:
        if row.chosen is not None and not row.probe and row.expected_cost_usd is not None:
            costs[row.job_no, pool.index(row.chosen)] = row.expected_cost_usd
    return costs


def _fill_sample(sample: np.ndarray, run: RunRecord, found: list[RunResult]) -> None:
    """Fill in the results of the sample's jobs, which are ordered by item and then by model."""
    models = sample.shape[2]
    for row in found:
        if row.status is None:
            continue
        cell = run.sample_items[row.job_no // models], row.job_no % models
        # A failed job measures the model's quality as 0; a job that was refused measures nothing.
        known = row.graded or row.status == "failed"
        sample[0][cell] = _quality(row) if known else np.nan
        sample[1][cell] = row.cost_usd
        sample[2][cell] = _or_nan(row.latency_s)


def _quality(row: RunResult) -> float:
    if row.answer is None and row.status is not None:
        return 0.0
    return _or_nan(row.score if row.graded else None)


def _positions(pool: Pool, names: list[str | None]) -> np.ndarray:
    column = {name: number for number, name in enumerate(pool.names)}
    return np.array([column.get(name or "", NO_MODEL) for name in names], np.int64)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


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
    answers = tuple(one for one in tables.answers if one.item_id in known)
    left = OutcomeTables(tuple(kept), tables.outcomes.select(keep), answers)
    return left, len(tables.items) - len(kept)


def join_tables(tables: Sequence[OutcomeTables]) -> OutcomeTables:
    """Concatenate tables; of an item that is in several of them the first counts."""
    items: dict[str, Item] = {}
    for one in tables:
        for item in one.items:
            items.setdefault(item.item_id, item)
    return OutcomeTables(
        tuple(items.values()),
        Outcomes.joined([one.outcomes for one in tables]),
        tuple(answer for one in tables for answer in one.answers),
    )


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
        tuple(_recorded_answer(key, model, row) for key, model, row in found),
    )


def _recorded_answer(item_id: str, model: str, row: ScoredAnswer) -> RecordedAnswer:
    summary = TokenProbabilities.of_figures(row.token_probabilities)
    return RecordedAnswer(item_id, model, row.text, row.finish_reason, summary)


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float32)
