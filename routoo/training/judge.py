"""Fits the judge of answers that a checkpoint keeps: of single answers, and of pairs of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int64

from routoo.domain.completion import RecordedAnswer
from routoo.evaluation.bootstrap import MeanInterval, mean_interval
from routoo.evaluation.quality_metrics import metrics_by_model
from routoo.judge.agreement import Agreement, StatedResult, agreements, is_open
from routoo.judge.fitting import FittedJudge, GradedAnswers, fit_probe_judges
from routoo.judge.hashed_text import HashedTexts, inverse_frequency
from routoo.judge.judge import AnswerJudge, ProbeAnswer, features_of_answer
from routoo.judge.log_odds import log_odds
from routoo.judge.pair_judge import (
    LEAST_ANSWERS,
    JudgedPairs,
    PairJudge,
    fit_pair_judge,
    is_worth_comparing,
)
from routoo.judge.probe_judge import AnswerInputs
from routoo.ports import Feedback
from routoo.predictor.dataset import OutcomeMatrix, grouped_folds, text_groups
from routoo.predictor.scores import log_loss, sigmoid

FOLDS = 5
MIN_ANSWERS = 100
"""With fewer graded answers of a model there is no judge of them."""
MIN_OF_EACH = 10
"""Right answers needed, and wrong ones."""
MOST_SECONDS = 6
"""So many models are tried as the second one of each first model, those that tell the most."""
_RIGHT = 0.5
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class PromptEstimates:
    """What cross-fitted predictions expect of the training items."""

    quality: Float32[np.ndarray, "items models"]
    completion_tokens: Float32[np.ndarray, "items models"]


def fit_judge(
    matrix: OutcomeMatrix,
    estimates: PromptEstimates,
    answers: Sequence[RecordedAnswer],
    feedback: Feedback,
    *,
    seed: int,
    cost_usd: Mapping[str, float] | None = None,
) -> AnswerJudge:
    """Fit a judge of each model's answers, and of pairs of models that answered the same items.

    A model or pair gets none whose answers are too few, or tell nothing that holds on answers left
    out: neither how good they are, nor, clearly, for which prompts a better model is worth asking.
    A model whose answers tell that only beside another's keeps its judge for the pair.

    Args:
        matrix: Outcomes of the checkpoint's models.
        estimates: What was expected of the same items.
        answers: Recorded answers; those to other items or of other models are left out.
        feedback: Shows how far it is.
        seed: Of the folds.
        cost_usd: Mean cost of a call of each model, as far as known: pairs are fitted where the
            second costs little beside the dearest.
    """
    folds = grouped_folds(text_groups(matrix.prompts), FOLDS, seed)
    tables = list(_answer_tables(matrix, answers))
    if not tables:
        feedback.note(f"no model has {MIN_ANSWERS} graded answers: none can be judged")
        return AnswerJudge.none(matrix.models)
    read = _read_all(matrix, estimates, tables, feedback)
    scale = inverse_frequency([texts for _, texts in read])
    graded = []
    for table, (features, texts) in zip(tables, read, strict=True):
        prior = log_odds(estimates.quality[table.rows])
        inputs = AnswerInputs(features, texts.scaled(scale), prior)
        score = matrix.score[table.rows]
        graded.append(GradedAnswers(table.probe, inputs, score, folds[table.rows]))
    fits = []
    with feedback.progress_bar("Fitting judges of answers", len(tables)) as progress:
        for table, fitted in zip(tables, fit_probe_judges(graded), strict=True):
            fit = _Fit(table, fitted, _figures(matrix, estimates, table, fitted))
            if fit.figures["lead"] > 0:
                fits.append(fit)
            progress(1)
    pairs = _fit_pairs(matrix, estimates, folds, fits, cost_usd or {}, feedback)
    paired = {name for names in pairs for name in names}
    kept = {
        matrix.models[fit.probe]: fit
        for fit in fits
        if fit.figures["routing_gain_high"] >= 0 or matrix.models[fit.probe] in paired
    }
    if dropped := [matrix.models[t.probe] for t in tables if matrix.models[t.probe] not in kept]:
        feedback.note(f"answers tell no more than prompts of {', '.join(dropped)}: not judged")
    judges = {name: fit.fitted.judge for name, fit in kept.items()}
    return AnswerJudge(
        matrix.models, scale, judges, {name: fit.figures for name, fit in kept.items()}, pairs
    )


@dataclass(frozen=True, slots=True)
class _AnswerTable:
    """The graded answers of one model."""

    probe: int
    rows: Int64[np.ndarray, " answers"]
    """Of the outcomes."""
    answers: tuple[RecordedAnswer, ...]


@dataclass(frozen=True, slots=True)
class _Fit:
    """The judge of one model, with the answers it was fitted to."""

    table: _AnswerTable
    fitted: FittedJudge
    figures: dict[str, Any]
    """How much the answers tell, by `_figures`."""

    @property
    def probe(self) -> int:
        """Its column."""
        return self.table.probe


def _fit_pairs(
    matrix: OutcomeMatrix,
    estimates: PromptEstimates,
    folds: Int64[np.ndarray, " items"],
    fits: Sequence[_Fit],
    cost_usd: Mapping[str, float],
    feedback: Feedback,
) -> dict[tuple[str, str], PairJudge]:
    """Fit judges of two models' answers, of each first model with those that tell the most."""
    compared = _Compared(matrix, estimates, folds, {fit.probe: fit for fit in fits})
    pairs = {}
    with feedback.progress_bar("Comparing answers", len(fits)) as progress:
        for first in fits:
            others = [
                one.probe
                for one in fits
                if one is not first and _is_cheap(matrix.models, one.probe, cost_usd)
            ]
            telling = sorted(others, key=lambda other: -compared.tells(first.probe, other))
            for other in telling[:MOST_SECONDS]:
                judge = compared.fit(first.probe, other)
                if judge is not None:
                    pairs[matrix.models[first.probe], matrix.models[other]] = judge
            progress(1)
    return pairs


def _is_cheap(models: Sequence[str], column: int, cost_usd: Mapping[str, float]) -> bool:
    known = [cost_usd.get(name, float("nan")) for name in models]
    dearest = float(np.nanmax(known)) if not np.isnan(known).all() else float("nan")
    return is_worth_comparing(known[column], dearest)


class _Compared:
    """Compares models' answers to the same items."""

    def __init__(
        self,
        matrix: OutcomeMatrix,
        estimates: PromptEstimates,
        folds: Int64[np.ndarray, " items"],
        fits: Mapping[int, _Fit],
    ) -> None:
        self._matrix, self._estimates, self._folds, self._fits = matrix, estimates, folds, fits
        self._open = np.array([is_open(prompt) for prompt in matrix.prompts], np.bool_)
        self._results = {column: _results(matrix, fit.table) for column, fit in fits.items()}
        self._place = {}
        for column, fit in fits.items():
            place = np.full(len(matrix.items), -1)
            place[fit.table.rows] = np.arange(len(fit.table.rows))
            self._place[column] = place

    def tells(self, first: int, second: int) -> float:
        """Return how clearly agreement parts the first's answers better and worse than judged."""
        rows = self._rows(first, second)
        if len(rows) < LEAST_ANSWERS:
            return -np.inf
        one = self._place[first][rows]
        judged = self._fits[first].fitted.held_out_quality[one, first]
        surprise = self._matrix.score[rows, first] - judged
        same = self._agreement(first, second, rows) == Agreement.SAME
        if same.all() or not same.any():
            return -np.inf
        error = surprise.std() * np.sqrt(1 / same.sum() + 1 / (~same).sum())
        return float((surprise[same].mean() - surprise[~same].mean()) / max(error, _TINY))

    def fit(self, first: int, second: int) -> PairJudge | None:
        """Return the judge of a pair; None where it tells nothing more on items left out."""
        rows = self._rows(first, second)
        if len(rows) < LEAST_ANSWERS:
            return None
        one, other = (
            log_odds(self._fits[column].fitted.held_out_quality[self._place[column][rows]])
            for column in (first, second)
        )
        prior = log_odds(self._estimates.quality[rows])
        judged = JudgedPairs(prior, one, other, self._agreement(first, second, rows))
        score, folds = self._matrix.score[rows], self._folds[rows]
        fitted = fit_pair_judge(first, second, judged, score, folds)
        alone = routing_values(score, np.full(len(rows), first), one, first)
        kept = np.where(fitted.held_out[:, second] > fitted.held_out[:, first], second, first)
        both = routing_values(score, kept, fitted.held_out, first)
        gain = mean_interval(both - alone)
        return fitted.judge if fitted.lead > 0 and gain.high >= 0 else None

    def _rows(self, first: int, second: int) -> Int64[np.ndarray, " rows"]:
        """Return the items that both answered and that offer no options."""
        both = (self._place[first] >= 0) & (self._place[second] >= 0)
        return np.flatnonzero(both & self._open)

    def _agreement(
        self, first: int, second: int, rows: Int64[np.ndarray, " rows"]
    ) -> Int8[np.ndarray, " rows"]:
        ones, others = (
            [self._results[column][place] for place in self._place[column][rows].tolist()]
            for column in (first, second)
        )
        return agreements(ones, others)


def _results(matrix: OutcomeMatrix, table: _AnswerTable) -> list[StatedResult]:
    """Return what each answer of a model states."""
    return [
        StatedResult.of(matrix.items[at].prompt, answer.text)
        for at, answer in zip(table.rows.tolist(), table.answers, strict=True)
    ]


def _answer_tables(
    matrix: OutcomeMatrix, answers: Sequence[RecordedAnswer]
) -> Iterator[_AnswerTable]:
    """Yield the models that have enough graded answers, with these."""
    row = {item.item_id: number for number, item in enumerate(matrix.items)}
    column = {name: number for number, name in enumerate(matrix.models)}
    by_probe: dict[int, dict[int, RecordedAnswer]] = {}
    for answer in answers:
        at, probe = row.get(answer.item_id), column.get(answer.model)
        if at is not None and probe is not None and not np.isnan(matrix.score[at, probe]):
            by_probe.setdefault(probe, {})[at] = answer
    for probe, known in sorted(by_probe.items()):
        rows = np.array(list(known), np.int64)
        right = int((matrix.score[rows, probe] > _RIGHT).sum())
        if len(rows) >= MIN_ANSWERS and min(right, len(rows) - right) >= MIN_OF_EACH:
            yield _AnswerTable(probe, rows, tuple(known.values()))


def _read_all(
    matrix: OutcomeMatrix,
    estimates: PromptEstimates,
    tables: Sequence[_AnswerTable],
    feedback: Feedback,
) -> list[tuple[Float32[np.ndarray, "answers features"], HashedTexts]]:
    read = []
    with feedback.progress_bar("Reading answers", len(tables)) as progress:
        for table in tables:
            read.append(_read(matrix, estimates, table))
            progress(1)
    return read


def _read(
    matrix: OutcomeMatrix, estimates: PromptEstimates, table: _AnswerTable
) -> tuple[Float32[np.ndarray, "answers features"], HashedTexts]:
    features = [
        features_of_answer(_probe_answer(matrix, estimates, table.probe, at, answer))
        for at, answer in zip(table.rows.tolist(), table.answers, strict=True)
    ]
    return np.stack(features), HashedTexts.of([answer.text for answer in table.answers])


def _probe_answer(
    matrix: OutcomeMatrix,
    estimates: PromptEstimates,
    probe: int,
    at: int,
    answer: RecordedAnswer,
) -> ProbeAnswer:
    return ProbeAnswer(
        matrix.items[at].prompt,
        answer.text,
        estimates.quality[at],
        float(estimates.completion_tokens[at, probe]),
        answer.finish_reason,
        answer.token_probabilities,
    )


def _figures(
    matrix: OutcomeMatrix, estimates: PromptEstimates, table: _AnswerTable, fitted: FittedJudge
) -> dict[str, Any]:
    """Return held-out figures of a judge, beside those of the prompt alone."""
    score = matrix.score[table.rows][:, [table.probe]]
    before = estimates.quality[table.rows][:, [table.probe]]
    after = fitted.held_out_quality[:, [table.probe]]
    name = (matrix.models[table.probe],)
    gained = log_loss(score[:, 0], before[:, 0]) - log_loss(score[:, 0], after[:, 0])
    error = float(gained.std()) / float(np.sqrt(len(gained)))
    routing = _routing_gain(matrix, estimates, table, fitted)
    return {
        "answers": len(table.rows),
        "from_prompt": metrics_by_model(score, before, name)[name[0]],
        "with_answer": metrics_by_model(score, after, name)[name[0]],
        "lead": float(gained.mean()) - error,
        "routing_gain": routing.mean,
        "routing_gain_high": routing.high,
    }


def _routing_gain(
    matrix: OutcomeMatrix, estimates: PromptEstimates, table: _AnswerTable, fitted: FittedJudge
) -> MeanInterval:
    """Return what judging brings for the choice of the prompts that a better model is asked."""
    score, own = matrix.score[table.rows], np.full(len(table.rows), table.probe)
    before, after = (
        routing_values(score, own, log_odds(quality), table.probe)
        for quality in (estimates.quality[table.rows], fitted.held_out_quality)
    )
    return mean_interval(after - before)


def routing_values(
    score: Float32[np.ndarray, "answers models"],
    kept: Int64[np.ndarray, " answers"],
    estimate: Float64[np.ndarray, "answers models"],
    probe: int,
) -> Float64[np.ndarray, " answers"]:
    """Return what each answer adds to the mean score, over all shares that are asked of another.

    The answers that rank highest by how much better another model is estimated are asked of it
    first; the mean is over the models whose scores are better than the probe's on average, and so
    over the prices of them.

    Args:
        score: What came; an unknown one counts like the kept answer's.
        kept: Column of the model whose answer is kept otherwise.
        estimate: Log-odds of each model, as known when it is decided.
        probe: Column of the probe.
    """
    rows, means = np.arange(len(score)), np.nan_to_num(np.nanmean(score, axis=0))
    better = np.flatnonzero(means > means[probe])
    own, quality = score[rows, kept].astype(np.float64), sigmoid(estimate)
    total = np.zeros(len(rows))
    for model in better:
        lift = quality[:, model] - quality[rows, kept]
        rank = np.argsort(np.argsort(lift, kind="stable"), kind="stable") / len(rows)
        total += np.nan_to_num(score[:, model] - own) * rank
    return np.asarray(np.nan_to_num(own) + total / max(len(better), 1))
