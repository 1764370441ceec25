"""Chooses the models to ask for a single request: the best one first, then its fallbacks."""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
from jaxtyping import Float64

from producer.gateway.errors import ApiError
from producer.gateway.live_predictor import LivePredictor
from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.job import SLA, Job
from routoo.domain.pool import CandidateModel, Pool
from routoo.domain.prediction import Experience, Predictions
from routoo.domain.prompt import bound_cost_usd, prompt_text
from routoo.pipeline.select.eligibility import describe_ineligibility
from routoo.pipeline.select.estimates import CallEstimates, estimate_calls
from routoo.pipeline.select.experience import answered_shares


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
        names = [model.predicted_as for model in pool.models]
        predicted = await self.predictor.predict(prompt_text(body), names)
        job = Job(0, "single", body, replace(aim.limits, max_cost_usd=None))
        factors = dict(zip(pool.names, predicted.prompt_factors, strict=True))
        known = {
            name: one if one.calls else replace(one, prompt_factor=factors[name])
            for name, one in experience.items()
        }
        found = predicted.predictions
        estimates = estimate_calls([job], pool, found.quality, found.completion_tokens, known)
        _check_eligible(job, estimates)
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


def _check_eligible(job: Job, estimates: CallEstimates) -> None:
    if not estimates.allowed.any():
        why = describe_ineligibility(
            job, estimates.reasons[0], estimates.sure_quality[0], estimates.latency_s[0]
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
