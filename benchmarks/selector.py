"""Measures how fast the selector is and how near to the optimum: ratios within the same run.

    python benchmarks/selector.py [--json] [--jobs 1000000] [--repeat 5]

References: ten numpy argmax passes over the quality array (one is the least work that any choice
needs), and HiGHS on the linear relaxation of a smaller problem. Times are the best of several, as
other programs may share the machine; memory is what numpy allocates during a solve.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from figures import Figure, show
from scipy.optimize import linprog
from scipy.sparse import csr_array

from routoo.selector import Capacity, Problem, Solution, solve
from routoo.selector.probes import Judgements, ProbeModel, with_policies

MODELS = 10
PROBES = (0, 1, 2)
OUTCOMES = 6
HIGHS_JOBS = 5_000
MEAN_BUDGET_USD = 2e-4
ALLOWED_SHARE = 0.95
EQUAL_VALUE = 1e-5
"""Relative shortfall from the relaxation, which no whole choice reaches, that counts as equal."""


def make_problem(jobs: int) -> Problem:
    """Return jobs whose dearer models are better on the whole, as calibrated predictions are."""
    rng = np.random.default_rng(20_260_401)
    level = np.linspace(0.2, 0.5, MODELS, dtype=np.float32)
    quality = 0.5 * rng.random((jobs, MODELS), dtype=np.float32) + level
    cost = rng.lognormal(0, 1, (jobs, MODELS)) * np.geomspace(1e-5, 1e-2, MODELS)
    allowed = rng.random((jobs, MODELS)) < ALLOWED_SHARE
    allowed[:, 0] = True
    return Problem(quality, cost.astype(np.float32), allowed, budget_usd=MEAN_BUDGET_USD * jobs)


def with_capacities(problem: Problem, free: Solution) -> Problem:
    """Return the problem with three capacities that all bind."""
    rng = np.random.default_rng(1)
    tokens = rng.lognormal(5, 1, problem.quality.shape).astype(np.float32)
    calls = np.bincount(free.choice, minlength=MODELS)
    drawn = sum(float(tokens[free.choice == model, model].sum()) for model in (1, 2))
    limits = (
        Capacity("calls of 0", (0,), float(int(calls[0] * 0.6))),
        Capacity("calls of 3 and 4", (3, 4), float(int((calls[3] + calls[4]) * 0.5))),
        Capacity("tokens of 1 and 2", (1, 2), 0.7 * drawn, tokens),
    )
    return replace(problem, capacities=limits)


def best_s(work: Callable[[], object], repeat: int) -> float:
    """Return the shortest time of several runs, in seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_large(jobs: int, repeat: int) -> list[Figure]:
    """Measure the design point: many jobs under a budget, then with capacities."""
    problem = make_problem(jobs)
    argmax_s = best_s(lambda: [problem.quality.argmax(axis=1) for _ in range(10)], repeat)
    ours_s = best_s(lambda: solve(problem), repeat)
    solution = solve(problem)
    limited = with_capacities(problem, solution)
    capacity_s = best_s(lambda: solve(limited), max(1, repeat // 2))
    held = solve(limited)
    assert solution.feasible
    assert held.feasible
    extra = peak_bytes(problem)
    given = sum(part.nbytes for part in (problem.quality, problem.cost_usd, problem.allowed))
    return [
        Figure("select_1m_x10_s", ours_s, "s", argmax_s, ours_s / argmax_s),
        Figure("select_1m_x10_gap", solution.gap, "relative", None, None),
        Figure("select_vs_argmax", ours_s / argmax_s, "x", argmax_s, ours_s / argmax_s),
        Figure("select_peak_memory", extra / 2**20, "MiB", given / 2**20, extra / given),
        Figure("select_capacity_s", capacity_s, "s", argmax_s, capacity_s / argmax_s),
        Figure("select_capacity_gap", held.gap, "relative", None, None),
    ]


@dataclass(frozen=True, slots=True)
class _Expected:
    """Implements `routoo.selector.probes.Judgements`."""

    chance: np.ndarray
    quality: np.ndarray


def judge(probe: int, quality: np.ndarray) -> Judgements:
    """Return outcomes that move the probe's estimate much and those of the others a little."""
    shift = np.linspace(-2, 2, OUTCOMES, dtype=np.float32)[:, None]
    shift = shift * np.where(np.arange(MODELS) == probe, 1.0, 0.3).astype(np.float32)
    chance = np.full((len(quality), OUTCOMES), 1 / OUTCOMES, np.float32)
    odds = (quality / (1 - quality))[:, None, :] * np.exp(shift)
    shown = odds / (1 + odds)
    shown += (quality - shown.mean(axis=1))[:, None, :]  # the mean stays the estimate
    return _Expected(chance, np.clip(shown, 0, 1))


def measure_probes(jobs: int, repeat: int) -> list[Figure]:
    """Measure the same problem with three probes a job, and what making their options takes."""
    problem = make_problem(jobs)
    problem = replace(problem, quality=np.clip(problem.quality, 0.01, 0.99))
    allowed = np.asarray(problem.allowed)
    known = ProbeModel(
        judge, PROBES, problem.quality, problem.cost_usd, lambda rows, _probe: allowed[rows]
    )
    start = time.perf_counter()
    more, policies = with_policies(problem, known)
    made_s = time.perf_counter() - start
    assert sorted(set(policies.probe)) == list(PROBES)
    without_s = best_s(lambda: solve(problem), repeat)
    with_s = best_s(lambda: solve(more), repeat)
    solution, plain = solve(more), solve(problem)
    gain = solution.mean_quality - plain.mean_quality
    return [
        Figure("select_1m_x10_with_probes_s", with_s, "s", without_s, with_s / without_s),
        Figure("select_1m_x10_with_probes_gap", solution.gap, "relative", None, None),
        Figure("select_probes_gain", gain, "quality", plain.mean_quality, None),
        Figure("select_make_policies_s", made_s, "s", without_s, made_s / without_s),
    ]


def peak_bytes(problem: Problem) -> int:
    """Return the most bytes that a solve holds beside its input."""
    tracemalloc.start()
    solve(problem)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure_highs(repeat: int) -> list[Figure]:
    """Measure against HiGHS on the linear relaxation, at equal value."""
    problem = make_problem(HIGHS_JOBS)
    ours_s = best_s(lambda: solve(problem), 4 * repeat)
    solution = solve(problem)
    start = time.perf_counter()
    value = relaxed_value(problem)
    highs_s = time.perf_counter() - start
    short = (value - solution.quality) / value
    assert abs(short) < EQUAL_VALUE, short
    return [
        Figure("select_vs_highs", highs_s / ours_s, "x", highs_s, highs_s / ours_s),
        Figure("select_vs_highs_shortfall", short, "relative", value, solution.quality / value),
    ]


def relaxed_value(problem: Problem) -> float:
    """Return the linear relaxation's optimum by HiGHS."""
    job, column = np.nonzero(problem.allowed)
    pairs = np.arange(len(job))
    cost = problem.cost_usd[job, column].astype(np.float64)
    once = csr_array((np.ones(len(pairs)), (job, pairs)), shape=(problem.jobs, len(pairs)))
    answer = linprog(
        -problem.quality[job, column].astype(np.float64),
        A_ub=csr_array(cost[None, :] / float(problem.budget_usd)),
        b_ub=[1.0],
        A_eq=once,
        b_eq=np.ones(problem.jobs),
        method="highs",
    )
    assert answer.status == 0, answer.message
    return float(-answer.fun)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    figures = measure_large(arguments.jobs, arguments.repeat)
    figures += measure_probes(arguments.jobs, arguments.repeat)
    figures += measure_highs(arguments.repeat)
    show(figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
