"""What a batch's probes rest on: a judge of answers, and what limits further calls."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from routoo.domain.pool import Pool
from routoo.judge.pair_judge import MOST_PRICE_SHARE
from routoo.pipeline.request_facts import RequestFacts
from routoo.pipeline.select.estimates import most_usd
from routoo.selector.comparisons import Columns, Judgements


class PoolJudgementModel(Protocol):
    """What judging answers may bring for some jobs, before there are any."""

    def of(
        self, probe: int, models: Columns, rows: Int[np.ndarray, " jobs"] | None = None
    ) -> Judgements:
        """Return a probe's outcomes, with the estimates of some models; places in the pool.

        Of some of the jobs only where rows are given.
        """
        ...


@runtime_checkable
class PlanningJudge(Protocol):
    """What the selection needs of a judge of answers: what judging may bring."""

    @property
    def probes(self) -> Sequence[str]:
        """Models whose answers can be judged."""
        ...

    @property
    def pairs(self) -> Collection[tuple[str, str]]:
        """Models of which the second's answer can be compared with the first's."""
        ...

    def judgement_model(
        self, models: Sequence[str], quality: Float[np.ndarray, "jobs pool"]
    ) -> PoolJudgementModel:
        """Return what judging any probe's answers may bring, for jobs of a pool."""
        ...

    def pool_agreement(
        self,
        pool: Sequence[str],
        both: tuple[int, int],
        models: Columns,
        quality: Float[np.ndarray, "models jobs"],
    ) -> Judgements:
        """Return what comparing a second model's answer may bring, places in the pool.

        Args:
            pool: Its models.
            both: The model whose answer is there, and the second one.
            models: Those whose quality is wanted, these two first.
            quality: Of these, given the first's answer.
        """
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
    deadline_s: Float64[np.ndarray, " jobs"]
    """Their own deadlines, in seconds since 1970; infinite where there is none."""
    latency_s: Float32[np.ndarray, "jobs models"]
    """Typical latency of a call of a job with a deadline of its own; 0 for all others, and where
    nothing is known."""
    open_prompt: Bool[np.ndarray, " jobs"] | None = None
    """Jobs whose prompt offers no options: answers to others are not compared; None = none is."""

    @classmethod
    def empty(cls, shape: tuple[int, ...], *, compares: bool = False) -> "SecondCallLimits":
        """Return limits of jobs that have none, to be filled in.

        Args:
            shape: Number of jobs and of models.
            compares: Whether a second answer may be compared with the first.
        """
        capped = np.zeros(shape[0], np.bool_)
        cap_usd, deadline_s = np.zeros(shape[0]), np.full(shape[0], np.inf)
        open_prompt = np.zeros(shape[0], np.bool_) if compares else None
        worst_usd, latency_s = (np.zeros(shape, np.float32) for _ in range(2))
        return cls(capped, cap_usd, worst_usd, deadline_s, latency_s, open_prompt)

    def fill(
        self,
        rows: slice,
        requests: RequestFacts,
        pool: Pool,
        latency_s: Float[np.ndarray, "rows models"],
    ) -> None:
        """Set the limits of the jobs in some rows, with the typical latency of their calls."""
        if self.open_prompt is not None and requests.open_prompt is not None:
            self.open_prompt[rows] = requests.open_prompt
        slas = [kind.sla for kind in requests.kinds]
        ends_s = [np.inf if sla.deadline is None else sla.deadline.timestamp() for sla in slas]
        self.deadline_s[rows] = np.array(ends_s)[requests.kind]
        own = np.isfinite(self.deadline_s[rows])
        self.latency_s[rows][own] = np.nan_to_num(latency_s[own])
        caps_usd = [np.nan if sla.max_cost_usd is None else float(sla.max_cost_usd) for sla in slas]
        cap_usd = np.array(caps_usd)[requests.kind]
        capped = np.flatnonzero(~np.isnan(cap_usd))
        self.capped[rows][capped], self.cap_usd[rows][capped] = True, cap_usd[capped]
        self.worst_usd[rows][capped] = most_usd(requests.rows(capped), pool)

    def rows(self, jobs: Int[np.ndarray, " some"]) -> "SecondCallLimits":
        """Return the limits of some jobs."""
        return SecondCallLimits(
            self.capped[jobs],
            self.cap_usd[jobs],
            self.worst_usd[jobs],
            self.deadline_s[jobs],
            self.latency_s[jobs],
            None if self.open_prompt is None else self.open_prompt[jobs],
        )

    def allow(self, jobs: Int[np.ndarray, " some"], probe: int) -> Bool[np.ndarray, "some models"]:
        """Return which second calls the jobs' caps cover beside the probe's, at worst."""
        if not self.capped.any():
            return np.ones((len(jobs), self.worst_usd.shape[1]), np.bool_)
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
    left_s: Float64[np.ndarray, " jobs"] | None = None
    """Seconds until each job's deadline, within which all calls must be made; None = no limit."""

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
            may &= ~(both > self.left_s[jobs][:, None])  # what isn't known limits nothing
        return np.asarray(may)

    def may_compare(
        self,
        pool: Pool,
        cost_usd: Float[np.ndarray, "jobs models"],
        jobs: Int[np.ndarray, " some"],
        both: tuple[int, int],
    ) -> Bool[np.ndarray, " some"]:
        """Return of which jobs a second answer may be compared with a probe's, as dispatch does.

        It must be cheap beside a third call, and leave time for one; a job that has a cap of its
        cost gets two calls at most.

        Args:
            pool: The candidate models.
            cost_usd: Expected cost of a call, in USD.
            jobs: Numbers of jobs.
            both: Columns of the probe and of the second model.
        """
        if self.limits.open_prompt is None:
            return np.zeros(len(jobs), np.bool_)
        third = self.follow(pool, jobs, both[0])
        may = third[:, both[1]] & self.limits.open_prompt[jobs] & ~self.limits.capped[jobs]
        third[:, list(both)] = False
        dearest_usd = np.where(third, cost_usd[jobs], 0.0).max(axis=1)
        cheap = ~(cost_usd[jobs, both[1]] > MOST_PRICE_SHARE * dearest_usd)
        may &= third.any(axis=1) & cheap
        if self.latency_s is not None and self.left_s is not None:
            latency_s = np.nan_to_num(self.latency_s[jobs])
            slowest_s = np.where(third, latency_s, 0.0).max(axis=1)
            may &= latency_s[:, list(both)].sum(axis=1) + slowest_s <= self.left_s[jobs]
        return np.asarray(may)
