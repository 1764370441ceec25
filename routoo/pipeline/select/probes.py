"""Probes of a batch: which cheap models may be asked first, and what judging them brings.

Where the batch's checkpoint can judge answers, the selection has further options
(`routoo.selector.probes`). Without a judge everything is as if there were none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64

from routoo.domain.job import Job
from routoo.domain.pool import Pool
from routoo.domain.prediction import Experience
from routoo.domain.prompt import bound_cost_usd
from routoo.pipeline.select.experience import answered_shares
from routoo.selector.probes import (
    Policies,
    extended,
    part_of,
    spread_policies,
    with_policies,
)
from routoo.selector.problem import Problem
from routoo.selector.second_calls import Columns, Judgements, ProbeModel
from routoo.store.batches.records import BatchRecord


class PoolJudgementModel(Protocol):
    """What judging answers may bring for some jobs, before there are any."""

    def of(self, probe: int, models: Columns) -> Judgements:
        """Return a probe's outcomes, with the estimates of some models; places in the pool."""
        ...


@runtime_checkable
class PlanningJudge(Protocol):
    """What the selection needs of a judge of answers: what judging may bring."""

    @property
    def probes(self) -> Sequence[str]:
        """Models whose answers can be judged."""
        ...

    def judgement_model(
        self, models: Sequence[str], quality: Float[np.ndarray, "jobs pool"]
    ) -> PoolJudgementModel:
        """Return what judging any probe's answers may bring, for jobs of a pool."""
        ...


@dataclass(frozen=True, slots=True)
class SecondCallLimits:
    """What keeps a job from a second call; None where nothing of that kind does."""

    capped: Bool[np.ndarray, " jobs"]
    """Jobs that have a cap of their cost."""
    cap_usd: Float64[np.ndarray, " jobs"]
    """Most that the calls of such a job may cost together, in USD."""
    worst_usd: Float32[np.ndarray, "jobs models"]
    """Most that a call of such a job can cost, in USD."""

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> "SecondCallLimits":
        """Return limits of jobs that have none, to be filled in."""
        return cls(np.zeros(shape[0], np.bool_), np.zeros(shape[0]), np.zeros(shape, np.float32))

    def fill(self, rows: slice, jobs: Sequence[Job], pool: Pool) -> None:
        """Set the limits of the jobs in some rows."""
        for row, job in enumerate(jobs, rows.start):
            if job.sla.max_cost_usd is not None:
                self.capped[row] = True
                self.cap_usd[row] = float(job.sla.max_cost_usd)
                self.worst_usd[row] = [bound_cost_usd(job.body, one) for one in pool.models]

    def rows(self, jobs: Int[np.ndarray, " some"]) -> "SecondCallLimits":
        """Return the limits of some jobs."""
        return SecondCallLimits(self.capped[jobs], self.cap_usd[jobs], self.worst_usd[jobs])

    def allow(self, jobs: Int[np.ndarray, " some"], probe: int) -> Bool[np.ndarray, "some models"]:
        """Return which second calls the jobs' caps cover beside the probe's, at worst."""
        both = self.worst_usd[jobs] + self.worst_usd[jobs, probe][:, None]
        return np.asarray(~self.capped[jobs][:, None] | (both <= self.cap_usd[jobs][:, None]))


@dataclass(frozen=True, slots=True)
class JudgedBatch:
    """What the probes of a batch rest on, jobs x models in pool order."""

    judge: PlanningJudge
    allowed: Bool[np.ndarray, "jobs models"]
    limits: SecondCallLimits
    latency_s: Float32[np.ndarray, "jobs models"] | None = None
    """Typical latency of a call; NaN where nothing is known."""
    left_s: float | None = None
    """Seconds until the deadline, within which both calls must be made; None = no deadline."""

    def follow(
        self, pool: Pool, jobs: Int[np.ndarray, " some"], probe: int
    ) -> Bool[np.ndarray, "some models"]:
        """Return which models may be asked after a probe.

        A batch channel is none of them: its rows are handed over before the first call.
        """
        single = np.array([not model.is_batch_channel for model in pool.models])
        may = self.allowed[jobs] & single & self.limits.allow(jobs, probe)
        if self.latency_s is not None and self.left_s is not None:
            both = self.latency_s[jobs] + self.latency_s[jobs, probe][:, None]
            may &= ~(both > self.left_s)  # what isn't known limits nothing
        return np.asarray(may)


def probe_model(
    batch: BatchRecord,
    judged: JudgedBatch,
    direct: Problem,
    quality: Float[np.ndarray, "jobs models"],
    experience: Experience,
    weight: Float32[np.ndarray, " jobs"] | None,
) -> ProbeModel | None:
    """Return what is known of a batch's probes; None where none may be asked.

    Args:
        batch: The batch.
        judged: What its probes rest on.
        direct: The problem with the models as its options.
        quality: Expected quality of one answer, failures left out.
        experience: What the problem was estimated with.
        weight: Number of jobs that an answer serves; None = 1 each.
    """
    pool, judge = batch.pool, judged.judge
    probes = probe_columns(batch, judge.probes)
    if not probes:
        return None
    names = [model.predicted_as for model in pool.models]
    return ProbeModel(
        lambda known: judge.judgement_model(names, known).of,
        probes,
        np.asarray(quality, np.float32),
        direct.cost_usd,
        lambda jobs, probe: judged.follow(pool, jobs, probe),
        answered_shares(pool, experience),
        weight,
    )


def probe_columns(batch: BatchRecord, judged: Sequence[str]) -> tuple[int, ...]:
    """Return the columns of judged models that a batch lets be asked first."""
    only = batch.call_options.cascade_only
    return tuple(
        column
        for column, model in enumerate(batch.pool.models)
        if not model.is_batch_channel
        and model.predicted_as in judged
        and (only is None or model.name in only)
    )


@dataclass(frozen=True, slots=True)
class ProbedJobs:
    """Jobs that ask a probe first, and what is expected of them."""

    jobs: Int64[np.ndarray, " probed"]
    quality: Float32[np.ndarray, " probed"]
    """Expected quality of the answer that is kept."""
    cost_usd: Float64[np.ndarray, " probed"]
    """Expected cost of both calls, in USD."""
    second: Float32[np.ndarray, "probed models"]
    """Probability that each model is asked after the probe."""

    @property
    def escalation_chance(self) -> Float64[np.ndarray, " probed"]:
        """Probability that any is."""
        return np.asarray(np.clip(self.second.sum(axis=1, dtype=np.float64), 0.0, 1.0))

    def some(self, keep: Bool[np.ndarray, " probed"]) -> "ProbedJobs":
        """Return those that are to be kept."""
        return ProbedJobs(
            self.jobs[keep], self.quality[keep], self.cost_usd[keep], self.second[keep]
        )


def no_probed_jobs(models: int) -> ProbedJobs:
    """Return the record of a choice without probes."""
    none = np.empty(0)
    return ProbedJobs(
        none.astype(np.int64), none.astype(np.float32), none, np.empty((0, models), np.float32)
    )


@dataclass(frozen=True, slots=True)
class PosedProblem:
    """A batch as a problem of the selector, and what its options are."""

    problem: Problem
    """Options are the models, then the policies of probes."""
    direct: Problem
    """The same with the models alone."""
    policies: Policies
    known: ProbeModel | None = None

    @classmethod
    def without_probes(cls, problem: Problem) -> "PosedProblem":
        """Return a problem whose only options are the models."""
        return cls(problem, problem, Policies(problem.options))

    @classmethod
    def with_probes(cls, direct: Problem, known: ProbeModel | None) -> "PosedProblem":
        """Return a problem with the policies of the probes that are worth it."""
        if known is None:
            return cls.without_probes(direct)
        problem, policies = with_policies(direct, known)
        return cls(problem, direct, policies, known if policies.probe else None)

    @classmethod
    def of_plan(
        cls, direct: Problem, known: ProbeModel | None, pool: Pool, plan: Mapping[str, Any]
    ) -> "PosedProblem":
        """Return the problem with each probe of a plan as an option, at the plan's threshold."""
        described = plan.get("probes")
        if known is None or described is None:
            return cls.without_probes(direct)
        probes = tuple(pool.index(one["model"]) for one in described["models"])
        prices = (float(described["threshold_price_per_usd"]),) * len(probes)
        policies = Policies(direct.options, probes, prices)
        return cls(extended(direct, known, policies), direct, policies, known)

    def names(self, pool: Pool) -> tuple[str, ...]:
        """Return what people call each option."""
        probes = tuple(f"{pool.names[probe]}, judged" for probe in self.policies.probe)
        return (*pool.names, *probes)

    def reserved(
        self, reserve_usd: Float32[np.ndarray, "jobs models"]
    ) -> Float32[np.ndarray, "jobs options"]:
        """Return what each option reserves at most at once, in USD; a probe ends before the next.

        Args:
            reserve_usd: What a call of each pair reserves.
        """
        jobs, models, policies = np.arange(len(reserve_usd)), self.policies.models, self.policies
        options = models + policies.columns
        first = np.stack([policies.first(np.full(len(jobs), at)) for at in range(options)], axis=1)
        reserved = np.array(reserve_usd[jobs[:, None], first], np.float32)
        for probe in policies.probes:
            if self.known is None:
                break
            may = self.known.follow(jobs, probe)
            dearest = np.where(may, reserve_usd, np.float32(0)).max(axis=1)
            policy = (first == probe) & (np.arange(options) >= models)
            np.maximum(reserved, dearest[:, None], out=reserved, where=policy)
        return reserved

    def probed(self, choice: Int[np.ndarray, " jobs"]) -> ProbedJobs:
        """Return the jobs whose choice is a policy, with what is expected of each."""
        taken = self.policies.taken(choice)
        parts = [self.at(jobs, probe, price) for probe, price, jobs in taken]
        return joined(parts, self.policies.models)

    def frontier_problems(self, most_jobs: int) -> tuple[Problem, Problem]:
        """Return some jobs without probes, and with policies for prices over the whole range.

        Args:
            most_jobs: How many; all of them where they are fewer.
        """
        step = -(-self.direct.jobs // most_jobs)
        jobs = np.arange(0, self.direct.jobs, step)
        direct = part_of(self.direct, jobs)
        if self.known is None:
            return direct, direct
        known = self.known.some(jobs)
        return direct, extended(direct, known, spread_policies(direct, self.policies.probes))

    def threshold_price(self, shadow_price_per_usd: float) -> float:
        """Return the price of a dollar at which answers are accepted or not.

        It is the shadow price, at least what the owner asks of a dollar; where money does not
        bind, the lowest price that a policy was made for, so that the answers cost what was
        planned.
        """
        price = max(shadow_price_per_usd, self.direct.floor_price_per_usd)
        return price or min(self.policies.price, default=0.0)

    def at_price(
        self, jobs: Int[np.ndarray, " some"], first: Int[np.ndarray, " some"], price: float
    ) -> ProbedJobs:
        """Return what is expected of jobs that ask these probes, at one price of a dollar."""
        probes = sorted(set(first.tolist()))
        parts = [self.at(jobs[first == probe], probe, price) for probe in probes]
        return joined(parts, self.policies.models)

    def at(self, jobs: Int[np.ndarray, " some"], probe: int, price: float) -> ProbedJobs:
        """Return what is expected of jobs that ask one probe."""
        if self.known is None or len(jobs) == 0:
            return no_probed_jobs(self.policies.models)
        expected = self.known.of_jobs(np.asarray(jobs))
        second = expected.outcomes(probe, self.policies.rivals_at).at_price(price)
        asked = [
            np.zeros(len(jobs), np.float32) if model == probe else second.asked(model)
            for model in range(self.policies.models)
        ]
        first_usd = self.direct.cost_usd[jobs, probe].astype(np.float64)
        return ProbedJobs(
            np.asarray(jobs, np.int64),
            np.clip(second.quality, 0, 1).astype(np.float32),
            first_usd + second.cost_usd,
            np.stack(asked, axis=1),
        )


def joined(parts: Sequence[ProbedJobs], models: int) -> ProbedJobs:
    """Return several records as one, jobs in order."""
    parts = [part for part in parts if len(part.jobs)]
    if not parts:
        return no_probed_jobs(models)
    jobs = np.concatenate([part.jobs for part in parts])
    order = np.argsort(jobs, kind="stable")
    return ProbedJobs(
        jobs[order],
        np.concatenate([part.quality for part in parts])[order],
        np.concatenate([part.cost_usd for part in parts])[order],
        np.concatenate([part.second for part in parts])[order],
    )


def describe_probes(
    posed: PosedProblem,
    pool: Pool,
    probed: ProbedJobs,
    first: Int[np.ndarray, " jobs"],
    shadow_price_per_usd: float,
) -> dict[str, Any] | None:
    """Return the part of a plan that is about probes; None where no probe was an option.

    Keys: `jobs` that ask a probe first, their `share` of the served ones, `escalations` (jobs of
    which another model is expected to be asked) with their `escalation_share` of the probed ones,
    `threshold_price_per_usd` (another model is asked where its judged quality less its cost at this
    price is more than that of the answer), `second_cost_usd` (expected, of those calls), `models`
    (of each probe its `jobs` and `escalations`), `second` (expected second calls of each model),
    and `policies`: `model` and `price_per_usd` of each that the selection could choose.
    """
    if posed.known is None:
        return None
    served = int(np.count_nonzero(first >= 0))
    chance, probe = probed.escalation_chance, first[probed.jobs]
    second_usd = probed.cost_usd - posed.direct.cost_usd[probed.jobs, probe]
    return {
        "jobs": len(probed.jobs),
        "share": len(probed.jobs) / served if served else 0.0,
        "escalations": float(chance.sum()),
        "escalation_share": float(chance.mean()) if len(chance) else 0.0,
        "threshold_price_per_usd": posed.threshold_price(shadow_price_per_usd),
        "second_cost_usd": float(second_usd.sum()),
        "models": [
            {
                "model": pool.names[column],
                "jobs": int(np.count_nonzero(probe == column)),
                "escalations": float(chance[probe == column].sum()),
            }
            for column in sorted(posed.policies.probes)
        ],
        "second": {
            name: float(calls)
            for name, calls in zip(pool.names, probed.second.sum(axis=0), strict=True)
            if calls > 0
        },
        "policies": [
            {"model": pool.names[column], "price_per_usd": price}
            for column, price in zip(posed.policies.probe, posed.policies.price, strict=True)
        ],
    }
