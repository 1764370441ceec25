"""Alerts where a run is worse than earlier ones, and none where that is noise."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from routoo.evaluation.evaluation_run import EvaluationRun, RunFacts, RunMode
from routoo.evaluation.run_comparison import find_alerts

ITEMS = 200
CALM = np.full(100, 0.5, np.float32)
"""Novelty of users' prompts that are like the training prompts."""


def a_run(seed: int, *, quality: float = 0.7, **changes: Any) -> EvaluationRun:
    """Return a run over fixed items, a third of them hard; the seed draws the noise of a night."""
    rng = np.random.default_rng(seed)
    ease = np.random.default_rng(0).uniform(-0.3, 0.3, ITEMS)
    right = (rng.uniform(size=ITEMS) < quality + ease).astype(np.float32)
    facts = RunFacts(
        *(uuid4(), "n", uuid4(), None, "set", "hash", RunMode.ROUTED),
        recorded=False,
        schedule=None,
        checkpoint_sha256=None,
        budget_usd=None,
        goal="the most quality",
        created_at=datetime.now(UTC),
        finished_at=None,
    )
    shape = (ITEMS, 2)
    run = EvaluationRun(
        facts=facts,
        models=("small", "large"),
        item_ids=tuple(f"q-{n}" for n in range(ITEMS)),
        prompts=("?",) * ITEMS,
        domains=("",) * ITEMS,
        predicted_quality=np.full(shape, 0.7, np.float32),
        expected_cost_usd=np.full(shape, 0.01),
        novelty=np.full(ITEMS, 0.5, np.float32),
        chosen=np.zeros(ITEMS, np.int64),
        answered_by=np.zeros(ITEMS, np.int64),
        answer_sha256=tuple(f"{n}" for n in range(ITEMS)),
        quality=right,
        cost_usd=rng.uniform(0.005, 0.015, ITEMS),
        latency_s=np.ones(ITEMS, np.float32),
        sample_quality=np.full(shape, np.nan, np.float32),
        sample_cost_usd=np.full(shape, np.nan),
        sample_latency_s=np.full(shape, np.nan, np.float32),
    )
    return replace(run, **changes)


HISTORY = [a_run(seed) for seed in range(1, 5)]


def kinds(run: EvaluationRun, history: list[EvaluationRun] = HISTORY) -> set[tuple[str, str]]:
    return {(one.kind, one.subject) for one in find_alerts(run, history, CALM)}


def test_the_noise_of_sixty_ordinary_nights_raises_next_to_no_alert() -> None:
    false_alarms = sum(bool(kinds(a_run(seed))) for seed in range(10, 70))
    assert false_alarms <= 3


def test_a_real_loss_of_quality_is_told_with_its_size() -> None:
    found = find_alerts(a_run(5, quality=0.45), HISTORY, CALM)
    assert {one.kind for one in found} == {"quality", "calibration"}
    (quality,) = (one for one in found if one.kind == "quality")
    assert quality.facts["high"] < 0
    assert "quality fell by" in quality.message


@pytest.mark.parametrize(("expected", "told"), [(0.4, set()), (0.95, {("calibration", "")})])
def test_expectations_are_told_when_they_get_worse(
    expected: float, told: set[tuple[str, str]]
) -> None:
    def estimates(value: float) -> np.ndarray:
        return np.full((ITEMS, 2), value, np.float32)

    before = [a_run(seed, quality=0.4, predicted_quality=estimates(0.7)) for seed in range(1, 4)]
    run = a_run(5, quality=0.4, predicted_quality=estimates(expected))
    assert kinds(run, before) == told


def test_a_first_run_has_nothing_to_be_worse_than() -> None:
    assert kinds(a_run(5, quality=0.1), []) == set()


def test_answers_that_cost_more_are_told() -> None:
    assert kinds(a_run(5, cost_usd=np.full(ITEMS, 0.015))) == {("cost", "")}


def test_a_model_whose_answers_changed_is_named() -> None:
    changed = tuple(f"new-{n}" if n % 3 == 0 else f"{n}" for n in range(ITEMS))
    assert kinds(a_run(5, answer_sha256=changed)) == {("answers", "small")}


def test_a_model_that_always_varies_is_no_news() -> None:
    nights = [a_run(n, answer_sha256=tuple(f"{n}-{i}" for i in range(ITEMS))) for n in range(1, 4)]
    assert kinds(nights[0], nights[1:]) == set()


def test_a_model_that_is_worse_alone_is_named() -> None:
    def sampled(score: float) -> np.ndarray:
        sample = np.full((ITEMS, 2), np.nan, np.float32)
        sample[:50] = (1.0, score)
        return sample

    before = [a_run(seed, sample_quality=sampled(0.9)) for seed in range(1, 3)]
    assert kinds(a_run(5, sample_quality=sampled(0.5)), before) == {("quality", "large")}


@pytest.mark.parametrize(("far", "told"), [(0.01, False), (0.04, False), (0.2, True)])
def test_users_prompts_far_from_training_are_told(far: float, told: bool) -> None:
    novelty = np.where(np.arange(500) < far * 500, 1.0, 0.5).astype(np.float32)
    found = find_alerts(a_run(5), [], novelty)
    assert bool(found) is told


def judged(run: EvaluationRun, precision: float) -> EvaluationRun:
    """Return a run of which half of the answers were accepted, so many of them right."""
    accepted = np.arange(ITEMS) % 2 == 0
    right = np.random.default_rng(9).uniform(size=ITEMS) < precision
    quality = np.where(accepted, right, run.quality).astype(np.float32)
    ways = tuple("accepted" if one else "direct" for one in accepted)
    return replace(run, decisions=ways, quality=quality)


def test_accepted_answers_that_are_right_less_often_are_told() -> None:
    usual = [judged(one, 0.95) for one in HISTORY]
    assert ("quality", "accepted answers") in kinds(judged(a_run(7), 0.7), usual)
    assert ("quality", "accepted answers") not in kinds(judged(a_run(7), 0.94), usual)
