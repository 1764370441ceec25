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
from dataclasses import replace
from itertools import permutations

import numpy as np
from figures import Figure, show
from scipy.optimize import linprog
from scipy.sparse import csr_array

from routoo.judge.hashed_text import TextWeights
from routoo.judge.judge import AnswerJudge
from routoo.judge.outcomes import OutcomeModel
from routoo.judge.pair_judge import PairJudge
from routoo.judge.probe_judge import PriorView, ProbeJudge
from routoo.judge.trees import BoostedTrees
from routoo.selector import Capacity, Problem, Solution, solve
from routoo.selector.comparisons import Comparisons
from routoo.selector.probe_model import ProbeModel
from routoo.selector.probes import with_policies

MODELS = 10
PROBES = (0, 1, 2)
OUTCOMES = 8
"""As many as a judge of many answers tells apart."""
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


def best_s(
    work: Callable[[], object], repeat: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the shortest time of several runs, in seconds of a clock."""
    times = []
    for _ in range(repeat):
        start = clock()
        work()
        times.append(clock() - start)
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


def make_judge() -> AnswerJudge:
    """Return a judge whose outcomes move the probe's estimate much, those of others a little."""
    names = tuple(f"m{model}" for model in range(MODELS))
    judges = {names[probe]: _probe_judge(probe) for probe in PROBES}
    pairs = {
        (names[one], names[other]): _pair_judge(one, other)
        for one, other in permutations(PROBES, 2)
    }
    return AnswerJudge(names, np.zeros(0, np.float32), judges, {}, pairs)


def _outcomes(moved: tuple[int, ...]) -> OutcomeModel:
    move = np.where(np.isin(np.arange(MODELS), moved), 1.0, 0.3).astype(np.float32)
    shift = np.linspace(-2, 2, OUTCOMES, dtype=np.float32)[:, None] * move
    return OutcomeModel(np.zeros((4, OUTCOMES), np.float32), shift)


def _pair_judge(first: int, second: int) -> PairJudge:
    none = np.zeros((0, 3), np.float32)
    return PairJudge(first, second, none[:, 0], none, _outcomes((first, second)))


def _probe_judge(probe: int) -> ProbeJudge:
    none = np.zeros((0, MODELS), np.float32)
    view = PriorView(np.zeros(MODELS, np.float32), none)
    outcomes = _outcomes((probe,))
    words = TextWeights(none[:, :1], np.zeros(1, np.float32))
    trees = BoostedTrees(none[:, :1].astype(np.int16), none[:, :1], none[None].astype(np.float16))
    return ProbeJudge(probe, view, words, trees, none.T, outcomes, 0)


def make_probes(jobs: int) -> tuple[Problem, ProbeModel]:
    """Return a problem with three probes a job."""
    problem = make_problem(jobs)
    problem = replace(problem, quality=np.clip(problem.quality, 0.01, 0.99))
    allowed = np.asarray(problem.allowed)
    judge = make_judge()
    known = ProbeModel(
        lambda quality: judge.judgement_model(judge.models, quality).of,
        PROBES,
        problem.quality,
        problem.cost_usd,
        lambda rows, _probe: allowed[rows],
    )
    return problem, known


def measure_pairs(jobs: int, repeat: int) -> list[Figure]:
    """Measure what it takes that every probe's answer may be compared with both others'."""
    problem, known = make_probes(jobs)
    judge = make_judge()
    comparisons = Comparisons(
        lambda first, second, models, quality: judge.pool_agreement(
            judge.models, (first, second), models, quality
        ),
        lambda rows, _probe, _second: np.ones(len(rows), np.bool_),
        {probe: tuple(set(PROBES) - {probe}) for probe in PROBES},
    )
    pairs = replace(known, comparisons=comparisons)
    _, policies = with_policies(problem, pairs)
    assert all(len(columns) == len(PROBES) - 1 for columns in policies.seconds.values())
    clock = time.process_time
    alone_s = best_s(lambda: with_policies(problem, known), repeat, clock)
    pairs_s = best_s(lambda: with_policies(problem, pairs), max(1, repeat // 2), clock)
    ratio = pairs_s / alone_s
    return [Figure("policies_with_six_pairs", pairs_s, "s CPU", alone_s, ratio)]


def measure_probes(jobs: int, repeat: int) -> list[Figure]:
    """Measure the same problem with three probes a job, and what making their options takes."""
    problem, known = make_probes(jobs)
    more, policies = with_policies(problem, known)
    assert sorted(set(policies.probe)) == list(PROBES)
    solution, plain = solve(more), solve(problem)
    gain = solution.mean_quality - plain.mean_quality

    def whole() -> Solution:
        return solve(with_policies(problem, known)[0])

    figures = [
        Figure("select_1m_x10_with_probes_gap", solution.gap, "relative", None, None),
        Figure("select_probes_gain", gain, "quality", plain.mean_quality, None),
    ]
    for clock, unit in ((time.perf_counter, "s"), (time.process_time, "s CPU")):
        plain_s = best_s(lambda: solve(problem), repeat, clock)
        whole_s = best_s(whole, repeat, clock)
        solve_s = best_s(lambda: solve(more), repeat, clock)
        figures += [
            Figure("select_1m_x10_with_probes", whole_s, unit, plain_s, whole_s / plain_s),
            Figure("select_with_policies_made", solve_s, unit, plain_s, solve_s / plain_s),
        ]
    return figures


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
    figures += measure_pairs(arguments.jobs // 5, arguments.repeat)
    figures += measure_highs(arguments.repeat)
    show(figures, as_json=arguments.json)


if __name__ == "__main__":
    main()
