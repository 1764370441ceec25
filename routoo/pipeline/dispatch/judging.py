"""Judges answers as they come, and decides: accept one, or ask another model at the price of now.

A probe's answer is accepted where the probability that it is good is at least
max_m(q_m - price x expected cost_m) over the other models that the job may be asked of, with the
qualities that the judgement shows. The price is that of the newest plan.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import structlog
from jaxtyping import Float32

from routoo.domain.answer import AnswerJudgement
from routoo.domain.completion import KeptAnswer
from routoo.domain.job import PendingJob
from routoo.domain.pool import Pool
from routoo.domain.prediction import experience_from_json
from routoo.domain.prompt import prompt_text
from routoo.errors import CheckpointError
from routoo.judge.judge import AnswerJudge, ProbeAnswer
from routoo.pipeline.dispatch.fallback import Candidate, quality_per_usd
from routoo.pipeline.select.experience import answered_shares
from routoo.store.batches.records import BatchRecord

ACCEPTED, ESCALATED = "accepted", "escalated"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided about an answer."""

    judgement: AnswerJudgement
    order: Sequence[Candidate]
    """The models that are worth a call now, by falling value; none where it is accepted."""

    @property
    def accepts(self) -> bool:
        """Whether the answer is taken."""
        return self.judgement.decision == ACCEPTED


class AnswerJudging:
    """Judges the answers of one shard; those that come together are judged together, in a thread.

    Args:
        pool: The batch's candidate models.
        judge: The judge of the batch's answers; without one, estimates stay those of the prompt.
    """

    def __init__(self, pool: Pool, judge: AnswerJudge | None = None) -> None:
        self._pool, self._judge = pool, judge
        self._names = [model.predicted_as for model in pool.models]
        self._column = {model.name: column for column, model in enumerate(pool.models)}
        self._price_per_usd = 0.0
        self._answered: Mapping[str, float] = {}
        self._waiting: list[_Waiting] = []
        self._judging = asyncio.Lock()

    def follow(self, batch: BatchRecord) -> None:
        """Decide by the price and the experience of a batch's newest plan from now on."""
        plan = batch.plan or {}
        shares = answered_shares(self._pool, experience_from_json(plan.get("experience")))
        self._answered = dict(zip(self._pool.names, np.asarray(shares).tolist(), strict=True))
        self._price_per_usd = quality_per_usd(batch, plan)

    async def decide(
        self,
        pending: PendingJob,
        kept: KeptAnswer,
        candidates: Sequence[Candidate],
        fault: str | None = None,
    ) -> Decision:
        """Decide about a probe's answer.

        Args:
            pending: The job.
            kept: The answer.
            candidates: The models that the job may be asked of, the probe among them.
            fault: How the answer breaks a rule of the job; such an answer is not accepted.
        """
        probe = self._column[kept.attempt.model]
        quality = await self._judged(pending, kept, probe)
        price = self._price_per_usd / max(pending.serves, 1)
        others = [
            replace(one, expected_quality=float(quality[self._column[one.model.name]]))
            for one in candidates
            if one.model.name != kept.attempt.model
        ]
        after = float(quality[probe]) if fault is None else 0.0
        valued = by_value(after, others, price, self._answered)
        if fault is None:
            worth = [one for value, one in valued if value > after]
        else:
            worth = [one for _, one in valued]
        judgement = AnswerJudgement(
            kept.attempt.job_no,
            kept.attempt.attempt_no,
            ESCALATED if worth or fault is not None else ACCEPTED,
            before=pending.quality[probe],
            after=float(quality[probe]),
            threshold=valued[0][0] if valued else None,
            price_per_usd=price,
            next_model=worth[0].model.name if worth else None,
            fault=fault,
        )
        return Decision(judgement, worth)

    async def _judged(
        self, pending: PendingJob, kept: KeptAnswer, probe: int
    ) -> Float32[np.ndarray, " models"]:
        """Return each model's quality, given the answer, in pool order."""
        known = np.asarray(pending.quality, np.float32)
        if self._judge is None or self._names[probe] not in self._judge.probes:
            return known
        waiting = _Waiting(pending, kept, probe)
        self._waiting.append(waiting)
        async with self._judging:
            if waiting.quality is None:  # else one that came before has judged it too
                await self._judge_waiting(self._judge, waiting)
        return known if waiting.quality is None else waiting.quality

    async def _judge_waiting(self, judge: AnswerJudge, first: "_Waiting") -> None:
        """Judge an answer, and with it those of the same model that came meanwhile."""
        await asyncio.sleep(0)
        alike = [one for one in self._waiting if one.probe == first.probe and one is not first]
        self._waiting = [one for one in self._waiting if one.probe != first.probe]
        group = [first, *alike]
        judged = await asyncio.to_thread(self._judge_group, judge, group)
        for one, quality in zip(group, judged, strict=True):
            one.quality = quality

    def _judge_group(
        self, judge: AnswerJudge, group: Sequence["_Waiting"]
    ) -> Sequence[Float32[np.ndarray, " models"]]:
        """Judge answers of one probe; one that can't be judged costs the others nothing."""
        try:
            return list(self._posterior(judge, group))
        except (CheckpointError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            if len(group) > 1:
                return [self._judge_group(judge, [one])[0] for one in group]
            _log.warning("answer.not_judged", job_no=group[0].pending.job.job_no, error=str(error))
            return [np.asarray(group[0].pending.quality, np.float32)]

    def _posterior(
        self, judge: AnswerJudge, group: Sequence["_Waiting"]
    ) -> Float32[np.ndarray, "answers models"]:
        known = np.array([one.pending.quality for one in group], np.float32)
        spread = judge.spread(self._names, known)
        answers = [one.answer(quality) for one, quality in zip(group, spread, strict=True)]
        judged = judge.judge(self._names[group[0].probe], answers)
        return judged[:, judge.columns(self._names)]


@dataclass(slots=True, eq=False)
class _Waiting:
    """An answer that waits to be judged."""

    pending: PendingJob
    kept: KeptAnswer
    probe: int
    """Column of its model."""
    quality: Float32[np.ndarray, " models"] | None = None
    """Of each model, given the answer; None while it waits."""

    def answer(self, quality: Float32[np.ndarray, " models"]) -> ProbeAnswer:
        """Return the answer as the judge takes it."""
        completion = self.kept.completion
        return ProbeAnswer(
            prompt_text(self.pending.job.body),
            completion.answer,
            quality,
            self.pending.completion_tokens[self.probe],
            completion.finish_reason,
            self.kept.attempt.token_probabilities,
        )


def by_value(
    kept: float, others: Sequence[Candidate], price: float, answered: Mapping[str, float]
) -> list[tuple[float, Candidate]]:
    """Return what a call to each model is worth beside a kept answer, by falling value.

    A call that fails leaves the kept answer, as `routoo.selector.probes.second_calls` counts it.

    Args:
        kept: Quality of the kept answer.
        others: The models with their qualities and costs.
        price: Quality that a dollar must buy.
        answered: Share of jobs that each model answers; 1 where a model is not named.
    """
    valued = [
        (
            kept
            + answered.get(one.model.name, 1.0) * ((one.expected_quality or 0.0) - kept)
            - price * float(one.expected_cost_usd or 0),
            one,
        )
        for one in others
    ]
    return sorted(valued, key=lambda pair: -pair[0])
