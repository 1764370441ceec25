"""Judges answers as they come, and decides: accept one, or ask another model at the price of now.

A probe's answer is accepted where the probability that it is good is at least
max_m(q_m - price x expected cost_m) over the other models that the job may be asked of, by the
qualities that the judgement shows. The price is that of the newest plan. Where that is worth more
than both, a second cheap model is asked first, and whether it states the same is judged too.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Float32

from routoo.domain.completion import AnswerJudgement, KeptAnswer
from routoo.domain.job import PendingJob
from routoo.domain.pool import Pool
from routoo.domain.prediction import NO_EXPERIENCE, Experience, experience_from_json
from routoo.domain.prompt import prompt_text
from routoo.judge.agreement import is_open
from routoo.judge.judge import AnswerJudge
from routoo.judge.pair_judge import is_worth_comparing
from routoo.pipeline.dispatch.fallback import Candidate, quality_per_usd
from routoo.pipeline.dispatch.judged_groups import GivenAnswer, JudgedGroups
from routoo.pipeline.select.experience import answered_shares
from routoo.store.batches.records import BatchRecord

ACCEPTED, ESCALATED = "accepted", "escalated"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is decided about an answer."""

    judgement: AnswerJudgement
    order: Sequence[Candidate]
    """The models that are worth a call now, by falling value; none where one is accepted."""
    taken: KeptAnswer
    """The answer that is the result if none of them is asked."""
    quality: float
    """Probability that it is good."""
    compares: str | None = None
    """The first of the models where its answer is to be compared with this one."""

    @property
    def accepts(self) -> bool:
        """Whether an answer is taken."""
        broken = self.judgement.fault is not None and self.judgement.attempt_no == (
            self.taken.attempt.attempt_no
        )
        return not self.order and not broken


class AnswerJudging:
    """Judges the answers of one shard; those that come together are judged together.

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
        self._experience: Experience = {}
        self._groups = None if judge is None else JudgedGroups(judge, self._names)
        self._can_be_judged = [judge is not None and name in judge.probes for name in self._names]

    def follow(self, batch: BatchRecord) -> None:
        """Decide by the price and the experience of a batch's newest plan from now on."""
        plan = batch.plan or {}
        self._experience = experience_from_json(plan.get("experience"))
        shares = answered_shares(self._pool, self._experience)
        self._answered = dict(zip(self._pool.names, np.asarray(shares).tolist(), strict=True))
        self._price_per_usd = threshold_per_usd(batch, plan)

    async def decide(
        self,
        pending: PendingJob,
        kept: KeptAnswer,
        candidates: Sequence[Candidate],
        fault: str | None = None,
        first: KeptAnswer | None = None,
    ) -> Decision:
        """Decide about a probe's answer.

        Args:
            pending: The job.
            kept: The answer.
            candidates: The models that the job may be asked of, the probe among them.
            fault: How the answer breaks a rule of the job; such an answer is not accepted.
            first: An earlier good answer that this one is compared with.
        """
        shown = await self._judged(pending, kept, first)
        price = self._price_per_usd / max(pending.serves, 1)
        taken, after = kept, self._quality_of(kept, shown) if fault is None else 0.0
        if first is not None and (own := self._quality_of(first, shown)) >= after:
            taken, after = first, own
        others = self._others(
            shown, candidates, {kept.attempt.model, (first or kept).attempt.model}
        )
        valued = by_value(after, others, price, self._answered)
        worth = [one for value, one in valued if value > after or (fault and first is None)]
        compared = None
        if fault is None and first is None:
            least = max(after, valued[0][0]) if valued else after
            compared = self._worth_comparing(pending, kept, shown, others, price, least)
        if compared is not None:
            worth = [compared, *(one for one in worth if one is not compared)]
        judgement = AnswerJudgement(
            kept.attempt.job_no,
            kept.attempt.attempt_no,
            ESCALATED if worth or fault is not None else ACCEPTED,
            before=pending.quality[self._column[kept.attempt.model]],
            after=self._quality_of(kept, shown),
            threshold=valued[0][0] if valued else None,
            price_per_usd=price,
            next_model=worth[0].model.name if worth else _left_for(taken, kept),
            fault=fault,
        )
        return Decision(judgement, worth, taken, after, compared.model.name if compared else None)

    def _quality_of(self, kept: KeptAnswer, shown: "_Shown") -> float:
        """Return how likely an answer is right, by what is known now."""
        return float(shown.quality[self._column[kept.attempt.model]])

    def _others(
        self, shown: "_Shown", candidates: Sequence[Candidate], answered: Collection[str]
    ) -> list[Candidate]:
        """Return the candidates that have not answered, with the quality expected of them now."""
        return [
            replace(one, expected_quality=float(shown.quality[self._column[one.model.name]]))
            for one in candidates
            if one.model.name not in answered
        ]

    def _worth_comparing(
        self,
        pending: PendingJob,
        kept: KeptAnswer,
        shown: "_Shown",
        others: Sequence[Candidate],
        price: float,
        least: float,
    ) -> Candidate | None:
        """Return the model whose answer is worth comparing with a kept one; None where none is.

        Args:
            pending: The job; one with a cap of its cost gets at most two calls.
            kept: The answer.
            shown: What it shows.
            others: The models that may be asked next.
            price: Quality that a dollar must buy.
            least: Value of accepting, and of the best of the others.
        """
        judge, best = self._judge, None
        if judge is None or shown.whole is None or pending.job.sla.max_cost_usd is not None:
            return None
        first = self._names[self._column[kept.attempt.model]]
        if not any(pair[0] == first for pair in judge.pairs):
            return None
        if not is_open(prompt_text(pending.job.body)):
            return None
        for one in others:
            second = self._names[self._column[one.model.name]]
            rest = [other for other in others if other is not one]
            if (first, second) not in judge.pairs or not self._may_compare(pending, one, rest):
                continue
            expected = judge.expected_agreement(first, second, shown.whole[None])
            outcomes = expected.quality[0][:, judge.columns(self._names)]
            both = (kept.attempt.model, one.model.name)
            values = [self._best_value(outcome, both, rest, price) for outcome in outcomes]
            brought = float(np.dot(expected.chance[0], values))
            value = self._compared_value(one, self._quality_of(kept, shown), brought, price)
            if value > least:
                least, best = value, one
        return best

    def _compared_value(self, one: Candidate, now: float, brought: float, price: float) -> float:
        """Return the value of a comparison that brings so much quality if its model answers."""
        share = self._answered.get(one.model.name, 1.0)
        return now + share * (brought - now) - price * float(one.expected_cost_usd or 0)

    def _may_compare(
        self, pending: PendingJob, second: Candidate, rest: Sequence[Candidate]
    ) -> bool:
        """Return whether a second call is cheap enough, and leaves time for a third one."""
        costs = [float(one.expected_cost_usd or 0) for one in rest]
        if not costs or not is_worth_comparing(float(second.expected_cost_usd or 0), max(costs)):
            return False
        deadline = pending.job.sla.deadline
        if deadline is None:
            return True
        left_s = (deadline - datetime.now(UTC)).total_seconds()
        slowest = max(self._latency_s(pending, one) for one in rest)
        return self._latency_s(pending, second) + slowest <= left_s

    def _latency_s(self, pending: PendingJob, one: Candidate) -> float:
        """Return the typical latency of a call; 0 where nothing is known."""
        known = self._experience.get(one.model.name, NO_EXPERIENCE)
        tokens = pending.completion_tokens[self._column[one.model.name]]
        return (known.base_s or 0.0) + (known.per_completion_token_s or 0.0) * tokens

    def _best_value(
        self,
        quality: Float32[np.ndarray, " models"],
        answered: tuple[str, str],
        rest: Sequence[Candidate],
        price: float,
    ) -> float:
        """Return what is best once two models have answered: the better answer, or a third call."""
        kept = max(float(quality[self._column[name]]) for name in answered)
        others = [
            replace(one, expected_quality=float(quality[self._column[one.model.name]]))
            for one in rest
        ]
        return max(kept, *(value for value, _ in by_value(kept, others, price, self._answered)))

    async def _judged(
        self, pending: PendingJob, kept: KeptAnswer, first: KeptAnswer | None
    ) -> "_Shown":
        """Return what the answers show of each model."""
        answer = GivenAnswer(pending, kept, self._column[kept.attempt.model])
        groups = self._groups
        if groups is not None and self._can_be_judged[answer.probe]:
            if first is None:
                await groups.judge(answer)
            else:
                one = GivenAnswer(pending, first, self._column[first.attempt.model])
                groups.judge_both(one, answer)
        if groups is None or answer.whole is None:
            return _Shown(np.asarray(pending.quality, np.float32))
        return _Shown(answer.whole[groups.columns], answer.whole)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What answers show."""

    quality: Float32[np.ndarray, " models"]
    """Of each model, in pool order."""
    whole: Float32[np.ndarray, " models"] | None = None
    """Of each model of the judge; None where nothing was judged."""


def threshold_per_usd(batch: BatchRecord, plan: Mapping[str, Any]) -> float:
    """Return the quality that a dollar must buy for another model to be asked, as it was planned.

    Where the plan has no probes any more, it is the price of its other choices.
    """
    probes = plan.get("probes") or {}
    price = probes.get("threshold_price_per_usd")
    return quality_per_usd(batch, plan) if price is None else float(price)


def _left_for(taken: KeptAnswer, kept: KeptAnswer) -> str | None:
    """Return the model whose earlier answer is better than the one that came."""
    return None if taken is kept else taken.attempt.model


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
