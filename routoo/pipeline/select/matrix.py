"""Reads a whole batch as arrays: what the selector decides on, and the jobs that it can't."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32
from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus, Job
from routoo.domain.pool import TOKENS_PER_MTOK, Pool
from routoo.domain.prediction import Experience, Predictions
from routoo.pipeline.judges import load_judge
from routoo.pipeline.request_facts import RequestDigests, RequestFacts
from routoo.pipeline.select.capacity import Demand
from routoo.pipeline.select.duplicates import Duplicates
from routoo.pipeline.select.eligibility import describe_ineligibility
from routoo.pipeline.select.estimates import (
    NOTHING_KNOWN,
    CallEstimates,
    LastResorts,
    estimate_calls,
    last_resorts,
    reservations_usd,
)
from routoo.pipeline.select.facts_reader import FactsReader, FoundFacts
from routoo.pipeline.select.judged_batch import PlanningJudge, SecondCallLimits
from routoo.store import assignments, predictions
from routoo.store.batches.records import BatchRecord

_JOBS_PER_FILL = 5000
"""Number of jobs of which Python's objects are made at once."""


@dataclass(frozen=True, slots=True)
class CallBounds:
    """What bounds the tokens of each job's call, whichever model answers it."""

    text_tokens: Float64[np.ndarray, " jobs"]
    """Upper bound of the prompt tokens of the text."""
    choices: Float64[np.ndarray, " jobs"]
    """Number of answers that the request asks for."""
    limit_tokens: Float64[np.ndarray, " jobs"]
    """The request's own limit of tokens an answer; NaN where it has none."""
    asked_twice: Bool[np.ndarray, "jobs models"]
    """Whether an answer that reaches the first limit is asked again with the pool's."""
    parts: dict[int, Mapping[str, int]] = field(default_factory=dict)
    """How many content parts of each kind beside text, of the jobs that have any."""

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Self:
        """Return bounds for jobs x models, to be filled in."""
        text, choices, limits = (np.zeros(shape[0]) for _ in range(3))
        return cls(text, choices, limits, np.zeros(shape, np.bool_))

    def fill(self, rows: slice, requests: RequestFacts) -> None:
        """Set the bounds of the jobs in some rows."""
        self.text_tokens[rows], self.choices[rows] = requests.bound_tokens, requests.choices
        self.limit_tokens[rows] = requests.limit_tokens
        for number, kind in enumerate(requests.kinds):
            if kind.parts:
                found = np.flatnonzero(requests.kind == number) + rows.start
                self.parts.update(dict.fromkeys(found.tolist(), kind.part_counts))

    def fill_limits(self, rows: slice, batch: BatchRecord, estimates: CallEstimates) -> None:
        """Set which calls of the jobs in some rows may be made twice, and the batch's own limit."""
        default = batch.call_options.max_completion_tokens
        if default is not None:
            own = self.limit_tokens[rows]
            self.limit_tokens[rows] = np.where(np.isnan(own), default, own)
            return
        most = np.array([model.max_completion_tokens for model in batch.pool.models])
        ours = ~estimates.has_own_limit[:, None]
        self.asked_twice[rows] = ours & (estimates.limit_tokens < most)

    def worst_case_usd(self, pool: Pool, choice: Int32[np.ndarray, " jobs"]) -> float:
        """Return the most that one call of each served job can cost together, in USD.

        Args:
            pool: The candidate models.
            choice: Column of each job's model, -1 where it has none.
        """
        total = 0.0
        for column, model in enumerate(pool.models):
            rows = np.flatnonzero(choice == column)
            prompt = float(self.text_tokens[rows].sum()) + sum(
                model.part_tokens(counts) or 0
                for row, counts in self.parts.items()
                if choice[row] == column
            )
            prompt += rows.size * model.extra_prompt_tokens
            own, most = self.limit_tokens[rows], model.max_completion_tokens
            own = own if model.obeys_limits else np.maximum(own, most)
            answer = np.where(np.isnan(own), most, own) * self.choices[rows]
            answer += model.extra_completion_tokens
            price = model.price_usd_per_mtok
            total += prompt * float(price.prompt)
            total += float(answer.sum()) * float(price.completion)
        return total / float(TOKENS_PER_MTOK)

    def most_usd(
        self, pool: Pool, rows: Int[np.ndarray, " some"]
    ) -> Float64[np.ndarray, "some models"]:
        """Return the most that a call of some jobs to each model can cost, in USD."""
        columns = []
        for model in pool.models:
            parts = [model.part_tokens(self.parts.get(row, {})) or 0 for row in rows.tolist()]
            prompt = self.text_tokens[rows] + np.array(parts) + model.extra_prompt_tokens
            own, most = self.limit_tokens[rows], model.max_completion_tokens
            own = own if model.obeys_limits else np.maximum(own, most)
            answer = np.where(np.isnan(own), most, own) * self.choices[rows]
            price = model.price_usd_per_mtok
            columns.append(
                prompt * float(price.prompt)
                + (answer + model.extra_completion_tokens) * float(price.completion)
            )
        return np.stack(columns, axis=1) / float(TOKENS_PER_MTOK)


@dataclass(frozen=True, slots=True)
class BatchMatrix:
    """Jobs x candidate models, in pool order, for a whole batch."""

    quality: Float32[np.ndarray, "jobs models"]
    quality_std: Float32[np.ndarray, "jobs models"]
    """Standard deviation of the quality estimate."""
    cost_usd: Float64[np.ndarray, "jobs models"]
    """Expected cost of one call, in USD; 0 for a duplicate, which is not called."""
    allowed: Bool[np.ndarray, "jobs models"]
    ineligible: dict[int, str] = field(default_factory=dict)
    """For each job without an eligible model, by job_no: the reason."""
    demand: Demand | None = None
    """What each call takes of its endpoint; None where nothing needs it."""
    reserve_usd: Float32[np.ndarray, "jobs models"] | None = None
    """What dispatch sets aside for a job's first call, in USD; 0 for a duplicate, which has none;
    None where the batch has no budget and is no plan."""
    last_resorts: LastResorts | None = None
    """The cheapest call of each job; None where nothing is reserved."""
    bounds: CallBounds | None = None
    """What bounds each call's cost; None where nothing needs it."""
    judge: PlanningJudge | None = None
    """Judges answers; None where none are judged."""
    second_limits: SecondCallLimits | None = None
    """What keeps jobs from a second call; there where there is a judge."""
    weight: Float32[np.ndarray, " jobs"] | None = None
    """Number of jobs that a job's answer serves, 0 for a duplicate; None = 1 each."""
    duplicates: Duplicates | None = None
    """Duplicates in the whole batch; None where each job is called for itself."""

    def rows(self, jobs: Int[np.ndarray, " some"]) -> "BatchMatrix":
        """Return some jobs in the order given; `ineligible` keeps their numbers in the batch."""
        demand = self.demand
        return replace(
            self,
            quality=self.quality[jobs],
            quality_std=self.quality_std[jobs],
            cost_usd=self.cost_usd[jobs],
            allowed=self.allowed[jobs],
            demand=demand and Demand(demand.tokens[jobs], demand.latency_s[jobs]),
            second_limits=self.second_limits and self.second_limits.rows(jobs),
            reserve_usd=None if self.reserve_usd is None else self.reserve_usd[jobs],
            last_resorts=self.last_resorts and self.last_resorts.rows(jobs),
            weight=None if self.weight is None else self.weight[jobs],
            duplicates=None,
        )

    def prefer(self, preferred: Bool[np.ndarray, "#jobs models"]) -> "BatchMatrix":
        """Return the jobs restricted to the models that are preferred for them.

        A job that may be answered by none of its preferred models is not restricted.
        """
        narrowed = self.allowed & preferred
        has_any = narrowed.any(axis=1, keepdims=True)
        return replace(self, allowed=np.where(has_any, narrowed, self.allowed))


async def load_matrix(
    conn: AsyncConnection, batch: BatchRecord, experience: Experience = NOTHING_KNOWN
) -> BatchMatrix:
    """Read a scored batch as arrays.

    Args:
        conn: A connection.
        batch: The batch, every job scored.
        experience: What is known from earlier calls.

    Returns:
        The arrays. Each job and candidate model takes about 17 bytes, 8 more where the batch has a
        deadline or is a plan, and 5 more where it has a budget or is a plan. A job takes 24 bytes
        more while duplicates are looked for, and 32 in a plan.
    """
    judge = await load_judge(conn, batch)
    predicted = await predictions.load_batch(conn, batch.id)
    filler = _Filler(batch, predicted, experience, judge)
    await filler.read(conn, np.arange(batch.job_count, dtype=np.int32))
    return filler.matrix()


async def load_open_matrix(
    conn: AsyncConnection,
    batch: BatchRecord,
    experience: Experience,
    numbers: Int32[np.ndarray, " open"],
) -> BatchMatrix:
    """Read some jobs of a selected batch as arrays: its duplicates are known.

    Args:
        conn: A connection.
        batch: The batch.
        experience: What is known from earlier calls.
        numbers: Of the jobs, ascending, no duplicates among them; each has a row.
    """
    judge = await load_judge(conn, batch)
    predicted = (await predictions.load_batch(conn, batch.id)).rows(numbers)
    filler = _Filler(batch, predicted, experience, judge, dedupe=False)
    await filler.read(conn, numbers)
    weight = await assignments.load_weights(conn, batch.id, numbers)
    return replace(filler.matrix(), weight=weight)


def build_matrix(
    batch: BatchRecord,
    jobs: Sequence[Job],
    predicted: Predictions,
    experience: Experience = NOTHING_KNOWN,
    judge: PlanningJudge | None = None,
) -> BatchMatrix:
    """Return a batch that is in memory as arrays, as `load_matrix` returns one of the database."""
    filler = _Filler(batch, predicted, experience, judge)
    for first in range(0, len(jobs), _JOBS_PER_FILL):
        some = jobs[first : first + _JOBS_PER_FILL]
        filler.fill(first, [job.job_no for job in some], filler.facts_of(some))
    return filler.matrix()


class _Filler:
    """Fills a batch's arrays, slice by slice, and makes the matrix of them."""

    def __init__(
        self,
        batch: BatchRecord,
        predicted: Predictions,
        experience: Experience,
        judge: PlanningJudge | None,
        *,
        dedupe: bool | None = None,
    ) -> None:
        self._batch, self._predicted, self._experience = batch, predicted, experience
        self._judge = judge
        shape = predicted.quality.shape
        self._cost_usd, self._allowed = np.zeros(shape), np.zeros(shape, np.bool_)
        self._ineligible: dict[int, str] = {}
        is_plan = batch.status is BatchStatus.PLANNING
        needs_demand = batch.deadline is not None or is_plan
        self._demand = Demand.empty(shape) if needs_demand else None
        has_budget = batch.budget_usd is not None
        self._reserve_usd = np.zeros(shape, np.float32) if has_budget or is_plan else None
        self._last = None if self._reserve_usd is None else LastResorts.empty(shape[0])
        self._bounds = CallBounds.empty(shape) if is_plan else None
        self._second_limits = None
        if judge is not None:
            self._second_limits = SecondCallLimits.empty(shape, compares=bool(judge.pairs))
        wanted = batch.call_options.dedupe if dedupe is None else dedupe
        self._merge_samples = wanted is True
        self._digests = None if wanted is False else RequestDigests.empty(shape[0])

    async def read(self, conn: AsyncConnection, numbers: Int32[np.ndarray, " rows"]) -> None:
        """Estimate the calls of all jobs by what the store knows of their requests.

        Args:
            conn: A connection.
            numbers: Of the jobs, ascending, one a row.
        """
        reader = FactsReader(conn, self._batch.id, self._reads_options, self._digests is not None)
        first = 0
        async for found in reader.read(numbers):
            some = numbers[first : first + len(found.requests)]
            self.fill(first, some, found)
            first += len(some)

    def facts_of(self, jobs: Sequence[Job]) -> FoundFacts:
        """Return what is needed to know of the requests of some jobs."""
        return FoundFacts.of(jobs, self._reads_options, self._digests is not None)

    @property
    def _reads_options(self) -> bool:
        return self._second_limits is not None and self._second_limits.open_prompt is not None

    def fill(
        self, first: int, numbers: Int[np.ndarray, " some"] | Sequence[int], found: FoundFacts
    ) -> None:
        """Estimate the calls of some jobs.

        Args:
            first: Row of the first of them.
            numbers: Of the jobs.
            found: What is known of their requests.
        """
        requests = found.requests
        rows = slice(first, first + len(requests))
        quality = self._predicted.quality[rows]
        tokens = self._predicted.completion_tokens[rows]
        estimates = estimate_calls(
            requests,
            self._batch.pool,
            quality,
            tokens,
            self._experience,
            self._batch.call_options.max_completion_tokens,
        )
        self._cost_usd[rows] = estimates.cost_usd
        self._allowed[rows] = estimates.allowed
        self._describe_ineligible(numbers, requests, estimates)
        if self._demand is not None:
            self._demand.tokens[rows] = estimates.tokens
            self._demand.latency_s[rows] = estimates.latency_s
        self._fill_money(rows, requests, estimates)
        if self._second_limits is not None:
            self._second_limits.fill(rows, requests, self._batch.pool, estimates.latency_s)
        if self._digests is not None and found.digests is not None:
            self._digests.fill(rows, found.digests)

    def _fill_money(self, rows: slice, requests: RequestFacts, estimates: CallEstimates) -> None:
        """Set what the calls of the jobs in some rows reserve, and what bounds their cost."""
        if self._reserve_usd is not None:
            usd = reservations_usd(requests, self._batch.pool, estimates.limit_tokens)
            self._reserve_usd[rows] = usd
            if self._last is not None:
                self._last.fill(rows, last_resorts(requests, self._batch, estimates, usd))
        if self._bounds is not None:
            self._bounds.fill(rows, requests)
            self._bounds.fill_limits(rows, self._batch, estimates)

    def matrix(self) -> BatchMatrix:
        """Return the matrix once all jobs are filled in."""
        duplicates = None
        if self._digests is not None:
            duplicates = Duplicates.of(self._digests, merge_samples=self._merge_samples)
        weight = None if duplicates is None else duplicates.weight
        if weight is not None:
            self._clear(weight == 0)
        return BatchMatrix(
            self._predicted.quality,
            self._predicted.quality_std,
            self._cost_usd,
            self._allowed,
            ineligible=self._ineligible,
            demand=self._demand,
            reserve_usd=self._reserve_usd,
            last_resorts=self._last,
            bounds=self._bounds,
            judge=self._judge,
            second_limits=self._second_limits,
            weight=weight,
            duplicates=duplicates,
        )

    def _clear(self, duplicates: Bool[np.ndarray, " jobs"]) -> None:
        """Let duplicates cost nothing and take nothing of their endpoints."""
        self._cost_usd[duplicates] = 0
        if self._reserve_usd is not None:
            self._reserve_usd[duplicates] = 0
        if self._last is not None:
            self._last.worst_usd[duplicates] = 0
        if self._demand is not None:
            self._demand.tokens[duplicates] = 0
            self._demand.latency_s[duplicates] = 0

    def _describe_ineligible(
        self,
        numbers: Int[np.ndarray, " some"] | Sequence[int],
        requests: RequestFacts,
        estimates: CallEstimates,
    ) -> None:
        for row in np.flatnonzero(~estimates.allowed.any(axis=1)).tolist():
            self._ineligible[int(numbers[row])] = describe_ineligibility(
                requests.kinds[requests.kind[row]],
                estimates.reasons[row],
                estimates.sure_quality[row],
                estimates.latency_s[row],
            )
