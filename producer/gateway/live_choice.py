"""Chooses the models to ask for a single request: the best one first, then its fallbacks.

Requests that come at the same time share a pass of the predictor.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from producer.gateway.errors import ApiError
from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.job import SLA, Job
from routoo.domain.pool import CandidateModel, Pool
from routoo.domain.prediction import Experience, Predictions
from routoo.domain.prompt import bound_cost_usd, prompt_text
from routoo.pipeline.request_facts import RequestFacts
from routoo.pipeline.score import PredictorCache, ScoringCheckpoint
from routoo.pipeline.select.eligibility import describe_ineligibility
from routoo.pipeline.select.estimates import CallEstimates, estimate_calls
from routoo.pipeline.select.experience import answered_shares

_MOST_AT_ONCE = 32
_CHECKED_EVERY_S = 5.0
"""How long a promotion of another checkpoint may take to be noticed, in seconds."""


class Predicted(NamedTuple):
    """What is expected of the models for one request."""

    predictions: Predictions
    """Of one job."""
    prompt_factors: Sequence[float]
    """Prompt tokens that each model bills for one that is estimated."""
    took_s: float
    """How long the predictor computed, in seconds, for all requests that shared the pass."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    prompt: str
    models: tuple[CandidateModel, ...]
    turn: "asyncio.Future[Predicted]"


@dataclass(slots=True)
class LivePredictor:
    """Loads the checkpoint in use when it is first needed, and computes in a thread of its own."""

    checkpoints: PredictorCache
    _queue: deque[_Waiting] = field(default_factory=deque)
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="predictor")
    )
    _working: "asyncio.Task[None] | None" = None
    _checkpoint: ScoringCheckpoint | None = None
    _covers: tuple[CandidateModel, ...] = ()
    """The models that the checkpoint was asked for."""
    _checked_at_s: float = 0.0

    async def predict(self, prompt: str, models: Sequence[CandidateModel]) -> Predicted:
        """Return the estimates for one prompt.

        Args:
            prompt: The request's text.
            models: The candidate models.

        Raises:
            CheckpointError: The checkpoint can't be used, or doesn't know a model.
        """
        turn: asyncio.Future[Predicted] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(prompt, tuple(models), turn))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await turn

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while self._queue:
            waiting = self._take()
            try:
                found = await self._predict(waiting)
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                for one in waiting:
                    if not one.turn.done():
                        one.turn.set_exception(error)
                continue
            for one, predicted in zip(waiting, found, strict=True):
                if not one.turn.done():
                    one.turn.set_result(predicted)

    def _take(self) -> list[_Waiting]:
        """Remove the requests of one pass: those behind the first that name the same models."""
        models = self._queue[0].models
        taken = [self._queue.popleft()]
        while self._queue and self._queue[0].models == models and len(taken) < _MOST_AT_ONCE:
            taken.append(self._queue.popleft())
        return taken

    async def _predict(self, waiting: Sequence[_Waiting]) -> list[Predicted]:
        predictor = (await self._in_use(waiting[0].models)).predictor
        prompts = [one.prompt for one in waiting]
        models = [model.predicted_as for model in waiting[0].models]
        loop, begun_s = asyncio.get_running_loop(), time.perf_counter()
        found = await loop.run_in_executor(self._thread, predictor.predict, prompts, models)
        took_s = time.perf_counter() - begun_s
        factors = predictor.prompt_factors(models)
        return [Predicted(_row(found, row), factors, took_s) for row in range(len(waiting))]

    async def _in_use(self, models: tuple[CandidateModel, ...]) -> ScoringCheckpoint:
        now_s = asyncio.get_running_loop().time()
        is_old = now_s - self._checked_at_s > _CHECKED_EVERY_S
        if self._checkpoint is None or is_old or self._covers != models:
            self._checkpoint = await self.checkpoints.current(models)
            self._checked_at_s, self._covers = now_s, models
        return self._checkpoint


def _row(all_: Predictions, row: int) -> Predictions:
    one = slice(row, row + 1)
    return Predictions(
        all_.quality[one],
        all_.quality_std[one],
        all_.completion_tokens[one],
        all_.novelty[one],
        all_.truncated[one],
    )


@dataclass(frozen=True, slots=True)
class LiveAim:
    """What a single request asks of the choice."""

    limits: SLA
    budget_usd: Decimal | None = None
    """Most that the call may cost, in USD."""
    willingness_to_pay_usd: float | None = None
    """USD that one more expected good answer is worth."""

    @property
    def most_usd(self) -> Decimal | None:
        """Most that the call may cost, by whichever limit is lower."""
        known = [one for one in (self.budget_usd, self.limits.max_cost_usd) if one is not None]
        return min(known, default=None)


@dataclass(frozen=True, slots=True)
class LiveCandidate:
    """A model that may be asked."""

    model: CandidateModel
    worst_case_usd: Decimal
    expected_quality: float | None = None
    expected_cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class LiveChoice:
    """The models to ask in turn, and why."""

    candidates: list[LiveCandidate]
    reason: str
    """named, best_quality, best_value or cheapest_good_enough."""
    predict_s: float = 0.0
    """What the predictor took, in seconds."""


@dataclass(frozen=True, slots=True)
class Chooser:
    """What choices are made with."""

    predictor: LivePredictor
    behaviour: KnownBehaviour

    async def choose(
        self, body: dict[str, Any], pool: Pool, aim: LiveAim, experience: Experience
    ) -> LiveChoice:
        """Return the models to ask: the one that the request names, or those that fit it best.

        Raises:
            ApiError: No model may answer the request.
            CheckpointError: The predictor can't be used.
        """
        named = body.get("model")
        if named is not None:
            model = pool.models[pool.index(named)]
            choice = LiveChoice([self._candidate(body, model)], "named")
            return _affordable(choice, aim)
        predicted = await self.predictor.predict(prompt_text(body), pool.models)
        job = Job(0, "single", body, replace(aim.limits, max_cost_usd=None))
        known = _with_factors(experience, pool, predicted.prompt_factors)
        found = predicted.predictions
        requests = RequestFacts.of([job])
        estimates = estimate_calls(requests, pool, found.quality, found.completion_tokens, known)
        _check_eligible(requests, estimates)
        order, reason = _ordered(pool, found, estimates, known, aim)
        candidates = [
            replace(
                self._candidate(body, pool.models[column]),
                expected_quality=float(found.quality[0, column]),
                expected_cost_usd=float(estimates.cost_usd[0, column]),
            )
            for column in order
        ]
        return _affordable(LiveChoice(candidates, reason, predicted.took_s), aim)

    def _candidate(self, body: dict[str, Any], model: CandidateModel) -> LiveCandidate:
        known = self.behaviour.apply(model)
        return LiveCandidate(model, bound_cost_usd(body, known))


def _check_eligible(requests: RequestFacts, estimates: CallEstimates) -> None:
    if not estimates.allowed.any():
        (kind,) = requests.kinds
        why = describe_ineligibility(
            kind, estimates.reasons[0], estimates.sure_quality[0], estimates.latency_s[0]
        )
        raise ApiError(400, f"{why[0].upper()}{why[1:]}.", code="no_eligible_model", param="model")


def _ordered(
    pool: Pool,
    found: Predictions,
    estimates: CallEstimates,
    experience: Experience,
    aim: LiveAim,
) -> tuple[list[int], str]:
    """Return the columns of the eligible models, the best first, and what makes it the best.

    With a worth of an answer: the most expected quality less cost over worth, as batches trade.
    With a quality floor alone: the cheapest model that reaches it. Else: the most quality.
    """
    cost_usd = estimates.cost_usd[0]
    quality = (found.quality[0] * answered_shares(pool, experience)).astype(np.float64)
    worth_usd, floor = aim.willingness_to_pay_usd, aim.limits.min_quality
    value: Float64[np.ndarray, " models"]
    if worth_usd is not None:
        value, reason = quality - cost_usd / worth_usd, "best_value"
    elif floor is not None:
        value, reason = -cost_usd, "cheapest_good_enough"
    else:
        value, reason = quality, "best_quality"
    order = np.lexsort((cost_usd, -value))  # of equal value the cheaper one
    return [int(column) for column in order if estimates.allowed[0, column]], reason


def _with_factors(
    experience: Experience, pool: Pool, prompt_factors: Sequence[float]
) -> Experience:
    """Return what is known of the models; of one that was not called, by the predictor's data."""
    factors = dict(zip(pool.names, prompt_factors, strict=True))
    return {
        name: one if one.calls else replace(one, prompt_factor=factors[name])
        for name, one in experience.items()
    }


def _affordable(choice: LiveChoice, aim: LiveAim) -> LiveChoice:
    """Return the choice without the models that may cost more than the request allows."""
    most_usd = aim.most_usd
    if most_usd is None:
        return choice
    left = [one for one in choice.candidates if one.worst_case_usd <= most_usd]
    if not left:
        least = min(choice.candidates, key=lambda one: one.worst_case_usd)
        raise ApiError(
            400,
            f"A call to {least.model.name}, the cheapest model that fits, may cost "
            f"{least.worst_case_usd:.6f} USD, more than the {most_usd} USD that the request "
            "allows. Raise budget_usd or lower max_tokens.",
            code="budget_exhausted",
            param="budget_usd",
        )
    return replace(choice, candidates=left)
