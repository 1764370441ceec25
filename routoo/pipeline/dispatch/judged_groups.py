"""Judges the answers of one shard in groups: together each takes a third of the CPU.

A group is judged in the event loop, by the job that completes it. A thread would cost more than it
brings: nearly all of the work holds the interpreter's lock.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import structlog
from jaxtyping import Float32

from routoo.domain.completion import KeptAnswer
from routoo.domain.job import PendingJob
from routoo.domain.prompt import prompt_text
from routoo.judge.judge import AnswerJudge, ProbeAnswer

_MOST_ANSWERS = 64
_MOST_CHARACTERS = 16_000
"""Of a group's answers: judging so many takes some 10 ms, while calls in flight wait."""
_GATHER_S = 0.05
"""How long the first answer of a group waits for others."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class GivenAnswer:
    """An answer to judge."""

    pending: PendingJob
    """The job that it answers."""
    kept: KeptAnswer
    probe: int
    """Column of its model."""
    whole: Float32[np.ndarray, " models"] | None = None
    """Quality of each model of the judge, given the answer; None while it is not judged."""

    def to_judge(self, quality: Float32[np.ndarray, " models"]) -> ProbeAnswer:
        """Return it as the judge takes it, with what the prompt alone tells."""
        completion = self.kept.completion
        return ProbeAnswer(
            prompt_text(self.pending.job.body),
            completion.answer,
            quality,
            self.pending.completion_tokens[self.probe],
            completion.finish_reason,
            self.kept.attempt.token_probabilities,
        )


@dataclass(slots=True, eq=False)
class _Group:
    """Answers of one model that are judged together."""

    answers: list[GivenAnswer] = field(default_factory=list)
    characters: int = 0
    judged: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, answer: GivenAnswer) -> bool:
        """Add an answer; return whether the group is full."""
        self.answers.append(answer)
        self.characters += len(answer.kept.completion.answer)
        return len(self.answers) >= _MOST_ANSWERS or self.characters >= _MOST_CHARACTERS


class JudgedGroups:
    """Judges answers; those that come together are judged together.

    Args:
        judge: The judge of the batch's answers.
        names: What it calls the models of the pool.
    """

    def __init__(self, judge: AnswerJudge, names: Sequence[str]) -> None:
        self._judge, self._names = judge, names
        self._open: dict[int, _Group] = {}
        """The groups that wait for more answers, by their model's column."""

    @cached_property
    def columns(self) -> list[int]:
        """The judge's columns of the pool's models."""
        return self._judge.columns(self._names)

    async def judge(self, answer: GivenAnswer) -> None:
        """Judge an answer with others of its model that come soon; `whole` stays None if it fails.

        It is judged with the last answer that its group takes, or after a while.
        """
        group = self._open.setdefault(answer.probe, _Group())
        if group.add(answer):
            self._close(group)
        elif len(group.answers) > 1:
            await group.judged.wait()
        else:
            try:
                async with asyncio.timeout(_GATHER_S):
                    await group.judged.wait()
            except TimeoutError:
                self._close(group)
            except asyncio.CancelledError:  # the others still wait for this one
                self._close(group)
                raise

    def judge_both(self, one: GivenAnswer, other: GivenAnswer) -> None:
        """Judge two answers to one prompt together, or the later one where that can't be done."""
        judge, first, second = self._judge, self._names[one.probe], self._names[other.probe]
        if (first, second) in judge.pairs:
            try:
                (known,) = judge.spread(self._names, np.asarray([one.pending.quality], np.float32))
                pair = (one.to_judge(known), other.to_judge(known))
                other.whole = judge.judge_pair(first, second, [pair])[0]
            except Exception as error:  # noqa: BLE001 - it costs them the comparison, and no more
                _log.warning(
                    "answers.not_compared",
                    job_no=one.kept.attempt.job_no,
                    error=f"{type(error).__name__}: {error}",
                )
            else:
                return
        self._judge_all([other])

    def _close(self, group: _Group) -> None:
        """Judge a group that takes no more answers, once."""
        if group.judged.is_set():
            return
        del self._open[group.answers[0].probe]
        try:
            self._judge_all(group.answers)
        finally:
            group.judged.set()

    def _judge_all(self, answers: Sequence[GivenAnswer]) -> None:
        """Judge answers of one model; one that can't be judged costs the others nothing."""
        try:
            judged = self._posterior(answers)
        except Exception as error:  # noqa: BLE001 - it costs an answer its judgement, and no more
            if len(answers) > 1:
                for one in answers:
                    self._judge_all([one])
                return
            number = answers[0].pending.job.job_no
            _log.warning(
                "answer.not_judged", job_no=number, error=f"{type(error).__name__}: {error}"
            )
            return
        for one, whole in zip(answers, judged, strict=True):
            one.whole = whole

    def _posterior(self, answers: Sequence[GivenAnswer]) -> Float32[np.ndarray, "answers models"]:
        known = np.array([one.pending.quality for one in answers], np.float32)
        spread = self._judge.spread(self._names, known)
        given = [one.to_judge(quality) for one, quality in zip(answers, spread, strict=True)]
        return self._judge.judge(self._names[answers[0].probe], given)
