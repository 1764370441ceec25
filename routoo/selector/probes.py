"""Asking a cheap model first and judging its answer, as further options of the same problem.

A probe is a first call whose answer is judged; then it is accepted, or another model is asked. Its
policy at a price x of a dollar asks the model m with the largest q'_m - x c_m where that is more
than q'_probe, with q' the quality that the judgement shows. So at its own price the policy is worth

    E[max(q'_probe, max_m(q'_m - x c_m))] - x c_probe,

and no other policy of this probe is worth more there. Where other models' answers may be compared
with the probe's, the policy may ask such a second model first (`routoo.selector.comparisons`). The
solver sees a few policies of each probe, made for prices near the batch's shadow price, as columns
beside the models: one shadow price holds for all of them, and it is the threshold when the answers
come. A sample of the jobs says which prices and which probes matter.

Source: Dekoninck et al., A unified approach to routing and cascading for LLMs, arXiv 2410.10347.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from routoo.selector.policies import Policies, extended
from routoo.selector.probe_model import ProbeModel
from routoo.selector.problem import OptionTable, Problem
from routoo.selector.solvers import solve
from routoo.selector.solvers.lagrangian.hull import climb
from routoo.selector.solvers.lagrangian.price_path import sweep

SAMPLE_JOBS = 4096
FIRST_SAMPLE_JOBS = 1024
"""Jobs that say which probes and second answers are worth it at any price, which takes long."""
SAMPLE_SEED = 20_261_126
"""The same problem always has the same options."""
GRID_PRICES = 12
"""Prices over the whole range, near which the shadow price is looked for."""
WIDE = (1.5, 1.0, 1 / 1.5)
"""The policies of a probe: for the shadow price that the sample has, and for prices near it."""
MANY_JOBS = 50_000
"""Of more jobs, a sample tells the shadow price well, and columns take long."""
NEAR = (1.08, 1 / 1.08)
"""The same for many jobs, each of which has one probe: the best between these prices."""
MOST_PROBES = 3
LEAST_SHARE = 0.005
"""A probe that fewer jobs of the sample take is not worth a column."""
MOST_SECONDS = 2
"""Models whose answers are compared with one probe's."""


def with_policies(problem: Problem, known: ProbeModel) -> tuple[Problem, Policies]:
    """Return a problem with the policies of the probes that are worth it as further options.

    Args:
        problem: The models as options; its capacities name models.
        known: The probes.

    Returns:
        The problem itself where no probe is worth it.
    """
    models = problem.options
    probes, seconds, price = _worthwhile(problem, known)
    if not probes:
        return problem, Policies(models)
    many = problem.jobs > MANY_JOBS and not problem.capacities
    prices = [price * near for near in (NEAR if many else WIDE)]
    policies = _policies(models, probes, prices, seconds)
    if many:
        policies = replace(policies, own=np.full(problem.jobs, policies.probe[0], np.int16))
    return extended(problem, known, policies), policies


def spread_policies(problem: Problem, policies: Policies) -> Policies:
    """Return policies of the same probes for prices over the whole range, as a frontier needs."""
    prices = _price_range(problem)
    return _policies(problem.options, policies.probes, prices, policies.seconds)


def _policies(
    models: int,
    probes: Sequence[int],
    prices: Sequence[float],
    seconds: Mapping[int, tuple[int, ...]],
) -> Policies:
    """Return the policies of every probe for every price."""
    pairs = [(probe, price) for probe in probes for price in prices]
    columns = tuple(probe for probe, _ in pairs), tuple(price for _, price in pairs)
    return Policies(models, *columns, seconds=seconds)


def _worthwhile(
    problem: Problem, known: ProbeModel
) -> tuple[tuple[int, ...], dict[int, tuple[int, ...]], float]:
    """Return the probes that a sample of the jobs takes, each with its second models, and a price.

    The price is the sample's shadow price. It is first looked for over the whole range without
    second answers, since they take long, then near what was found, twice.
    """
    seconds = {} if known.comparisons is None else dict(known.comparisons.seconds)
    sample, some = _sampled(problem, known, FIRST_SAMPLE_JOBS)
    prices = _price_range(sample)
    if not known.probes or not prices:
        return (), {}, 0.0
    price, _, probes = _solved(sample, some, _policies(sample.options, known.probes, prices, {}))
    probes = known.probes if seconds else probes
    for most_jobs in (FIRST_SAMPLE_JOBS, SAMPLE_JOBS):
        if not probes:
            return (), {}, 0.0
        sample, some = _sampled(problem, known, most_jobs)
        near = [(price or prices[-1]) * factor for factor in WIDE]
        policies = _policies(sample.options, probes, near, seconds)
        price, choice, probes = _solved(sample, some, policies)
        seconds = _compared(some, policies, choice)
    return probes, seconds, price or prices[-1]


def _solved(
    problem: Problem, known: ProbeModel, policies: Policies
) -> tuple[float, Int[np.ndarray, " jobs"], tuple[int, ...]]:
    """Return the shadow price with given policies as options, the choice, and the probes in it."""
    solution = solve(extended(problem, known, policies), allow_partial=True)
    price = max(solution.shadow_price_per_usd, problem.floor_price_per_usd)
    return price, solution.choice, _taken(policies, solution.choice)


def _compared(
    known: ProbeModel, policies: Policies, choice: Int[np.ndarray, " jobs"]
) -> dict[int, tuple[int, ...]]:
    """Return the second models that enough jobs ask after each probe, those that the most ask."""
    known = known.with_seconds(policies.seconds)
    asked: dict[int, dict[int, float]] = {}
    for probe, price, jobs in policies.taken(choice):
        if len(jobs) and policies.seconds.get(probe):
            for one in known.of_jobs(jobs).outcomes(probe).at_price(price).compared:
                calls = asked.setdefault(probe, {})
                calls[one.of.column] = calls.get(one.of.column, 0.0) + float(one.asked.sum())
    least = max(1.0, LEAST_SHARE * np.count_nonzero(choice >= 0))
    most = {
        probe: sorted(calls, key=lambda column: -calls[column])[:MOST_SECONDS]
        for probe, calls in asked.items()
    }
    return {
        probe: tuple(column for column in columns if asked[probe][column] >= least)
        for probe, columns in most.items()
    }


def _taken(policies: Policies, choice: Int[np.ndarray, " jobs"]) -> tuple[int, ...]:
    """Return the probes that enough jobs take, those that the most take, in pool order."""
    taken = policies.first(choice[choice >= policies.models])
    counts = np.bincount(taken, minlength=policies.models)
    least = max(1.0, LEAST_SHARE * np.count_nonzero(choice >= 0))
    best = np.argsort(-counts, kind="stable")[:MOST_PROBES]
    return tuple(sorted(int(column) for column in best if counts[column] >= least))


def _sampled(problem: Problem, known: ProbeModel, most_jobs: int) -> tuple[Problem, ProbeModel]:
    """Return a sample of the jobs; all of them where they are few."""
    if problem.jobs <= most_jobs:
        return replace(problem, capacities=()), known
    draw = np.random.default_rng(SAMPLE_SEED).choice(problem.jobs, most_jobs, replace=False)
    draw.sort()
    return part_of(problem, draw), known.some(draw)


def part_of(problem: Problem, jobs: Int[np.ndarray, " some"]) -> Problem:
    """Return some of a problem's jobs with their share of its budget, without its capacities."""
    budget = problem.budget_usd
    return replace(
        problem,
        quality=problem.quality[jobs],
        cost_usd=problem.cost_usd[jobs],
        allowed=None if problem.allowed is None else problem.allowed[jobs],
        budget_usd=None if budget is None else float(budget) * len(jobs) / problem.jobs,
        capacities=(),
    )


def _price_range(problem: Problem) -> list[float]:
    """Return prices from the highest to the lowest at which models are traded for each other."""
    table = OptionTable.of(problem)
    start = sweep(table, np.inf, 0.0).choice
    served = np.flatnonzero(start >= 0)
    steps = climb(table.rows(served), start[served], 0.0, np.inf)
    steps_price = steps.price[np.isfinite(steps.price) & (steps.price > 0)]
    if len(steps_price) == 0:
        return []
    high, low = np.quantile(steps_price, [0.98, 0.02])
    return [float(price) for price in np.geomspace(high * 2, low / 2, GRID_PRICES)]
