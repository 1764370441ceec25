"""Dispatch with judged answers and with rules for answers, against a real local endpoint."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from producer.screen.explanation import called_sentences
from routoo.domain import absence
from routoo.domain.job import SLA, Lease
from routoo.domain.pool import Pool
from routoo.domain.validators import Validators
from routoo.judge.outcomes import ExpectedJudgements
from routoo.pipeline.dispatch import answer
from routoo.pipeline.judges import JudgeCache
from routoo.store import ledger, shards
from routoo.store.batches import control
from routoo.store.database import Database
from routoo.store.job_history import load_job_history
from tests.dispatch_factory import (
    THREE_PRICES,
    billed_usd,
    claim,
    dispatch,
    pool_of,
    prepare,
    requests_at,
    rows,
)
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

NAMES = ("small", "large")
BAD = {"models": {"small": {"answer": "I am not sure"}, "large": {"answer": "certain"}}}
GOOD = {"models": {"small": {"answer": "certain"}, "large": {"answer": "certain"}}}


class FakeJudge:
    """Takes an answer for good unless it says that it isn't sure."""

    probes: Sequence[str] = ("small",)
    pairs: Mapping[tuple[str, str], object] = MappingProxyType({})

    def columns(self, models: Sequence[str]) -> list[int]:
        return [NAMES.index(name) for name in models]

    def spread(self, models: Sequence[str], quality: Any) -> Any:
        assert tuple(models) == NAMES
        return np.asarray(quality, np.float32)

    def judge(self, probe: str, answers: Sequence[Any]) -> Any:
        assert probe == "small"
        assert all("Question number" in one.prompt for one in answers)
        own = [0.1 if "not sure" in one.text else 0.95 for one in answers]
        return np.array([[value, 0.9] for value in own], np.float32)


class PairJudge(FakeJudge):
    """Knows nothing of an answer but whether another model says the same."""

    probes = ("small", "twin")
    pairs = MappingProxyType({("small", "twin"): None})
    names = ("small", "twin", "large")

    def columns(self, models: Sequence[str]) -> list[int]:
        return [self.names.index(name) for name in models]

    def spread(self, models: Sequence[str], quality: Any) -> Any:
        assert tuple(models) == self.names
        return np.asarray(quality, np.float32)

    def judge(self, probe: str, answers: Sequence[Any]) -> Any:
        assert probe == "small"
        return np.array([[0.5, 0.5, 0.9]] * len(answers), np.float32)

    def judge_pair(self, first: str, second: str, answers: Sequence[Any]) -> Any:
        assert (first, second) == ("small", "twin")
        own = [0.95 if one.text == other.text else 0.05 for one, other in answers]
        return np.array([[value, value, 0.9] for value in own], np.float32)

    def expected_agreement(self, first: str, second: str, quality: Any) -> Any:
        assert (first, second, quality.shape) == ("small", "twin", (1, 3))
        outcomes = np.array([[[0.95, 0.95, 0.9], [0.05, 0.05, 0.9]]], np.float32)
        return ExpectedJudgements(np.array([[0.5, 0.5]], np.float32), outcomes)


class CrashError(Exception):
    """Stands for the death of a worker."""


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def of(_cache: JudgeCache, _conn: Any, _batch: Any) -> Any:
        return FakeJudge()

    monkeypatch.setattr(JudgeCache, "of", of)


async def probed(db: Database, server: FakeServer, count: int = 4, **options: Any) -> Lease:
    """Bring a batch to its dispatch, each job a probe of the small model."""
    lease = await prepare(db, pool_of(server), count, **options)
    await rows(db, "UPDATE assignments SET probe = true, escalation_chance = 0.5 RETURNING 1")
    return lease


async def again(db: Database, lease: Lease) -> Lease:
    return await claim(db, (await again_ready(db, lease)).key)


async def ends(db: Database) -> list[tuple[Any, ...]]:
    return await rows(
        db,
        "SELECT status, model, decision, reason, attempts, count(*) FROM results"
        " GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3",
    )


async def kept_at(db: Database, count: int) -> None:
    """Wait until so many answers are committed, of which nothing is decided yet."""
    while await rows(db, "SELECT count(*) FROM kept_answers") != [(count,)]:
        await asyncio.sleep(0.05)


async def calls(db: Database) -> list[tuple[Any, ...]]:
    return await rows(
        db,
        "SELECT model, status, probe, count(*) FROM attempts GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
    )


async def money_agrees(db: Database, lease: Lease, server: FakeServer) -> None:
    async with db.transaction() as conn:
        balance = await ledger.balance(conn, lease.key.batch_id)
    assert balance.reserved_usd == 0
    assert balance.spent_usd == billed_usd(server)
    assert await rows(db, "SELECT sum(cost_usd) FROM results") == [(balance.spent_usd,)]


async def test_a_probe_that_answers_well_is_accepted(db: Database) -> None:
    async with FakeServer(GOOD) as server:
        lease = await probed(db, server)
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "small", "accepted", None, 1, 4)]
        assert await calls(db) == [("small", "succeeded", True, 4)]
        await money_agrees(db, lease, server)
        judged = "SELECT DISTINCT before, after, threshold, decision, next_model, fault"
        assert await rows(db, f"{judged} FROM answer_judgements") == [
            (0.5, pytest.approx(0.95), pytest.approx(0.9), "accepted", None, None)
        ]


async def test_a_probe_that_answers_badly_is_escalated_and_both_calls_count(db: Database) -> None:
    async with FakeServer(BAD) as server:
        lease = await probed(db, server)
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "large", "escalated", None, 2, 4)]
        assert await calls(db) == [
            ("large", "succeeded", False, 4),
            ("small", "succeeded", True, 4),
        ]
        assert await rows(db, "SELECT count(DISTINCT answer) FROM kept_answers") == [(1,)]
        await money_agrees(db, lease, server)
        view = "SELECT DISTINCT decision, answer, expected_quality FROM batch_results"
        assert await rows(db, view) == [("escalated", "certain", pytest.approx(0.9))]


async def test_an_answer_is_judged_by_the_price_of_the_newest_plan(db: Database) -> None:
    """Where a dollar must buy much, the same bad answer is good enough."""
    async with FakeServer(BAD) as server:
        lease = await probed(db, server)
        dear = '{"shadow_price_per_usd": 1e6}'
        await rows(db, "UPDATE batches SET plan = %s RETURNING 1", dear)
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "small", "accepted", None, 1, 4)]


async def test_a_replan_changes_what_answers_must_reach(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routoo.pipeline.dispatch.shard._POLL_S", 0.05)
    async with FakeServer(BAD) as server:
        lease = await probed(db, server)
        running = asyncio.create_task(dispatch(db, lease))
        with server.held("small"):
            await requests_at(server, 4)
            dear = '{"shadow_price_per_usd": 1e6}'
            await rows(db, "UPDATE batches SET plan = %s RETURNING 1", dear)
            await rows(
                db,
                "INSERT INTO assignments (batch_id, job_no, revision, model, expected_quality,"
                " expected_cost_usd, probe, escalation_chance) SELECT batch_id, job_no, 2, model,"
                " expected_quality, expected_cost_usd, probe, escalation_chance FROM assignments"
                " RETURNING 1",
            )
            await rows(
                db,
                "INSERT INTO replans (batch_id, revision, reason, decided_at, moved, before, after)"
                " SELECT id, 2, 'a test', now(), 0, '{}', '{}' FROM batches RETURNING 1",
            )
            await asyncio.sleep(1.0)  # the dispatcher looks many times
        assert await running
        assert await ends(db) == [("succeeded", "small", "accepted", None, 1, 4)]


async def test_a_kept_answer_outlives_the_worker_and_is_not_paid_twice(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies when the answer is committed and nothing is decided yet."""

    async def crash(*_args: Any) -> Any:
        await kept_at(db, 4)
        raise CrashError

    async with FakeServer(BAD) as server:
        lease = await probed(db, server)
        with monkeypatch.context() as patched:
            patched.setattr(answer, "review", crash)
            with pytest.raises(CrashError):
                await dispatch(db, lease)
        assert await ends(db) == []
        assert await rows(db, "SELECT count(*) FROM kept_answers") == [(4,)]
        lease = await again(db, lease)
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "large", "escalated", None, 2, 4)]
        assert await calls(db) == [
            ("large", "succeeded", False, 4),
            ("small", "succeeded", True, 4),
        ]
        await money_agrees(db, lease, server)


async def test_a_process_killed_between_the_two_calls_pays_the_first_once(
    db: Database, database_url: str
) -> None:
    script = {"models": {**BAD["models"], "large": {"answer": "certain", "latency_s": 30.0}}}
    async with FakeServer(script) as server:
        lease = await again_ready(db, await probed(db, server, 2))
        command = ("-m", "tests.integration.dispatcher_process", database_url)
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, str(lease.key.batch_id), "6"
        )
        await requests_at(server, 4)
        process.kill()
        await process.wait()
        assert await rows(db, "SELECT count(*) FROM kept_answers") == [(2,)]
        server.set_script(BAD)
        await rows(db, "UPDATE shards SET lease_expires_at = now() - interval '1 s' RETURNING 1")
        assert await dispatch(db, await claim(db, lease.key))
        assert await ends(db) == [("succeeded", "large", "escalated", None, 3, 2)]
        assert await calls(db) == [
            ("large", "lost", False, 2),
            ("large", "succeeded", False, 2),
            ("small", "succeeded", True, 2),
        ]
        assert [one.model for one in server.requests].count("small") == 2


AGREE = {"models": {name: {"answer": "certain"} for name in ("small", "twin", "large")}}
DIFFER = {"models": {**AGREE["models"], "twin": {"answer": "another"}}}


async def compared(
    db: Database,
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    count: int = 3,
    **options: Any,
) -> Lease:
    """Bring a batch to its dispatch whose probes may be compared with a cheap model's answers."""

    async def of(_cache: JudgeCache, _conn: Any, _batch: Any) -> Any:
        return PairJudge()

    monkeypatch.setattr(JudgeCache, "of", of)
    lease = await prepare(db, pool_of(server, THREE_PRICES), count, **options)
    await rows(db, "UPDATE assignments SET probe = true, escalation_chance = 0.5 RETURNING 1")
    return lease


async def test_an_answer_that_a_second_cheap_model_agrees_with_is_accepted(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeServer(AGREE) as server:
        lease = await compared(db, server, monkeypatch)
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "small", "accepted", None, 2, 3)]
        assert await calls(db) == [("small", "succeeded", True, 3), ("twin", "succeeded", True, 3)]
        decided = "SELECT DISTINCT attempt_no, decision, next_model FROM answer_judgements"
        assert await rows(db, f"{decided} ORDER BY 1") == [
            (1, "escalated", "twin"),
            (2, "accepted", "small"),
        ]
        await money_agrees(db, lease, server)


async def test_answers_that_differ_are_escalated_and_all_calls_count(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeServer(DIFFER) as server:
        lease = await compared(db, server, monkeypatch)
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "large", "escalated", None, 3, 3)]
        await money_agrees(db, lease, server)


async def test_each_of_three_calls_is_reserved_at_its_worst_and_no_more_is_spent(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget that the three calls need at worst is found, then met, then missed by a bit."""
    async with FakeServer(DIFFER) as server:
        lease = await compared(db, server, monkeypatch, 1, budget_usd=Decimal(1))
        running = asyncio.create_task(dispatch(db, lease))
        with server.held("large"):
            await requests_at(server, 3)
            async with db.transaction() as conn:
                during = await ledger.balance(conn, lease.key.batch_id)
        assert await running
        assert await rows(db, "SELECT sum(cost_usd) FROM attempts WHERE probe") == [
            (during.spent_usd,)
        ]
        assert during.reserved_usd > during.spent_usd  # of the third call alone
        await money_agrees(db, lease, server)
    needed_usd = during.spent_usd + during.reserved_usd
    for budget_usd, end in (
        (needed_usd, ("succeeded", "large", "escalated", None, 3, 1)),
        (needed_usd - Decimal("1e-9"), ("succeeded", "small", "kept", None, 2, 1)),
    ):
        async with db.transaction() as conn:
            await conn.execute("TRUNCATE batches, results, attempts CASCADE")
        async with FakeServer(DIFFER) as server:
            lease = await compared(db, server, monkeypatch, 1, budget_usd=budget_usd)
            assert await dispatch(db, lease)
            assert await ends(db) == [end]
            await money_agrees(db, lease, server)
            assert billed_usd(server) <= budget_usd


async def test_a_deadline_that_passes_in_the_third_call_leaves_the_better_of_two_answers(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = {"models": {**DIFFER["models"], "large": {"answer": "certain", "latency_s": 60.0}}}
    async with FakeServer(script) as server:
        soon = datetime.now(UTC) + timedelta(seconds=6)
        lease = await compared(db, server, monkeypatch, 1, sla=SLA(deadline=soon))
        assert await dispatch(db, lease)
        assert [one.model for one in server.requests][:3] == ["small", "twin", "large"]
        assert [row[:3] for row in await ends(db)] == [("succeeded", "small", "kept")]
        async with db.transaction() as conn:
            balance = await ledger.balance(conn, lease.key.batch_id)
        assert balance.reserved_usd == 0


async def test_an_explanation_names_the_call_that_was_made_to_compare(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeServer(AGREE) as server:
        lease = await compared(db, server, monkeypatch, 1)
        assert await dispatch(db, lease)
    async with db.transaction() as conn:
        history = await load_job_history(conn, lease.key.batch_id, 0)
    assert history.compared == {2}
    first, second, one, other = called_sentences(history)
    assert "small, a probe, succeeded" in first
    assert "twin, to compare the answers, succeeded" in second
    assert one.startswith("Its answer to call 1 was to be compared with that of twin: ")
    assert other.startswith("Its answer to call 2 was accepted: ")
    assert other.endswith("; the earlier answer of small was taken.")


async def test_a_second_answer_that_fails_leaves_the_choice_of_the_first_alone(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = {"kind": "status", "status": 400}
    script = {"models": {**AGREE["models"], "twin": {"faults": [fault]}}}
    async with FakeServer(script) as server:
        lease = await compared(db, server, monkeypatch)
        assert await dispatch(db, lease)
        assert [row[:3] for row in await ends(db)] == [("succeeded", "large", "escalated")]


async def test_a_job_with_a_cap_is_not_compared(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    capped = SLA(max_cost_usd=Decimal(1))
    async with FakeServer(AGREE) as server:
        lease = await compared(db, server, monkeypatch, sla=capped)
        assert await dispatch(db, lease)
        assert [one.model for one in server.requests].count("twin") == 0


async def test_two_kept_answers_outlive_the_worker_and_are_not_paid_twice(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies when the second answers are committed and nothing is decided of them yet."""
    decide = answer.review

    async def crash(commit: Any, judging: Any, account: Any, kept: Any) -> Any:
        if kept.attempt.model == "twin":
            await kept_at(db, 6)
            raise CrashError
        return await decide(commit, judging, account, kept)

    async with FakeServer(AGREE) as server:
        lease = await compared(db, server, monkeypatch)
        with monkeypatch.context() as patched:
            patched.setattr(answer, "review", crash)
            with pytest.raises(CrashError):
                await dispatch(db, lease)
        assert await ends(db) == []
        assert await rows(db, "SELECT count(*) FROM kept_answers") == [(6,)]
        before = len(server.requests)
        lease = await again(db, lease)
        assert await dispatch(db, lease)
        assert len(server.requests) == before
        assert await ends(db) == [("succeeded", "small", "accepted", None, 2, 3)]
        await money_agrees(db, lease, server)


async def again_ready(db: Database, lease: Lease) -> Lease:
    """Hand a shard back, so that another process may claim it."""
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.HandedBack())
    return lease


async def test_a_kept_answer_that_is_good_needs_no_further_call(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_args: Any) -> Any:
        await kept_at(db, 4)
        raise CrashError

    async with FakeServer(GOOD) as server:
        lease = await probed(db, server)
        with monkeypatch.context() as patched:
            patched.setattr(answer, "review", crash)
            with pytest.raises(CrashError):
                await dispatch(db, lease)
        before = len(server.requests)
        lease = await again(db, lease)
        assert await dispatch(db, lease)
        assert len(server.requests) == before
        assert await ends(db) == [("succeeded", "small", "accepted", None, 1, 4)]
        await money_agrees(db, lease, server)


async def test_a_budget_that_covers_no_second_call_leaves_the_kept_answer(db: Database) -> None:
    async with FakeServer(BAD) as server:
        # The worst case of a small call is about $0.00012, that of a large one ten times as much.
        lease = await probed(db, server, 2, budget_usd=Decimal("0.0005"))
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "small", "kept", None, 1, 2)]
        decided = "SELECT DISTINCT decision, next_model FROM answer_judgements"
        assert await rows(db, decided) == [("escalated", "large")]
        await money_agrees(db, lease, server)


async def test_the_cap_of_a_job_leaves_the_kept_answer(db: Database) -> None:
    async with FakeServer(BAD) as server:
        lease = await probed(db, server, 2, sla=SLA(max_cost_usd=Decimal("0.0003")))
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "small", "kept", None, 1, 2)]


@pytest.mark.parametrize("fault", [{"kind": "status", "status": 500}, {"kind": "reset"}])
async def test_an_endpoint_that_fails_for_good_leaves_the_kept_answer(
    db: Database, monkeypatch: pytest.MonkeyPatch, fault: Mapping[str, Any]
) -> None:
    monkeypatch.setattr(absence, "SHORT_WAIT_S", 0.2)
    script = {"models": {**BAD["models"], "large": {"faults": [fault]}}}
    async with FakeServer(script) as server:
        lease = await probed(db, server, 2)
        assert await dispatch(db, lease)
        assert [row[:4] for row in await ends(db)] == [("succeeded", "small", "kept", None)]
        assert await rows(db, "SELECT DISTINCT answer FROM results") == [("I am not sure",)]


async def test_a_probe_that_fails_for_good_is_replaced_without_a_judgement(db: Database) -> None:
    fault = {"kind": "status", "status": 400}
    script = {"models": {**GOOD["models"], "small": {"faults": [fault]}}}
    async with FakeServer(script) as server:
        lease = await probed(db, server, 2)
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "large", "direct", "failed", 2, 2)]
        assert await calls(db) == [("large", "succeeded", False, 2), ("small", "failed", True, 2)]


async def test_a_duplicate_says_how_its_original_came_about(db: Database) -> None:
    async with FakeServer(BAD) as server:
        lease = await probed(db, server, 2)
        await rows(
            db,
            "INSERT INTO followers (batch_id, job_no, leader_no)"
            " SELECT DISTINCT batch_id, 1, 0 FROM jobs RETURNING 1",
        )
        assert await dispatch(db, lease)
        assert await rows(db, "SELECT source, decision FROM results ORDER BY job_no") == [
            ("call", "escalated"),
            ("duplicate", "escalated"),
        ]


CHOICES = Validators(choices=("certain",))


@pytest.mark.parametrize(
    ("rules", "bad"),
    [
        (Validators(choices=("certain",)), "maybe"),
        (Validators(regex="^c"), "maybe"),
        (Validators(json_schema='{"type": "string"}'), "maybe"),
    ],
)
async def test_an_answer_that_breaks_a_rule_is_asked_of_the_next_model(
    db: Database, rules: Validators, bad: str
) -> None:
    good = '"certain"' if rules.json_schema else "certain"
    script = {"models": {"small": {"answer": bad}, "large": {"answer": good}}}
    async with FakeServer(script) as server:
        lease = await prepare(db, pool_of(server), 2, sla=SLA(validators=rules))
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "large", "escalated", "invalid", 2, 2)]
        await money_agrees(db, lease, server)


async def test_an_answer_that_keeps_the_rules_is_taken_as_ever(db: Database) -> None:
    async with FakeServer(GOOD) as server:
        lease = await prepare(db, pool_of(server), 3, sla=SLA(validators=CHOICES))
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "small", "direct", None, 1, 3)]
        assert await rows(db, "SELECT count(*) FROM answer_judgements") == [(0,)]


async def test_an_answer_is_repaired_by_one_retry_if_asked_for(db: Database) -> None:
    once = {"kind": "patch", "first_per_prompt": 1, "json": said("maybe")}
    script = {"models": {"small": {"answer": "certain", "faults": [once]}, "large": {}}}
    rules = Validators(choices=("certain",), repair=True)
    async with FakeServer(script) as server:
        lease = await prepare(db, pool_of(server), 2, sla=SLA(validators=rules))
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "small", "direct", None, 2, 2)]
        await money_agrees(db, lease, server)


async def test_a_repair_that_fails_is_followed_by_the_next_model(db: Database) -> None:
    rules = Validators(choices=("certain",), repair=True)
    async with FakeServer(BAD) as server:
        lease = await prepare(db, pool_of(server), 2, sla=SLA(validators=rules))
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "large", "escalated", "invalid", 3, 2)]


async def test_if_nothing_keeps_the_rules_the_result_says_so_and_keeps_the_best_answer(
    db: Database,
) -> None:
    script = {"models": {"small": {"answer": "maybe"}, "large": {"answer": "perhaps"}}}
    async with FakeServer(script) as server:
        lease = await prepare(db, pool_of(server), 2, sla=SLA(validators=CHOICES))
        assert await dispatch(db, lease)
        found = "SELECT DISTINCT status, model, answer, error_code, attempts FROM results"
        assert await rows(db, found) == [("failed", "large", "perhaps", "validation_failed", 2)]
        message = (await rows(db, "SELECT error_message FROM results LIMIT 1"))[0][0]
        assert "none of the 1 choices" in message
        await money_agrees(db, lease, server)


async def test_a_schema_of_the_request_is_a_rule_without_being_asked(db: Database) -> None:
    schema = {"type": "object", "required": ["answer"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    script = {"models": {"small": {"answer": "{}"}, "large": {"answer": '{"answer": 4}'}}}
    async with FakeServer(script) as server:
        lease = await prepare(db, pool_of(server), 2, body={"response_format": wanted})
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "large", "escalated", "invalid", 2, 2)]


async def test_a_probe_that_breaks_a_rule_is_never_accepted(db: Database) -> None:
    async with FakeServer(BAD) as server:
        lease = await probed(db, server, 2, sla=SLA(validators=CHOICES))
        await rows(db, "UPDATE batches SET plan = '{\"shadow_price_per_usd\": 1e6}' RETURNING 1")
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "large", "escalated", None, 2, 2)]


async def test_a_good_probe_stands_where_the_next_answer_breaks_a_rule(db: Database) -> None:
    rules = Validators(regex="sure")
    async with FakeServer(BAD) as server:
        lease = await probed(db, server, 2, sla=SLA(validators=rules))
        assert await dispatch(db, lease)
        assert await ends(db) == [("succeeded", "small", "kept", None, 2, 2)]
        assert await rows(db, "SELECT DISTINCT answer FROM results") == [("I am not sure",)]


async def test_a_deadline_leaves_the_kept_answer(db: Database) -> None:
    script = {"models": {**BAD["models"], "large": {"faults": [{"kind": "status"}]}}}
    async with FakeServer(script) as server:
        soon = datetime.now(UTC) + timedelta(seconds=6)  # the first answer comes before it
        lease = await probed(db, server, 1, sla=SLA(deadline=soon))
        assert await dispatch(db, lease, max_attempts_per_model=50)
        assert [row[:3] for row in await ends(db)] == [("succeeded", "small", "kept")]


async def test_a_cancelled_batch_keeps_the_answers_of_its_probes(db: Database) -> None:
    script = {"models": {**BAD["models"], "large": {"latency_s": 30.0}}}
    async with FakeServer(script) as server:
        lease = await probed(db, server, 2)
        stop = asyncio.Event()
        running = asyncio.create_task(dispatch(db, lease, stop=stop))
        await requests_at(server, 4)
        async with db.transaction() as conn:
            await control.cancel(conn, lease.key.batch_id)
        stop.set()
        await running
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())
        async with db.transaction() as conn:
            await control.end_cancelled(conn, lease.key.batch_id)
        assert await ends(db) == [("succeeded", "small", "kept", None, 2, 2)]
        assert await rows(db, "SELECT status FROM batches") == [("cancelled",)]


async def test_a_summary_of_token_probabilities_is_kept_and_the_list_is_not(db: Database) -> None:
    tokens = [{"token": "certain", "logprob": -0.5, "top_logprobs": []}]
    patch = {"choices": [{"logprobs": {"content": tokens}}]}
    script = {"models": {"small": {"answer": "certain", "patch": patch}, "large": {}}}
    async with FakeServer(script) as server:
        asking = pool_of(server)
        models = tuple(model.model_copy(update={"logprobs": True}) for model in asking.models)
        lease = await prepare(db, Pool(models=models), 1)
        await rows(db, "UPDATE assignments SET probe = true RETURNING 1")
        assert await dispatch(db, lease)
        assert "logprobs" in server.requests[0].fields
    figures = (await rows(db, "SELECT token_probabilities FROM attempts"))[0][0]
    assert figures["mean"] == figures["minimum"] == -0.5
    assert figures["margin"] is None
    response = (await rows(db, "SELECT response FROM results"))[0][0]
    assert response["choices"][0]["logprobs"] is None


def said(text: str) -> dict[str, Any]:
    """Return a patch that makes an answer say something else."""
    return {"choices": [{"message": {"content": text}}]}
