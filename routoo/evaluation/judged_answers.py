"""Judges recorded answers to held-out items, and writes what a cascade decides about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64

from routoo.domain.answer import RecordedAnswer
from routoo.domain.items import Item
from routoo.domain.prediction import Predictions
from routoo.errors import InputError
from routoo.evaluation.cascade import CascadeKnowledge, ProbeKnowledge, decide
from routoo.files import replacing
from routoo.judge.judge import AnswerJudge, ProbeAnswer
from routoo.judge.outcomes import ExpectedJudgements
from routoo.ports import Feedback
from routoo.statistics import log_budgets


@dataclass(frozen=True, slots=True)
class EstimatedItems:
    """Items with what a checkpoint expects of all its models on them."""

    items: tuple[Item, ...]
    estimates: Predictions


def judge_recorded(
    judge: AnswerJudge,
    asked: EstimatedItems,
    pool: Sequence[str],
    cost_usd: Float64[np.ndarray, " models"],
    answers: Sequence[RecordedAnswer],
    feedback: Feedback,
) -> CascadeKnowledge:
    """Return what a cascade may know of items.

    Args:
        judge: Of the checkpoint.
        asked: The items, with estimates of the judge's models.
        pool: Candidate models, in order.
        cost_usd: Mean cost of a call of each.
        answers: Recorded ones; models of the pool that have some may be probes.
        feedback: Shows how far it is.
    """
    by_model: dict[str, list[RecordedAnswer]] = {}
    for answer in answers:
        by_model.setdefault(answer.model, []).append(answer)
    probes = [name for name in pool if name in judge.probes and name in by_model]
    reader = _Reader(judge, asked, pool)
    known = []
    with feedback.progress_bar("Judging answers", len(probes)) as progress:
        for probe in probes:
            known.append(reader.probe(probe, by_model[probe]))
            progress(1)
    quality = asked.estimates.quality[:, judge.columns(pool)]
    return CascadeKnowledge(quality, cost_usd, tuple(known))


class _Reader:
    """Judges the answers of one probe after the other."""

    def __init__(self, judge: AnswerJudge, asked: EstimatedItems, pool: Sequence[str]) -> None:
        self._judge, self._items, self._tokens = (
            judge,
            asked.items,
            asked.estimates.completion_tokens,
        )
        self._columns, self._pool = judge.columns(pool), tuple(pool)
        # A batch knows estimates of its pool alone: what is measured here is what it would do.
        self._quality = judge.spread(pool, asked.estimates.quality[:, self._columns])
        self._row = {item.item_id: row for row, item in enumerate(asked.items)}

    def probe(self, probe: str, answers: Sequence[RecordedAnswer]) -> ProbeKnowledge:
        """Return what is known of one model's answers."""
        given = [answer for answer in answers if answer.item_id in self._row]
        rows = np.array([self._row[answer.item_id] for answer in given], np.int64)
        answered = np.zeros(len(self._items), np.bool_)
        answered[rows] = True
        judged = np.zeros((len(self._items), len(self._pool)), np.float32)
        read = [self._answer(probe, answer) for answer in given]
        judged[rows] = self._judge.judge(probe, read)[:, self._columns]
        expected = self._judge.expected_judgements(probe, self._quality)
        of_pool = ExpectedJudgements(expected.chance, expected.quality[:, :, self._columns])
        return ProbeKnowledge(self._pool.index(probe), answered, of_pool, judged)

    def _answer(self, probe: str, answer: RecordedAnswer) -> ProbeAnswer:
        row = self._row[answer.item_id]
        column = self._judge.models.index(probe)
        return ProbeAnswer(
            self._items[row].prompt,
            answer.text,
            self._quality[row],
            float(self._tokens[row, column]),
            answer.finish_reason,
            answer.token_probabilities,
        )


def write_decisions(
    path: Path, known: CascadeKnowledge, items: Sequence[Item], pool: Sequence[str]
) -> None:
    """Write what is decided for each item at 25 budgets, from the cheapest model to the dearest.

    A row has the mean budget an item, the item, the model that is called first, whether its answer
    is the result, the model whose answer is, and what the calls cost at the models' mean costs.
    """
    parts = []
    for budget in log_budgets(known.cost_usd).tolist():
        decided = decide(known, budget)
        cost = decided.cost_usd(known.cost_usd)
        columns = {
            "budget_usd_per_item": np.full(len(items), budget),
            "item_id": [item.item_id for item in items],
            "first_model": [pool[column] for column in decided.first],
            "accepted": decided.accepted,
            "final_model": [pool[column] for column in decided.final],
            "cost_usd": cost,
        }
        parts.append(pa.table(columns))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        pq.write_table(pa.concat_tables(parts), stream, compression="zstd")


def mean_costs(
    costs: Float64[np.ndarray, "items models"], models: Sequence[str]
) -> Float64[np.ndarray, " models"]:
    """Return the mean cost of a call of each model.

    Raises:
        InputError: A model has none.
    """
    missing = [
        name for name, known in zip(models, ~np.isnan(costs).all(axis=0), strict=True) if not known
    ]
    if missing:
        raise InputError(
            "a model has no known cost",
            value=", ".join(missing[:5]),
            remedy="Name models with --model whose outcomes have cost_usd",
        )
    return np.asarray(np.nanmean(costs, axis=0))
