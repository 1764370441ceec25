"""Selection on graded answers of real models, which are no part of the repository."""

import os
from pathlib import Path

import numpy as np
import pytest

from routoo.domain.tables import read_outcomes
from routoo.selector import Problem, solve
from routoo.selector.pool_choice import AnswerTable
from routoo.selector.solution import Solution

DATA = Path(os.environ.get("ROUTOO_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data")
TABLES = ("mmlu", "mmlu_pro", "bfcl", "llmrouter", "zeroeval_gsm8k", "zeroeval_cruxeval")


def _oracle(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    file = DATA / f"{name}_outcomes.parquet"
    if not file.exists():
        pytest.skip(f"{file.name} is not at hand: set ROUTOO_DATA_DIR")
    outcomes = read_outcomes(file)
    answers = AnswerTable.of(outcomes, list(dict.fromkeys(outcomes.item_ids)))
    allowed = np.isfinite(answers.score) & np.isfinite(answers.cost_usd)
    kept = allowed.any(axis=1)
    return answers.score[kept], answers.cost_usd[kept], allowed[kept]


def _lp_bound(solution: Solution, problem: Problem) -> float:
    """Return the dual's value at the solution's price, without any tightening."""
    price = solution.shadow_price_per_usd
    value = np.where(problem.allowed, problem.quality - price * problem.cost_usd, -np.inf)
    return float(value.max(axis=1).sum()) + price * float(problem.budget_usd or 0)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_oracle_choices_are_within_a_ten_thousandth_or_one_answer_of_the_relaxation(
    name: str, share: float
) -> None:
    quality, cost, allowed = _oracle(name)
    least = np.where(allowed, cost, np.inf).min(axis=1).sum()
    best = solve(Problem(quality, cost, allowed)).cost_usd
    problem = Problem(quality, cost, allowed, budget_usd=least + share * (best - least))
    solution = solve(problem)
    bound = _lp_bound(solution, problem)
    assert solution.cost_usd <= problem.budget_usd
    assert solution.bound <= bound + 1e-6
    # One answer is right or wrong: with fewer than 10,000 items no whole choice need be closer. (On
    # llmrouter at the smallest budget HiGHS's exact optimum is the very same 0.7 below the bound.)
    assert solution.quality >= bound - max(1.0, 1e-4 * bound)
