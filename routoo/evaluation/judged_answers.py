"""Judges recorded answers to held-out items, and writes what a cascade decides about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Float64

from routoo.domain.completion import RecordedAnswer
from routoo.domain.items import Item
from routoo.domain.prediction import Predictions
from routoo.errors import InputError
from routoo.evaluation.cascade import CascadeKnowledge, PairKnowledge, ProbeKnowledge, decide
from routoo.evaluation.cascade_report import CascadeReport, compare_policies
from routoo.evaluation.routing import priced_columns
from routoo.evaluation.scorecard import EvaluationData
from routoo.files import replacing
from routoo.judge.agreement import is_open
from routoo.judge.judge import AnswerJudge, ProbeAnswer
from routoo.judge.outcomes import ExpectedJudgements
from routoo.judge.pair_judge import is_worth_comparing
from routoo.ports import Feedback
from routoo.predictor.predictor import CheckpointPredictor
from routoo.statistics import log_budgets

_UNDECIDED = 0.5
"""Stands where there is no answer to judge."""


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
    pairs = [
        reader.pair(probes.index(first), first, by_model[first], second, by_model[second])
        for first, second in compared_pairs(judge, probes, pool, cost_usd)
    ]
    quality = asked.estimates.quality[:, judge.columns(pool)]
    return CascadeKnowledge(quality, cost_usd, tuple(known), tuple(pairs))


def compared_pairs(
    judge: AnswerJudge,
    probes: Sequence[str],
    pool: Sequence[str],
    cost_usd: Float64[np.ndarray, " models"],
) -> list[tuple[str, str]]:
    """Return which probes' answers are worth comparing with which others'."""
    found = []
    for first, second in judge.pairs:
        if first in probes and second in probes:
            others = [
                cost
                for name, cost in zip(pool, cost_usd, strict=True)
                if name not in {first, second}
            ]
            own = float(cost_usd[list(pool).index(second)])
            if others and is_worth_comparing(own, float(max(others))):
                found.append((first, second))
    return found


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
        self._whole: dict[str, Float32[np.ndarray, "items models"]] = {}

    def probe(self, probe: str, answers: Sequence[RecordedAnswer]) -> ProbeKnowledge:
        """Return what is known of one model's answers."""
        given = [answer for answer in answers if answer.item_id in self._row]
        rows = np.array([self._row[answer.item_id] for answer in given], np.int64)
        answered = np.zeros(len(self._items), np.bool_)
        answered[rows] = True
        whole = np.full(self._quality.shape, _UNDECIDED, np.float32)
        read = [self._answer(probe, answer) for answer in given]
        whole[rows] = self._judge.judge(probe, read)
        self._whole[probe] = whole
        judged = whole[:, self._columns]
        expected = self._judge.expected_judgements(probe, self._quality)
        of_pool = ExpectedJudgements(expected.chance, expected.quality[:, :, self._columns])
        return ProbeKnowledge(self._pool.index(probe), answered, of_pool, judged)

    def pair(
        self,
        number: int,
        first: str,
        first_answers: Sequence[RecordedAnswer],
        second: str,
        second_answers: Sequence[RecordedAnswer],
    ) -> PairKnowledge:
        """Return what is known of asking a second model after a probe that was judged.

        Args:
            number: Of the probe.
            first: Its model.
            first_answers: Of it.
            second: The other model.
            second_answers: Of it.
        """
        ones = {answer.item_id: answer for answer in first_answers}
        both = [
            (ones[other.item_id], other)
            for other in second_answers
            if other.item_id in ones and other.item_id in self._row
            if is_open(self._items[self._row[other.item_id]].prompt)
        ]
        rows = np.array([self._row[one.item_id] for one, _ in both], np.int64)
        answered = np.zeros(len(self._items), np.bool_)
        answered[rows] = True
        judged = np.full((len(self._items), len(self._pool)), _UNDECIDED, np.float32)
        read = [(self._answer(first, one), self._answer(second, other)) for one, other in both]
        judged[rows] = self._judge.judge_pair(first, second, read)[:, self._columns]
        before = self._judge.expected_judgements(first, self._quality).quality
        items, outcomes, models = before.shape
        flat = before.reshape(items * outcomes, models)
        expected = self._judge.expected_agreement(first, second, flat)
        after = self._judge.expected_agreement(first, second, self._whole[first])
        return PairKnowledge(
            number,
            self._pool.index(second),
            answered,
            expected.chance.reshape(items, outcomes, -1),
            expected.quality[:, :, self._columns].reshape(items, outcomes, -1, len(self._pool)),
            ExpectedJudgements(after.chance, after.quality[:, :, self._columns]),
            judged,
        )

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
    is the result, the model whose answer is, what the calls cost at the models' mean costs, and the
    model whose answer was compared with the first's, null where none was.
    """
    budgets = log_budgets(known.cost_usd).tolist()
    parts = [_decisions_at(budget, known, items, pool) for budget in budgets]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        pq.write_table(pa.concat_tables(parts), stream, compression="zstd")


def _decisions_at(
    budget_usd: float, known: CascadeKnowledge, items: Sequence[Item], pool: Sequence[str]
) -> pa.Table:
    decided = decide(known, budget_usd)
    second = [pool[column] if column >= 0 else None for column in decided.second]
    return pa.table(
        {
            "budget_usd_per_item": np.full(len(items), budget_usd),
            "item_id": [item.item_id for item in items],
            "first_model": [pool[column] for column in decided.first],
            "accepted": decided.accepted,
            "final_model": [pool[column] for column in decided.final],
            "cost_usd": decided.cost_usd(known.cost_usd),
            "second_model": pa.array(second, pa.string()),
        }
    )


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


@dataclass(frozen=True, slots=True)
class JudgedAnswers:
    """What a checkpoint's judge says of recorded answers to all items."""

    items: tuple[Item, ...]
    models: tuple[str, ...]
    """The pool: models of the outcomes that have costs, in their order."""
    known: CascadeKnowledge
    report: CascadeReport | None
    """None where no item was answered by all models of the pool."""


def judge_by_checkpoint(
    judge: AnswerJudge,
    predictor: CheckpointPredictor,
    data: EvaluationData,
    answers: Sequence[RecordedAnswer],
    feedback: Feedback,
    *,
    seed: int,
) -> JudgedAnswers:
    """Judge recorded answers, and compare probing and deciding with routing by the prompt alone.

    Args:
        judge: Of the checkpoint.
        predictor: Of the same checkpoint.
        data: Held-out outcomes of models that the checkpoint knows.
        answers: Recorded answers.
        feedback: Shows how far it is; told what can't be judged.
        seed: Of the bootstrap.

    Raises:
        InputError: No model has a cost.
    """
    items, columns = data.matrix.items, priced_columns(data.cost_usd)
    pool = tuple(data.matrix.models[column] for column in columns)
    costs = mean_costs(data.cost_usd[:, columns], pool)
    asked = EstimatedItems(items, predictor.predict(data.matrix.prompts, judge.models))
    known = judge_recorded(judge, asked, pool, costs, answers, feedback)
    if not known.probes:
        feedback.note(f"no answers that the checkpoint can judge: {', '.join(judge.probes) or '-'}")
    score = data.matrix.score[:, columns].astype(np.float64)
    rows = np.flatnonzero(~np.isnan(score).any(axis=1))
    report = None
    if len(rows) and len(pool) > 1:
        report = compare_policies(known.take(rows), score[rows], pool, seed)
    return JudgedAnswers(items, pool, known, report)
