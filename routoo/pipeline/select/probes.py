"""Probes of a batch: which cheap models may be asked first, and what judging them brings.

Where the batch's checkpoint can judge answers, the selection has further options
(`routoo.selector.probes`). Without a judge there are no such options.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64

from routoo.domain.pool import Pool
from routoo.domain.prediction import Experience
from routoo.pipeline.select.experience import answered_shares
from routoo.pipeline.select.judged_batch import JudgedBatch, PlanningJudge
from routoo.selector.comparisons import Comparisons
from routoo.selector.policies import Policies, extended
from routoo.selector.probe_model import ProbeModel
from routoo.selector.probes import (
    part_of,
    spread_policies,
    with_policies,
)
from routoo.selector.problem import Problem
from routoo.store.batches.records import BatchRecord


@dataclass(frozen=True, slots=True)
class ProbedJobs:
    """Jobs that ask a probe first, and what is expected of them."""

    jobs: Int64[np.ndarray, " probed"]
    quality: Float32[np.ndarray, " probed"]
    """Expected quality of the answer that is kept."""
    cost_usd: Float64[np.ndarray, " probed"]
    """Expected cost of both calls, in USD."""
    second: Float32[np.ndarray, "probed models"]
    """Probability that each model is asked next after the probe."""
    compared: Float32[np.ndarray, "probed models"]
    """The part of it where its answer is compared with the probe's."""
    third: Float32[np.ndarray, "probed models"]
    """Probability that each model is asked after such a comparison."""

    @property
    def later(self) -> Float32[np.ndarray, "probed models"]:
        """Expected calls of each model after the probe's."""
        return np.asarray(self.second + self.third)

    @property
    def escalation_chance(self) -> Float64[np.ndarray, " probed"]:
        """Probability that any is."""
        return np.asarray(np.clip(self.second.sum(axis=1, dtype=np.float64), 0.0, 1.0))

    def some(self, keep: Bool[np.ndarray, " probed"]) -> "ProbedJobs":
        """Return those that are to be kept."""
        return ProbedJobs(
            self.jobs[keep],
            self.quality[keep],
            self.cost_usd[keep],
            self.second[keep],
            self.compared[keep],
            self.third[keep],
        )


def no_probed_jobs(models: int) -> ProbedJobs:
    """Return the record of a choice without probes."""
    none, calls = np.empty(0), np.empty((0, models), np.float32)
    return ProbedJobs(
        none.astype(np.int64), none.astype(np.float32), none, calls, calls.copy(), calls.copy()
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
        np.concatenate([part.compared for part in parts])[order],
        np.concatenate([part.third for part in parts])[order],
    )


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
        Comparisons(
            lambda first, second, models, known: judge.pool_agreement(
                names, (first, second), models, known
            ),
            lambda jobs, first, second: judged.may_compare(
                pool, direct.cost_usd, jobs, (first, second)
            ),
            _second_columns(pool, judge, probes),
        ),
    )


def _second_columns(
    pool: Pool, judge: PlanningJudge, probes: Sequence[int]
) -> dict[int, tuple[int, ...]]:
    """Return the columns of the models whose answers can be compared with each probe's."""
    names = [model.predicted_as for model in pool.models]
    found = {
        probe: tuple(
            column
            for column, name in enumerate(names)
            if column != probe and (names[probe], name) in judge.pairs
        )
        for probe in probes
    }
    return {probe: columns for probe, columns in found.items() if columns}


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
        seconds = {
            probe: tuple(pool.index(name) for name in one.get("compared_with", ()))
            for probe, one in zip(probes, described["models"], strict=True)
        }
        policies = Policies(direct.options, probes, prices, seconds=seconds)
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
        return direct, extended(direct, known, spread_policies(direct, self.policies))

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
        known, models = self.known.with_seconds(self.policies.seconds), self.policies.models
        expected = known.of_jobs(np.asarray(jobs))
        second = expected.outcomes(probe, self.policies.rivals_at).at_price(price)
        compared, third = np.zeros((2, len(jobs), models), np.float32)
        for one in second.compared:
            compared[:, one.of.column] += one.asked
            for model in range(models):
                third[:, model] += one.third(model)
        asked = np.array(compared)
        for model in range(models):
            if model != probe:
                asked[:, model] += second.asked(model)
        first_usd = self.direct.cost_usd[jobs, probe].astype(np.float64)
        return ProbedJobs(
            np.asarray(jobs, np.int64),
            np.clip(second.quality, 0, 1).astype(np.float32),
            first_usd + second.cost_usd,
            asked,
            compared,
            third,
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
    (of each probe its `jobs`, `escalations`, and `compared_with`: the models whose answers may be
    compared with its own), `second` (expected calls of each model after the probes'), `compared`
    (those of them that are made to compare the answer), and `policies`: `model` and `price_per_usd`
    of each that the selection could choose.
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
            _describe_probe(posed, pool, column, chance[probe == column])
            for column in sorted(posed.policies.probes)
        ],
        "second": {
            name: float(calls)
            for name, calls in zip(pool.names, probed.later.sum(axis=0), strict=True)
            if calls > 0
        },
        "compared": float(probed.compared.sum(dtype=np.float64)),
        "policies": [
            {"model": pool.names[column], "price_per_usd": price}
            for column, price in zip(posed.policies.probe, posed.policies.price, strict=True)
        ],
    }


def _describe_probe(
    posed: PosedProblem, pool: Pool, column: int, chance: Float[np.ndarray, " jobs"]
) -> dict[str, Any]:
    """Return what a plan says of one probe, by the chance that each of its jobs escalates."""
    seconds = posed.policies.seconds.get(column, ())
    return {
        "model": pool.names[column],
        "jobs": len(chance),
        "escalations": float(chance.sum()),
        "compared_with": [pool.names[second] for second in seconds],
    }
