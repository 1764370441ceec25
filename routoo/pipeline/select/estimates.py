"""Estimates what each candidate model's call would cost for each job, and whether it is eligible.

The select stage estimates a whole batch, the dispatch stage the fallbacks of a job: so both agree
on which models are eligible.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import orjson
from jaxtyping import Bool, Float, Float32, Float64, Int, Int16, UInt8

from routoo.domain.pool import TOKENS_PER_MTOK, Pool
from routoo.domain.prediction import NO_EXPERIENCE, Experience, ModelExperience
from routoo.domain.prompt import ANTHROPIC_TOOLS_TOKENS, marks_cache
from routoo.pipeline.request_facts import RequestFacts
from routoo.pipeline.select import eligibility
from routoo.selector import job_limits
from routoo.store.batches.records import BatchRecord

NOTHING_KNOWN: Experience = {}


@dataclass(frozen=True, slots=True)
class CallEstimates:
    """What a call of each candidate model is expected to take, models in pool order."""

    cost_usd: Float64[np.ndarray, "jobs models"]
    """Expected cost of one call, and of the failed calls before it, in USD; not the worst case."""
    tokens: Float64[np.ndarray, "jobs models"]
    """Expected prompt and completion tokens of one call together."""
    latency_s: Float64[np.ndarray, "jobs models"]
    """Typical latency of one call, in seconds; NaN where nothing is known."""
    sure_quality: Float[np.ndarray, "jobs models"]
    """Predicted quality less the margin of the floor's confidence; compared with quality floors."""
    limit_tokens: Float64[np.ndarray, "jobs models"]
    """Limit of tokens that each answer is first asked for with."""
    has_own_limit: Bool[np.ndarray, " jobs"]
    """Whether the request itself names that limit."""
    reasons: UInt8[np.ndarray, "jobs models"]
    """Why a model may not answer, as flags of `IneligibilityReason`; 0 where it may."""

    @property
    def allowed(self) -> Bool[np.ndarray, "jobs models"]:
        """Pairs that meet every limit of the job."""
        return np.asarray(self.reasons == 0)


def estimate_calls(
    requests: RequestFacts,
    pool: Pool,
    quality: Float32[np.ndarray, "jobs models"],
    completion_tokens: Float32[np.ndarray, "jobs models"],
    experience: Experience = NOTHING_KNOWN,
    default_limit: int | None = None,
) -> CallEstimates:
    """Estimate cost, latency and eligibility of every candidate model for some jobs.

    Args:
        requests: Of the jobs, in the order of the arrays' rows.
        pool: The candidate models and their prices.
        quality: Predicted quality, in [0, 1].
        completion_tokens: Predicted length of the answers, in tokens.
        experience: What is known from earlier calls: it corrects token counts and gives latencies.
        default_limit: Limit of the answers to requests that name none; None derives it from the
            predicted length.
    """
    known = [experience.get(name, NO_EXPERIENCE) for name in pool.names]
    prompt_estimate = requests.text_tokens[:, None] + _part_tokens(requests, pool)
    own = requests.limit_tokens
    limit = completion_limits(own, pool, completion_tokens, known, default_limit)
    prompt = prompt_estimate * _array(model.prompt_factor for model in known)
    completion = _completion_tokens(completion_tokens, limit, known)
    latency_s = _latencies_s(known, completion)
    sure_quality = _less_margins(quality, known)
    pairs = job_limits.JobEstimates(
        sure_quality,
        _capped_usd(requests, pool, limit),  # a cost cap must hold even for the worst case
        latency_s=latency_s,
        prompt_tokens=prompt_estimate.astype(np.int64),
        completion_tokens=limit.astype(np.int64),
        window_tokens=np.array([model.context_window_tokens for model in pool.models]),
    )
    failed_usd = _array(model.failed_usd for model in known)
    return CallEstimates(
        cost_usd=_call_cost_usd(pool, prompt, completion) + failed_usd,
        tokens=prompt + completion,
        latency_s=latency_s,
        sure_quality=sure_quality,
        limit_tokens=limit,
        has_own_limit=~np.isnan(own),
        reasons=job_limits.find_reasons(pairs, _limits_of(requests, pool)),
    )


def _completion_tokens(
    predicted: Float32[np.ndarray, "jobs models"],
    limit: Float64[np.ndarray, "jobs models"],
    known: Sequence[ModelExperience],
) -> Float64[np.ndarray, "jobs models"]:
    """Return the expected completion tokens: predicted, corrected, within each call's limit."""
    length = np.maximum(predicted, 1.0)
    completion = np.minimum(length, limit) * _array(model.completion_factor for model in known)
    return np.asarray(np.minimum(completion, limit))


def _less_margins(
    quality: Float32[np.ndarray, "jobs models"], known: Sequence[ModelExperience]
) -> Float[np.ndarray, "jobs models"]:
    margins = _array(model.quality_margin for model in known)
    return np.clip(quality - margins, 0.0, 1.0) if margins.any() else quality


def _call_cost_usd(
    pool: Pool,
    prompt: Float64[np.ndarray, "jobs models"],
    completion: Float64[np.ndarray, "jobs models"],
) -> Float64[np.ndarray, "jobs models"]:
    prompt_price = _array(float(model.price_usd_per_mtok.prompt) for model in pool.models)
    completion_price = _array(float(model.price_usd_per_mtok.completion) for model in pool.models)
    usd: Float64[np.ndarray, "jobs models"] = prompt * prompt_price + completion * completion_price
    return usd / float(TOKENS_PER_MTOK)


def _limits_of(requests: RequestFacts, pool: Pool) -> job_limits.JobLimits:
    """Return the jobs' own limits, and the models that their requests leave."""
    kinds, kind = requests.kinds, requests.kind
    slas = [one.sla for one in kinds]
    limits = job_limits.JobLimits.of(slas)
    timely = eligibility.in_time(slas, pool, datetime.now(UTC))
    return job_limits.JobLimits(
        limits.min_quality[kind],
        limits.max_cost_usd[kind],
        limits.max_latency_s[kind],
        usable=eligibility.usable(kinds, pool)[kind],
        capable=eligibility.capable(kinds, pool)[kind],
        in_time=None if timely is None else timely[kind],
    )


def _latencies_s(
    known: Sequence[ModelExperience], completion: Float64[np.ndarray, "jobs models"]
) -> Float64[np.ndarray, "jobs models"]:
    base_s = _array(np.nan if model.base_s is None else model.base_s for model in known)
    slope_s = _array(model.per_completion_token_s or 0.0 for model in known)
    latency_s: Float64[np.ndarray, "jobs models"] = base_s + slope_s * completion
    return latency_s


def _part_tokens(requests: RequestFacts, pool: Pool) -> Float64[np.ndarray, "jobs models"]:
    """Return the most prompt tokens that each call is billed for parts beside text."""
    of_kinds = [
        [model.part_tokens(kind.part_counts) or 0 for model in pool.models]
        for kind in requests.kinds
    ]
    tokens = np.array(of_kinds, np.float64).reshape(-1, len(pool.models))
    return np.asarray(tokens[requests.kind])


def _array(values: Iterable[float]) -> Float64[np.ndarray, " models"]:
    return np.fromiter(values, np.float64)


LIMIT_FACTOR = 4.0
"""Limit of an answer whose request names none, for each token that is expected of it."""
LIMIT_ADDEND = 64
"""Tokens added to that."""


def completion_limits(
    own: Float64[np.ndarray, " jobs"],
    pool: Pool,
    predicted: Float32[np.ndarray, "jobs models"],
    known: Sequence[ModelExperience],
    default_limit: int | None = None,
) -> Float64[np.ndarray, "jobs models"]:
    """Return the limit of tokens that each call is first sent with.

    It is the request's own; else the batch's; else four times the expected length and 64 tokens,
    at most what the pool allows. With lengths predicted from other prompts of the same kind, this
    holds 99.0 % of the answers of MMLU-Pro and BFCL, 99.9 % of GSM8K's, 99.8 % of CRUXEval's and
    97.8 % of those to the hardest problems of MATH; what it cuts is asked again with the pool's.

    Args:
        own: The requests' own limits; NaN where one names none.
        pool: The candidate models.
        predicted: Predicted length of the answers, in tokens.
        known: What is known of each model; it corrects the predictions.
        default_limit: The batch's limit; None where it gives none.
    """
    most = _array(model.max_completion_tokens for model in pool.models)
    factor = _array(model.completion_factor for model in known)
    default = np.minimum(np.ceil(LIMIT_FACTOR * predicted * factor + LIMIT_ADDEND), most)
    if default_limit is not None:
        default = np.broadcast_to(float(default_limit), default.shape)
    limit = np.where(np.isnan(own)[:, None], default, own[:, None])
    # As `domain.prompt.completion_limit`: where no limit is obeyed, answers may exceed theirs.
    least = most * _array(not model.obeys_limits for model in pool.models)
    return np.asarray(np.maximum(limit, least))


def reservations_usd(
    requests: RequestFacts, pool: Pool, limit_tokens: Float64[np.ndarray, "jobs models"]
) -> Float64[np.ndarray, "jobs models"]:
    """Return what dispatch sets aside for a call of each pair: the most that it can cost, in USD.

    It is what `domain.prompt.bound_cost_usd` says of a request whose limit is the one given.

    Args:
        requests: Of the jobs, in the order of the rows.
        pool: The candidate models and their prices.
        limit_tokens: Limit of each answer.
    """
    prompt = requests.bound_tokens[:, None] + _part_tokens(requests, pool)
    prompt += _array(model.extra_prompt_tokens for model in pool.models)
    prompt += _tools_tokens(requests, pool)
    extra = _array(model.extra_completion_tokens for model in pool.models)
    completion = limit_tokens * requests.choices[:, None] + extra
    usd = _call_cost_usd(pool, prompt, completion)
    surcharge = _cache_write_surcharges(requests, pool)
    return usd if surcharge is None else usd + prompt * surcharge / float(TOKENS_PER_MTOK)


def most_usd(requests: RequestFacts, pool: Pool) -> Float64[np.ndarray, "jobs models"]:
    """Return the most that a call of each pair can cost in the end, in USD.

    Its answer may be asked again with the pool's limit where the request names none.
    """
    most = _array(model.max_completion_tokens for model in pool.models)
    own = requests.limit_tokens[:, None]
    obeys = np.array([model.obeys_limits for model in pool.models])
    limit = np.where(np.isnan(own), most, np.where(obeys, own, np.maximum(own, most)))
    return reservations_usd(requests, pool, limit)


def _tools_tokens(requests: RequestFacts, pool: Pool) -> Float64[np.ndarray, "jobs models"]:
    """Return what endpoints add to the prompts of requests that declare tools."""
    declares = np.array([kind.has_tools for kind in requests.kinds], np.bool_)[requests.kind]
    added = _array(ANTHROPIC_TOOLS_TOKENS * model.is_anthropic for model in pool.models)
    return np.asarray(declares[:, None] * added)


def _cache_write_surcharges(
    requests: RequestFacts, pool: Pool
) -> Float64[np.ndarray, "jobs models"] | None:
    """Return by how much a prompt token costs more where it may be written to a cache.

    In USD per million tokens; None where that is nowhere. A cache that the model's own parameters
    ask for counts even where a request sets these otherwise.
    """
    prices = [model.price_usd_per_mtok for model in pool.models]
    more = np.maximum(
        _array(float((one.cache_write or one.prompt) - one.prompt) for one in prices), 0
    )
    if not more.any():
        return None
    asks = np.array([marks_cache(orjson.dumps(model.with_parameters({}))) for model in pool.models])
    marks = np.array([kind.marks_cache for kind in requests.kinds], np.bool_)[requests.kind]
    return np.asarray((marks[:, None] | asks) * more)


_KEPT_SHARE = 0.5
"""Most that is kept for the cheapest call of a job that is to ask a dearer model, of what that is
expected to cost: the rest is what calls in flight may reserve beyond their costs. Were all of it
kept, a plan that uses its budget up would make one dearer call at a time."""


@dataclass(frozen=True, slots=True)
class LastResorts:
    """The cheapest call of each job by its worst case: what is left where the money runs short."""

    column: Int16[np.ndarray, " jobs"]
    """Position of its model in the pool; -1 where no model may answer a single call."""
    worst_usd: Float32[np.ndarray, " jobs"]
    """The most that it costs, asked again with a higher limit where that may be needed, in USD."""
    expected_usd: Float32[np.ndarray, " jobs"]
    """What it is expected to cost, in USD."""

    @classmethod
    def empty(cls, jobs: int) -> "LastResorts":
        """Return those of jobs to be filled in."""
        usd = np.zeros((2, jobs), np.float32)
        return cls(np.full(jobs, -1, np.int16), usd[0], usd[1])

    def fill(self, rows: slice, found: "LastResorts") -> None:
        """Set those of the jobs in some rows."""
        self.column[rows], self.worst_usd[rows] = found.column, found.worst_usd
        self.expected_usd[rows] = found.expected_usd

    def rows(self, jobs: Int[np.ndarray, " some"]) -> "LastResorts":
        """Return those of some jobs."""
        return LastResorts(self.column[jobs], self.worst_usd[jobs], self.expected_usd[jobs])

    def kept_usd(
        self,
        planned: Int[np.ndarray, " jobs"],
        planned_usd: Float64[np.ndarray, " jobs"],
        spare_usd: float,
    ) -> Float64[np.ndarray, " jobs"]:
        """Return what the budget keeps for each: so much that the plan never needs it otherwise.

        Args:
            planned: Position in the pool of the model that each job asks first.
            planned_usd: What each job is expected to cost as planned, in USD.
            spare_usd: A job's share of what the plan leaves of the budget, in USD.
        """
        most_usd = planned_usd + spare_usd
        shared_usd = np.maximum(_KEPT_SHARE * most_usd, np.minimum(self.expected_usd, most_usd))
        most_usd = np.where(planned == self.column, most_usd, shared_usd)
        return np.asarray(np.minimum(self.worst_usd, most_usd))


def last_resorts(
    requests: RequestFacts,
    batch: BatchRecord,
    calls: CallEstimates,
    reserve_usd: Float64[np.ndarray, "jobs models"],
) -> LastResorts:
    """Return the cheapest call of each job.

    Args:
        requests: Of the jobs, in the order of the rows.
        batch: Their batch, with its candidate models.
        calls: What is expected of their calls.
        reserve_usd: What a call of each pair reserves, by `reservations_usd`.
    """
    pool = batch.pool
    worst_usd = np.where(calls.allowed, reserve_usd, np.inf)
    worst_usd[:, [model.is_batch_channel for model in pool.models]] = np.inf
    if batch.call_options.max_completion_tokens is None:
        worst_usd += _asked_again_usd(requests, pool, calls, reserve_usd)
    column = worst_usd.argmin(axis=1).astype(np.int16)
    least_usd = worst_usd[np.arange(len(requests)), column]
    is_any = np.isfinite(least_usd)
    return LastResorts(
        np.where(is_any, column, np.int16(-1)),
        np.where(is_any, least_usd, 0.0).astype(np.float32),
        calls.cost_usd[np.arange(len(requests)), column].astype(np.float32),
    )


def _asked_again_usd(
    requests: RequestFacts,
    pool: Pool,
    calls: CallEstimates,
    reserve_usd: Float64[np.ndarray, "jobs models"],
) -> Float64[np.ndarray, "jobs models"]:
    """Return what a second call with the pool's limit reserves, where the first limit may cut."""
    most = _array(model.max_completion_tokens for model in pool.models)
    price = _array(float(model.price_usd_per_mtok.completion) for model in pool.models)
    more = np.maximum(most - calls.limit_tokens, 0.0) * requests.choices[:, None]
    again_usd = reserve_usd + more * price / float(TOKENS_PER_MTOK)
    is_cut: Bool[np.ndarray, "jobs models"] = (more > 0) & ~calls.has_own_limit[:, None]
    return np.where(is_cut, again_usd, 0.0)


def _capped_usd(
    requests: RequestFacts, pool: Pool, limit: Float64[np.ndarray, "jobs models"]
) -> Float64[np.ndarray, "jobs models"]:
    """Return the worst case of each call of the jobs that have a cost cap; 0 for other jobs."""
    worst = np.zeros(limit.shape)
    has_cap = np.array([kind.sla.max_cost_usd is not None for kind in requests.kinds], np.bool_)
    capped = np.flatnonzero(has_cap[requests.kind])
    if len(capped):
        worst[capped] = reservations_usd(requests.rows(capped), pool, limit[capped])
    return worst
