"""The page as a browser without a screen sees it, on a real database."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from routoo.domain.caller import Scope
from routoo.domain.completion import AnswerJudgement, DeviationReason
from routoo.domain.job import BatchStatus, ResultStatus, Stage
from routoo.evaluation_runs.finish import finish_run
from routoo.store import batches, checkpoints, endpoints, kept_answers, keys, results
from routoo.store.database import Database
from routoo.store.evaluation import eval_runs
from tests import run_factory
from tests.batch_factory import claim, pool_of, result, score, select, submit
from tests.page_client import PageClient, page_of

pytestmark = pytest.mark.anyio

SCRIPT = "<script>alert('x')</script>"
TURNED = "\N{RIGHT-TO-LEFT OVERRIDE}cod.exe"


@pytest.fixture
async def page(database_url: str, tmp_path: Path) -> AsyncIterator[PageClient]:
    async with page_of(database_url, tmp_path) as found:
        yield found


async def failing_batch(db: Database) -> UUID:
    """Submit a batch of 4 jobs: one answered as planned, one by another model, two not at all."""
    batch_id = await submit(db, 4, shard_size=4, budget_usd="1")
    await score(db, batch_id)
    await select(db, batch_id)
    lease = await claim(db, batch_id, Stage.DISPATCH)
    left = {"model": "large", "reason": DeviationReason.UNAVAILABLE, "expected_quality": 0.2}
    lost = {"status": ResultStatus.FAILED, "completion": None}
    async with db.transaction() as conn:
        ended = [
            result(0, answer=f"{SCRIPT} {TURNED}"),
            replace(result(1), **left),
            replace(result(2), **lost, error_code="timeout", error_message=f"{SCRIPT} took long"),
            replace(result(3), **lost, error_code="content_filter", error_message="it refused"),
        ]
        await results.save(conn, lease, ended)
        await conn.execute(
            "UPDATE shards SET state = 'ready', owner = NULL, lease_expires_at = NULL"
        )
    return batch_id


async def status(db: Database, batch_id: UUID) -> BatchStatus:
    async with db.transaction() as conn:
        return await batches.status(conn, batch_id)


async def test_who_is_not_let_in_gets_to_log_in_and_sees_nothing(page: PageClient) -> None:
    page.http.cookies.clear()
    for path in ("/batches", "/evaluations", "/checkpoints", "/endpoints"):
        answer = await page.http.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")


async def test_every_page_forbids_scripts_and_styles_that_stand_in_it(
    db: Database, page: PageClient
) -> None:
    batch_id = await failing_batch(db)
    paths = ("", "/jobs", "/jobs/0", "/jobs?show=unanswered&cause=timeout", "/jobs?show=deviated")
    for path in (*(f"/batches/{batch_id}{end}" for end in paths), "/batches", "/endpoints"):
        answer = await page.http.get(path)
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(
            r"<style|\sstyle=|\son\w+=|javascript:|(src|href|action)=.http", answer.text
        )
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", answer.text))


async def test_files_of_the_page_are_its_own(page: PageClient) -> None:
    text = await page.read("/batches")
    for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', text):
        answer = await page.http.get(path)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
    await page.read("/static/no-such-file", status=404)


async def test_batches_are_listed_filtered_and_found(db: Database, page: PageClient) -> None:
    first = await failing_batch(db)
    second = await submit(db, 1)
    async with db.transaction() as conn:
        await conn.execute("UPDATE batches SET name = %s WHERE id = %s", [f"{SCRIPT} b", second])
        await conn.execute("UPDATE batches SET status = 'completed' WHERE id = %s", [first])
    text = await page.read("/batches")
    assert "2 of 4 answered, 2 without an answer" in text
    assert "1 downgraded" in text
    assert SCRIPT not in text
    for query, found in (
        ("status=completed", {first}),
        ("status=running", {second}),
        ("q=SCRIPT", {second}),
        (f"q={str(first)[:8]}", {first}),
        ("q=%25", set()),
        ("page=7", set()),
        ("page=x&status=none", {first, second}),
    ):
        text = await page.read(f"/batches?{query}")
        assert set(re.findall(r'href="/batches/([0-9a-f-]{36})"', text)) == set(map(str, found))


async def test_a_batch_shows_its_stages_money_models_and_failures_by_cause(
    db: Database, page: PageClient
) -> None:
    batch_id = await failing_batch(db)
    text = await page.read(f"/batches/{batch_id}")
    for said in (
        "2 of 4",
        "Answered: 2 of 4, 2 without an answer",
        "1 jobs were answered by a model expected to be worse",
        "timeout",
        "content_filter",
        "Retry these",
        "Pause",
    ):
        assert said in text
    assert SCRIPT not in text
    assert "&lt;script&gt;" in text


async def test_other_peoples_text_is_shown_as_text_and_never_turned_round(
    db: Database, page: PageClient
) -> None:
    batch_id = await failing_batch(db)
    body = {
        "messages": [{"role": "user", "content": f"{SCRIPT}{TURNED}{'x' * 30_000}"}],
        "a": SCRIPT,
    }
    async with db.transaction() as conn:
        await conn.execute(
            "UPDATE jobs SET body = %s::json, custom_id = %s WHERE job_no = 0",
            [orjson.dumps(body).decode(), f"{TURNED}{SCRIPT}"],
        )
    for path in ("jobs", "jobs/0"):
        text = await page.read(f"/batches/{batch_id}/{path}")
        assert SCRIPT not in text
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in text
        assert "\N{REPLACEMENT CHARACTER}cod.exe" in text
    assert "more characters are left out here" in text
    assert "x" * 20_001 not in text


async def test_a_job_says_why_its_model_and_what_was_judged(db: Database, page: PageClient) -> None:
    batch_id = await failing_batch(db)
    lease = await claim(db, batch_id, Stage.DISPATCH)
    judged = AnswerJudgement(1, 1, "escalated", 0.5, 0.25, 0.4, 1.0, "large")
    async with db.transaction() as conn:
        await kept_answers.save_judgements(conn, lease, [judged])
    text = await page.read(f"/batches/{batch_id}/jobs/1")
    assert "another model is asked" not in text
    for said in ("escalated", "judged with 25.0%", "planned was small", "small", "large"):
        assert said in text
    found = await page.http.get(f"/batches/{batch_id}/find?custom_id=job-2")
    assert found.headers["location"] == f"/batches/{batch_id}/jobs/2"
    await page.read(f"/batches/{batch_id}/find?custom_id=nobody", status=404)
    await page.read(f"/batches/{batch_id}/jobs/99", status=404)


async def test_a_batch_is_paused_resumed_given_money_retried_and_cancelled(
    db: Database, page: PageClient
) -> None:
    batch_id = await failing_batch(db)
    here = f"/batches/{batch_id}"
    done = await page.post(f"{here}/pause")
    assert done.headers["location"] == f"{here}?done=pause"
    assert await status(db, batch_id) is BatchStatus.PAUSED
    await page.post(f"{here}/resume")
    assert await status(db, batch_id) is BatchStatus.IN_PROGRESS
    await page.post(f"{here}/retry", error_code="timeout")
    text = await page.read(here)
    assert "content_filter" in text
    assert "timeout" not in text
    await page.post(f"{here}/cancel")
    assert await status(db, batch_id) in {BatchStatus.CANCELLING, BatchStatus.CANCELLED}
    refused = await page.post(f"{here}/pause", status=400)
    assert "can be paused" in refused.text


async def test_a_budget_is_set_and_nonsense_refused(db: Database, page: PageClient) -> None:
    batch_id = await submit(db, 1, budget_usd="1")
    await page.post(f"/batches/{batch_id}/budget", status=400, budget_usd="much")
    async with db.transaction() as conn:
        assert (await batches.get(conn, batch_id)).budget_usd == 1
        await conn.execute("UPDATE shards SET state = 'done' WHERE stage <> 'dispatch'")
    await page.post(f"/batches/{batch_id}/budget", budget_usd="2.5")
    async with db.transaction() as conn:
        assert (await batches.get(conn, batch_id)).budget_usd == Decimal("2.5")


async def test_a_foreign_form_changes_nothing(db: Database, page: PageClient) -> None:
    batch_id = await submit(db, 1)
    path = f"/batches/{batch_id}/pause"
    right = {"csrf_token": page.csrf_token}
    for data, headers in (
        ({"csrf_token": "guessed"}, {}),
        ({}, {}),
        (right, {"Origin": "https://evil.example"}),
        (right, {"Origin": "null"}),
    ):
        answer = await page.http.post(path, data=data, headers=headers)
        assert answer.status_code in {400, 403}
    assert await status(db, batch_id) is BatchStatus.IN_PROGRESS


async def test_a_key_sees_its_own_batches_and_does_what_its_scopes_allow(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    secret = keys.new_secret()
    async with db.transaction() as conn:
        key_id = await keys.add(conn, "reader", secret, [Scope.READ], None)
    mine, other = await submit(db, 1), await submit(db, 1)
    async with db.transaction() as conn:
        await conn.execute("UPDATE ledgers SET key_id = %s WHERE batch_id = %s", [key_id, mine])
    async with page_of(database_url, tmp_path, key=secret) as page:
        text = await page.read("/batches")
        assert str(mine) in text
        assert str(other) not in text
        assert "New batch" not in text
        assert "Endpoints" not in text
        await page.read(f"/batches/{other}", status=404)
        await page.read("/endpoints", status=403)
        assert "Pause" not in await page.read(f"/batches/{mine}")
        await page.post(f"/batches/{mine}/pause", status=403)
    assert await status(db, mine) is BatchStatus.IN_PROGRESS


async def test_a_page_is_loaded_anew_whose_batch_changed_before_it_asked_for_events(
    db: Database, page: PageClient
) -> None:
    batch_id = await submit(db, 1)
    assert f"/batches/{batch_id}/events?shown=in_progress" in await page.read(
        f"/batches/{batch_id}"
    )
    sent = await page.read(f"/batches/{batch_id}/events?shown=planning")
    assert sent == "event: reload\ndata: \n\nevent: end\ndata: \n\n"


async def test_a_session_ends_with_the_key_that_opened_it(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    secret = keys.new_secret()
    async with db.transaction() as conn:
        await keys.add(conn, "writer", secret, [Scope.ADMIN], None)
    batch_id = await submit(db, 1)
    async with page_of(database_url, tmp_path, key=secret) as page:
        await page.read("/batches")
        async with db.transaction() as conn:
            await keys.revoke(conn, "writer")
        for path in ("/batches", f"/batches/{batch_id}/events?shown=in_progress", "/endpoints"):
            answer = await page.http.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        answer = await page.post(f"/batches/{batch_id}/pause")
        assert answer.headers["location"] == "/login"
    assert await status(db, batch_id) is BatchStatus.IN_PROGRESS


async def test_a_plan_for_another_budget_belongs_to_the_key_of_its_batch(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    secret = keys.new_secret()
    async with db.transaction() as conn:
        key_id = await keys.add(conn, "writer", secret, [Scope.READ, Scope.SUBMIT], None)
    batch_id = await failing_batch(db)
    async with db.transaction() as conn:
        await conn.execute("UPDATE ledgers SET key_id = %s", [key_id])
    async with page_of(database_url, tmp_path, key=secret) as page:
        answer = await page.post(f"/batches/{batch_id}/plan", budget_usd="2")
        await page.read(answer.headers["location"])  # another key's batch would not be found


async def test_runs_are_listed_reported_and_compared_regressions_first(
    db: Database, page: PageClient
) -> None:
    eval_set = await run_factory.add_set(db, run_factory.questions(6))
    wrong = ("0", "3")
    found = []
    for number, name in enumerate(("first", "second")):
        run_id = await run_factory.begin(db, eval_set, name=name)
        async with db.transaction() as conn:
            run = await eval_runs.get(conn, run_id)

        def answer(_model: str, prompt: str, failing: str = wrong[number]) -> str:
            said = prompt.split()[1].rstrip(".")
            return "no idea" if said == failing else said

        await run_factory.complete(db, run.batch_id, answer)
        await finish_run(db, run_id, shard_size=100)
        found.append(run_id)
    listed = await page.read("/evaluations")
    assert "83.3%" in listed
    assert "Who answered" in await page.read(f"/evaluations/{found[1]}")
    text = await page.read(f"/evaluations/compare?before={found[0]}&after={found[1]}")
    assert "1 worse" in text
    assert "1 better" in text
    assert text.index("q-3") < text.index("q-0")
    assert "field-1" in text
    assert "Calibration error" in text


async def test_checkpoints_are_listed_and_rolled_back(db: Database, page: PageClient) -> None:
    async with db.transaction() as conn:
        for name in ("aaaa", "bbbb"):
            manifest = {"weights_sha256": name * 16, "backbone": SCRIPT, "metrics": {"models": {}}}
            record = await checkpoints.register(conn, f"/checkpoints/{name}", manifest)
            await checkpoints.promote(conn, record, f"{SCRIPT} {name}")
    text = await page.read("/checkpoints")
    assert "bbbbbbbbbbbb" in text
    assert SCRIPT not in text
    await page.post("/checkpoints/rollback", reason="worse on math")
    async with db.transaction() as conn:
        used = await checkpoints.promoted(conn)
    assert used is not None
    assert used.weights_sha256.startswith("aaaa")
    await page.post("/checkpoints/rollback", status=400)
    await page.post("/checkpoints/promote", status=400, weights="bbbbbb")  # its folder is gone


async def test_an_endpoint_is_paused_and_called_again(db: Database, page: PageClient) -> None:
    (model, _) = pool_of("small", "large").models
    text = await page.read("/endpoints")
    assert "not called yet" in text
    for held, lasted in (("yes", True), ("no", False)):
        await page.post("/endpoints/hold", endpoint=model.endpoint_key, held=held)
        async with db.transaction() as conn:
            absence = await endpoints.absence(conn, model)
        assert (absence is not None) is lasted
    assert "healthy" in await page.read("/endpoints")
    await page.post("/endpoints/hold", status=400, endpoint="http://unknown", held="yes")


async def test_a_file_is_planned_by_the_form_and_a_bad_one_shown_again(
    db: Database, page: PageClient
) -> None:
    good = b'{"prompt": "One"}\n{"prompt": "Two"}\n'
    bad = f'{{"prompt": "One"}}\n{{"promt": "{SCRIPT}"}}\n'.encode()
    fields = {"csrf_token": page.csrf_token, "aim": "quality", "budget_usd": "1", "name": SCRIPT}
    for name, content, changes, said in (
        ("rows.jsonl", bad, {}, "1 of 2 rows have problems"),
        ("rows.txt", good, {}, "format"),
        ("rows.jsonl", good, {"budget_usd": ""}, "the budget is missing"),
        ("rows.jsonl", good, {"budget_usd": "much"}, "not a number"),
        ("rows.jsonl", good, {"aim": "match", "match_model": "huge"}, "not in the pool"),
    ):
        file = {"file": (name, content)}
        answer = await page.http.post("/submit", data={**fields, **changes}, files=file)
        assert answer.status_code == 422, answer.text
        assert said in answer.text
        assert SCRIPT not in answer.text
    file = {"file": ("rows.jsonl", good)}
    answer = await page.http.post("/submit", data={**fields, "csrf_token": "x"}, files=file)
    assert answer.status_code == 403
    async with db.transaction() as conn:
        assert await batches.list_recent(conn, 9) == []
    answer = await page.http.post("/submit", data=fields, files=file)
    assert answer.status_code == 303, answer.text
    text = await page.read(answer.headers["location"])
    assert "planning" in text
    assert "Discard" in text
    async with db.transaction() as conn:
        (batch,) = await batches.list_recent(conn, 9)
    assert (batch.name, batch.job_count, batch.budget_usd) == (SCRIPT, 2, 1)
    refused = await page.post(f"/batches/{batch.id}/run", status=400)
    assert "not ready" in refused.text
