"""Identical requests in the selection: an answer counts for all who share it, its call once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from routoo.domain.job import SLA, Job
from routoo.pipeline.request_facts import RequestDigests
from routoo.pipeline.select.duplicates import Duplicates
from routoo.pipeline.select.problem import _weigh, choose
from routoo.selector.problem import Problem

JOBS, MODELS = 6, 2
UNIT = st.floats(0, 1, width=32)


def solve_shared(
    duplicates: Duplicates, quality: np.ndarray, cost_usd: np.ndarray, budget_usd: float
) -> tuple[np.ndarray, float, float]:
    cost_usd = np.where((duplicates.weight > 0)[:, None], cost_usd, 0.0)
    weighed, _ = _weigh(duplicates.weight, quality, ())
    solution = duplicates.spread(choose(Problem(weighed, cost_usd, budget_usd=budget_usd)))
    return solution.choice, solution.quality, solution.cost_usd


@settings(max_examples=60, deadline=None)
@given(
    quality=nps.arrays(np.float32, (JOBS, MODELS), elements=UNIT),
    cost_usd=nps.arrays(np.float64, (JOBS, MODELS), elements=st.floats(0.01, 1)),
    groups=st.lists(st.integers(0, 2), min_size=JOBS, max_size=JOBS),
    budget_usd=st.floats(0, 3),
)
def test_duplicates_have_their_originals_model_and_the_money_is_spent_once(
    quality: np.ndarray, cost_usd: np.ndarray, groups: list[int], budget_usd: float
) -> None:
    duplicates = Duplicates(np.array([groups.index(group) for group in groups], np.int32))
    quality, cost_usd = quality[duplicates.original], cost_usd[duplicates.original]
    choice, total, spent_usd = solve_shared(duplicates, quality, cost_usd, budget_usd)
    assert (choice == choice[duplicates.original]).all()
    served = np.flatnonzero(choice >= 0)
    originals = [job for job in served if duplicates.original[job] == job]
    assert np.isclose(total, quality[served, choice[served]].sum(dtype=np.float64))
    assert np.isclose(spent_usd, cost_usd[originals, choice[originals]].sum())
    assert spent_usd <= budget_usd * (1 + 1e-9)


def test_the_model_that_many_share_is_worth_more_than_one_that_serves_a_single_job() -> None:
    duplicates = Duplicates(np.array([0, 1, 1, 1, 1, 1], np.int32))
    quality = np.tile(np.array([0.5, 0.8], np.float32), (JOBS, 1))
    quality[0] = [0.5, 0.9]
    cost_usd = np.tile(np.array([0.1, 1.0]), (JOBS, 1))
    choice, _, _ = solve_shared(duplicates, quality, cost_usd, 1.1)
    assert choice.tolist() == [0, 1, 1, 1, 1, 1]


def test_jobs_are_the_same_by_request_and_limits_whatever_the_order_of_keys() -> None:
    asked = [
        Job(0, "a", {"prompt": "Who?", "seed": 1}),
        Job(1, "b", {"seed": 1, "prompt": "Who?"}),
        Job(2, "c", {"prompt": "Who?", "seed": 1}, SLA(min_quality=0.5)),
        Job(3, "d", {"prompt": "Who?"}),
    ]
    digests = RequestDigests.empty(len(asked))
    digests.fill(slice(0, 3), RequestDigests.of(asked[:3]))
    digests.fill(slice(3, 4), RequestDigests.of(asked[3:]))
    found = Duplicates.of(digests, merge_samples=False)
    assert found.original.tolist() == [0, 0, 2, 3]
    assert list(found.pairs()) == [(1, 0)]


def test_a_sample_is_like_no_other_while_the_jobs_around_it_are_merged() -> None:
    fixed, sample = {"prompt": "Who?", "seed": 1}, {"prompt": "Who?"}
    bodies = [sample, fixed, sample, fixed, sample, fixed]
    digests = RequestDigests.of([Job(no, str(no), body) for no, body in enumerate(bodies)])
    assert Duplicates.of(digests, merge_samples=False).original.tolist() == [0, 1, 2, 1, 4, 1]
    assert Duplicates.of(digests, merge_samples=True).original.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("more", "is_sample"),
    [
        ({"temperature": 0}, False),
        ({"temperature": 0.0}, False),
        ({"temperature": 0.7, "seed": 1}, False),
        ({"temperature": 0.7}, True),
        ({}, True),
        ({"temperature": None}, True),
        ({"temperature": 0, "n": 3}, True),
        ({"temperature": 0, "n": 1}, False),
    ],
)
def test_samples_are_merged_only_where_that_is_asked_for(
    more: dict[str, object], *, is_sample: bool
) -> None:
    asked = [Job(number, str(number), {"prompt": "Who?", **more}) for number in range(2)]
    for merge_samples in (False, True):
        found = Duplicates.of(RequestDigests.of(asked), merge_samples=merge_samples)
        merged = found.original.tolist() == [0, 0]
        assert merged is (merge_samples or not is_sample)
