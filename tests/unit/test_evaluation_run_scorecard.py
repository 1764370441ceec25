"""The figures of an evaluation run, with and without a sample that every model answered."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest

from routoo.errors import InputError
from routoo.evaluation.evaluation_run import EvaluationRun, RunFacts, RunMode, run_figures
from routoo.evaluation.operating_point import compare_at_same_cost, same_cost_figures
from routoo.evaluation.report.page import render_page
from routoo.evaluation.run_scorecard import run_scorecard

ITEMS = 40


def _run() -> EvaluationRun:
    """The dear model is always right, the cheap one on even items, and is asked for those."""
    even = np.arange(ITEMS) % 2 == 0
    right = np.stack([even, np.ones(ITEMS, bool)], axis=1).astype(np.float32)
    costs = np.tile([1.0, 3.0], (ITEMS, 1))
    chosen = np.where(even, 0, 1)
    chosen[-1] = -1
    answered = chosen.copy()
    answered[0] = -1
    served = answered >= 0
    facts = RunFacts(
        UUID(int=1),
        "run",
        UUID(int=2),
        None,
        "nightly",
        "a" * 64,
        RunMode.FULL,
        recorded=True,
        schedule=None,
        checkpoint_sha256=None,
        budget_usd=None,
        goal="the most quality",
        created_at=datetime(2026, 11, 23, tzinfo=UTC),
        finished_at=None,
    )
    return EvaluationRun(
        facts,
        ("cheap", "dear"),
        tuple(map(str, range(ITEMS))),
        tuple(f"question {number}" for number in range(ITEMS)),
        ("law",) * ITEMS,
        predicted_quality=np.tile(np.array([0.5, 0.9], np.float32), (ITEMS, 1)),
        expected_cost_usd=costs,
        novelty=np.zeros(ITEMS, np.float32),
        chosen=chosen,
        answered_by=answered,
        answer_sha256=(None,) * ITEMS,
        quality=served.astype(np.float32),
        cost_usd=np.where(served, 2 * np.where(even, 1.0, 3.0), 0.0),
        latency_s=np.where(served, 0.5, np.nan).astype(np.float32),
        sample_quality=right,
        sample_cost_usd=costs,
        sample_latency_s=np.full((ITEMS, 2), 0.5, np.float32),
    )


def test_a_run_shows_what_was_planned_beside_what_came_and_what_the_pool_could_do() -> None:
    card = run_scorecard(_run())
    assert card.operating is not None
    assert (card.operating.items, card.operating.answered) == (40, 38)
    assert card.operating.quality.value == pytest.approx(38 / 40)
    assert card.operating.cost_ratio.value == pytest.approx(2)
    assert card.pool is not None
    assert (card.pool.items, card.pool.reference) == (40, "dear")
    assert card.pool.comparisons["oracle"].cost_ratio.value == pytest.approx(2 / 3)
    assert [row.share for row in card.models] == [19 / 40, 19 / 40]
    assert card.history == ()


def test_without_a_sample_models_are_judged_by_the_answers_they_were_chosen_for() -> None:
    run = _run()
    holes = np.full((ITEMS, 2), np.nan)
    routed = replace(
        run,
        sample_quality=holes.astype(np.float32),
        sample_cost_usd=holes,
        sample_latency_s=holes.astype(np.float32),
    )
    card = run_scorecard(routed, past=[run])
    assert card.pool is None
    assert [row.answers for row in card.models] == [19, 19]
    assert [past.quality.value for past in card.history] == pytest.approx([38 / 40, 38 / 40])


def test_an_unknown_reference_is_an_error_with_a_remedy() -> None:
    with pytest.raises(InputError, match="Name one of cheap, dear"):
        run_scorecard(_run(), reference="absent")


def test_a_run_with_judged_answers_shows_escalations_and_the_precision_of_acceptance() -> None:
    run = _run()
    ways = ("accepted", "escalated", "direct", None)
    judged = replace(run, decisions=tuple(ways[number % 4] for number in range(ITEMS)))
    rows = {row.decision: row for row in run_scorecard(judged).decisions}
    assert rows["accepted"].answers == rows["escalated"].answers == ITEMS / 4
    assert rows["accepted"].quality.mean == pytest.approx(np.mean(run.quality[::4]))
    page = render_page(run_scorecard(judged))
    assert "Judged answers" in page
    assert "50.0 % were escalated" in page
    cascade = run_figures(judged)["cascade"]
    assert cascade["escalation_share"] == 0.5
    assert cascade["acceptance_precision"]["mean"] == pytest.approx(np.mean(run.quality[::4]))
    assert cascade["kept"] == 0
    assert run_scorecard(run).decisions == ()
    assert "cascade" not in run_figures(run)


def test_judged_answers_are_measured_by_what_judging_had_shown() -> None:
    """And a probe's expected cost is that of all its calls, which no single call is planned by."""
    run = _run()
    accepted = np.arange(ITEMS) % 4 == 2
    judged = replace(
        run,
        decisions=tuple("accepted" if one else "direct" for one in accepted),
        judged_quality=np.where(accepted, 0.75, np.nan).astype(np.float32),
        planned_cost_usd=np.where(accepted, 2.5, run.expected_cost_usd[:, 0]),
    )
    figures, plain = run_figures(judged), run_figures(run)
    raised = figures["expected_quality"]["mean"] - plain["expected_quality"]["mean"]
    assert raised == pytest.approx(0.25 * accepted.sum() / run.answered.sum())
    assert figures["expected_cost_per_item_usd"]["mean"] == pytest.approx(
        (2.5 * accepted.sum() + (ITEMS - 1 - accepted.sum())) / (ITEMS - 1)
    )
    operating, before = run_scorecard(judged).operating, run_scorecard(run).operating
    assert operating is not None
    assert before is not None
    assert operating.expected_quality > before.expected_quality
    holes = np.full((ITEMS, 2), np.nan, np.float32)
    unsampled = run_scorecard(replace(judged, sample_quality=holes))
    assert (
        unsampled.reliability[0].ece
        < run_scorecard(replace(run, sample_quality=holes)).reliability[0].ece
    )


def test_a_run_says_what_else_its_money_buys() -> None:
    run = _run()
    ways = ("accepted", "escalated", "direct", "kept")
    plan = {
        "expected_quality": 0.9,
        "direct": {"expected_quality": 0.85, "expected_cost_usd": 3.0},
        "best_single": {"model": "dear", "expected_quality": 0.8, "expected_cost_usd": 3.0},
    }
    judged = replace(
        run, decisions=tuple(ways[number % 4] for number in range(ITEMS)), planned=plan
    )
    card = run_scorecard(judged)
    same = card.same_cost
    assert same is not None
    # An item costs 2 or 6 USD, the dear model 3: it is as cheap, and right everywhere.
    assert (same.items, same.best_single) == (ITEMS, "dear")
    assert same.over_single.mean == pytest.approx(38 / 40 - 1)
    assert same.over_unjudged.mean == pytest.approx(38 / 40 - 1)
    assert same.unjudged_cost_usd <= same.cost_usd * (1 + 1e-9)
    page = render_page(card)
    assert "the best single model at this cost" in page
    assert "choosing by the prompt alone" in page
    assert "0.850 without judging answers" in page
    assert run_figures(judged)["planned"]["best_single"] == "dear"
    facts = same_cost_figures(judged)
    assert facts is not None
    assert facts["over_single"]["mean"] == same.over_single.mean
    unjudged = compare_at_same_cost(run)
    assert unjudged is not None
    assert np.isnan(unjudged.over_unjudged.mean)
