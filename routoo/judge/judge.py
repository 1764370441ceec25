"""Judges answers: how likely each candidate model is to be right, given one model's answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from routoo.domain.completion import TokenProbabilities
from routoo.errors import CheckpointError
from routoo.judge.agreement import StatedResult, agreements
from routoo.judge.answer_features import features_of
from routoo.judge.choice_features import choice_features
from routoo.judge.hashed_text import HashedTexts
from routoo.judge.log_odds import log_odds
from routoo.judge.outcomes import ExpectedJudgements
from routoo.judge.pair_judge import JudgedPairs, PairJudge
from routoo.judge.probe_judge import AnswerInputs, ProbeJudge
from routoo.judge.reading import read_answer
from routoo.judge.token_probabilities import token_features
from routoo.predictor.scores import sigmoid


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """An answer to judge, and what was expected before it."""

    prompt: str
    text: str
    quality: Float[np.ndarray, " models"]
    """Estimates from the prompt alone, models of the judge; NaN where there is none."""
    expected_tokens: float
    """Length that was expected of the answer."""
    finish_reason: str | None = None
    """Why it ended, as the provider said."""
    token_probabilities: TokenProbabilities | None = None
    """Where the endpoint gives them."""

    @property
    def result(self) -> StatedResult:
        """What it states at last."""
        return StatedResult.of(self.prompt, self.text)


@dataclass(frozen=True, slots=True)
class AnswerJudge:
    """Judges of several models' answers, on the models of one checkpoint."""

    models: tuple[str, ...]
    """Candidate models of the checkpoint: the columns of everything here."""
    scale: Float32[np.ndarray, " buckets"]
    """What each bucket of words counts for: the rarer, the more."""
    judges: Mapping[str, ProbeJudge]
    """By name of the model whose answers are judged."""
    figures: Mapping[str, Any]
    """Held-out figures of each judge, by the same names."""
    pairs: Mapping[tuple[str, str], PairJudge] = field(default_factory=dict)
    """Judges of two answers to one prompt, by the model that is asked first and the other."""

    @classmethod
    def none(cls, models: Sequence[str]) -> "AnswerJudge":
        """Return a judge of no model's answers."""
        return cls(tuple(models), np.zeros(0, np.float32), {}, {})

    def extended(self, models: Sequence[str]) -> "AnswerJudge":
        """Return the judge of more models, those it was fitted on first and in the same order.

        What an answer says of the others on average, it says of a model that came later.
        """
        count = len(models)
        judges = {name: judge.extended(count) for name, judge in self.judges.items()}
        pairs = {names: pair.extended(count) for names, pair in self.pairs.items()}
        return replace(self, models=tuple(models), judges=judges, pairs=pairs)

    @property
    def probes(self) -> tuple[str, ...]:
        """Models whose answers can be judged."""
        return tuple(self.judges)

    def judge(
        self, probe: str, answers: Sequence[ProbeAnswer]
    ) -> Float32[np.ndarray, "answers models"]:
        """Return the probability that each model is right, given each answer of the probe.

        The probe's own column says how likely its answer is to be good.

        Raises:
            CheckpointError: The checkpoint can't judge this model's answers.
        """
        judge = self.of(probe)
        if not answers:
            return np.zeros((0, len(self.models)), np.float32)
        return sigmoid(judge(self.read(answers))).astype(np.float32)

    def judge_pair(
        self, first: str, second: str, answers: Sequence[tuple[ProbeAnswer, ProbeAnswer]]
    ) -> Float32[np.ndarray, "answers models"]:
        """Return the probability that each model is right, given two models' answers to a prompt.

        Raises:
            CheckpointError: The checkpoint can't judge these models' answers together.
        """
        pair = self._pair(first, second)
        if not answers:
            return np.zeros((0, len(self.models)), np.float32)
        ones, others = ([both[at] for both in answers] for at in (0, 1))
        read, second_read = self.read(ones), self.read(others)
        judged = JudgedPairs(
            read.prior,
            self.of(first)(read),
            self.of(second)(second_read),
            agreements([one.result for one in ones], [other.result for other in others]),
        )
        return sigmoid(pair(judged)).astype(np.float32)

    def expected_agreement(
        self, first: str, second: str, quality: Float[np.ndarray, "jobs models"]
    ) -> ExpectedJudgements:
        """Return what asking a second model may bring once the first one's answer is judged.

        Args:
            first: Model whose answer is there.
            second: Model that would be asked to agree or not.
            quality: Of all models, given the first's answer.

        Raises:
            CheckpointError: The checkpoint can't judge these models' answers together.
        """
        return self._pair(first, second).expected(log_odds(quality))

    def pool_agreement(
        self,
        pool: Sequence[str],
        both: tuple[int, int],
        models: Int[np.ndarray, " models"] | Int[np.ndarray, "models jobs"],
        quality: Float[np.ndarray, "models *outcomes jobs"],
    ) -> ExpectedJudgements:
        """Return what asking a second model may bring, for some models of a pool.

        Args:
            pool: The pool's models.
            both: Places in the pool of the model whose answer is there, and of the second one.
            models: Places of the models, the same for all jobs or of each job its own; these two
                come first.
            quality: Of the models, given the first's answer, or each outcome of judging it.

        Raises:
            CheckpointError: The checkpoint can't judge these models' answers together.
        """
        prior = log_odds(quality, np.float32)
        outcomes = self._pair(pool[both[0]], pool[both[1]]).outcomes
        return outcomes.among(self.columns(pool))(prior, 0, prior[1], models)

    def read(self, answers: Sequence[ProbeAnswer]) -> AnswerInputs:
        """Return what is known of answers, as each judge takes it."""
        return AnswerInputs(
            np.stack([features_of_answer(answer) for answer in answers]),
            HashedTexts.of([answer.text for answer in answers]).scaled(self.scale),
            self._prior(np.stack([answer.quality for answer in answers])),
        )

    def expected_judgements(
        self, probe: str, quality: Float[np.ndarray, "jobs models"]
    ) -> ExpectedJudgements:
        """Return what judging the probe's answers may bring, before there are any.

        Args:
            probe: Model whose answers would be judged.
            quality: Estimates from the prompts alone; NaN where there is none.

        Returns:
            A few outcomes with their chances, the same number for each job, and the estimates that
            each would bring. Their mean is the estimate before.

        Raises:
            CheckpointError: The checkpoint can't judge this model's answers.
        """
        judge = self.of(probe)
        prior = self._prior(quality).T.astype(np.float32)
        return judge.outcomes(prior, judge.probe, prior.mean(axis=0))

    def judgement_model(
        self, models: Sequence[str], quality: Float[np.ndarray, "jobs pool"]
    ) -> "JudgementModel":
        """Return what judging any probe's answers may bring, for jobs of a pool.

        Args:
            models: The pool's models.
            quality: Their estimates from the prompts alone.
        """
        columns = self.columns(models)
        if np.isnan(quality).any() or not self.judges:
            prior = self._prior(self.spread(models, quality)).T.astype(np.float32)
            return JudgementModel(self, columns, prior[columns], prior.mean(axis=0))
        known = log_odds(np.ascontiguousarray(quality.T), np.float32)
        level = next(iter(self.judges.values())).view.mean
        # Models beside the pool's are taken to depart from their level as the pool's do on average.
        sum_of_pool, others = known.sum(axis=0), np.delete(level, columns)
        departure = (sum_of_pool - level[columns].sum()) / np.float32(len(columns))
        total = sum_of_pool + others.sum() + len(others) * departure
        return JudgementModel(self, columns, known, total / np.float32(len(self.models)))

    def columns(self, models: Sequence[str]) -> list[int]:
        """Return the columns of models.

        Raises:
            CheckpointError: The checkpoint doesn't know one.
        """
        unknown = [name for name in models if name not in self.models]
        if unknown:
            raise CheckpointError(
                "the checkpoint was not trained on a candidate model",
                value=", ".join(unknown[:5]),
                remedy=f"It knows {', '.join(self.models[:50])}",
            )
        return [self.models.index(name) for name in models]

    def spread(
        self, models: Sequence[str], quality: Float[np.ndarray, "jobs pool"]
    ) -> Float32[np.ndarray, "jobs models"]:
        """Return estimates of a pool's models as columns of the judge, NaN for all other models."""
        whole = np.full((len(quality), len(self.models)), np.nan, np.float32)
        whole[:, self.columns(models)] = quality
        return whole

    def of(self, probe: str) -> ProbeJudge:
        """Return the judge of one model's answers.

        Raises:
            CheckpointError: There is none.
        """
        if probe not in self.judges:
            raise CheckpointError(
                "the checkpoint can't judge the answers of a model",
                value=probe,
                remedy="Train it with --answers that hold enough of them; it can judge those of "
                f"{', '.join(self.probes[:50]) or 'no model'}",
            )
        return self.judges[probe]

    def _pair(self, first: str, second: str) -> PairJudge:
        if (first, second) not in self.pairs:
            raise CheckpointError(
                "the checkpoint can't judge the answers of two models together",
                value=f"{first}, {second}",
                remedy="Train it with --answers that hold enough of both to the same items",
            )
        return self.pairs[first, second]

    def _prior(
        self, quality: Float[np.ndarray, "jobs models"]
    ) -> Float64[np.ndarray, "jobs models"]:
        """Return log-odds; where there is no estimate, what the others' departures suggest."""
        prior = log_odds(quality)
        unknown = np.isnan(prior)
        if not unknown.any():
            return prior
        mean = next(iter(self.judges.values())).view.mean
        departure = np.where(unknown, 0.0, prior - mean)
        known = np.maximum((~unknown).sum(axis=1, keepdims=True), 1)
        return np.where(unknown, mean + departure.sum(axis=1, keepdims=True) / known, prior)


@dataclass(frozen=True, slots=True)
class JudgementModel:
    """What judging answers may bring for some jobs, before there are any."""

    judge: AnswerJudge
    columns: Sequence[int]
    """The judge's columns of the pool's models."""
    prior: Float32[np.ndarray, "pool jobs"]
    """Log-odds from the prompts alone."""
    mean: Float32[np.ndarray, " jobs"]
    """Their mean over all models of the judge."""

    def of(
        self,
        probe: int,
        models: Int[np.ndarray, " models"] | Int[np.ndarray, "models jobs"],
        rows: Int[np.ndarray, " jobs"] | None = None,
    ) -> ExpectedJudgements:
        """Return a probe's outcomes, with the estimates of some models.

        Args:
            probe: Place of the probe in the pool.
            models: Places of the models, the same for all jobs or of each job its own; the probe
                comes first.
            rows: Which of the jobs to look at; None = all.

        Raises:
            CheckpointError: The checkpoint can't judge this probe's answers.
        """
        judge = self.judge.of(self.judge.models[self.columns[probe]])
        jobs = self.prior.shape[1]
        each = np.arange(jobs) if rows is None else rows
        order = models if models.ndim > 1 else models[:, None]
        prior = self.prior.ravel().take(order * jobs + each)
        mean = self.mean if rows is None else self.mean[rows]
        return judge.outcomes.among(self.columns)(prior, 0, mean, models)


def features_of_answer(answer: ProbeAnswer) -> Float32[np.ndarray, " features"]:
    """Return all features of one answer but those of its words."""
    reading = read_answer(answer.prompt, answer.text)
    text = features_of(reading, answer.finish_reason, len(answer.text), answer.expected_tokens)
    tokens = token_features(answer.token_probabilities)
    return np.concatenate([text, tokens, choice_features(reading)])
