"""The Python client against a real database: the test does what workers would."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from producer import AsyncClient, Client
from producer.client.options import BatchOptions, as_texts
from producer.rows.bad_rows import BadInputError
from routoo.domain.job import BatchStatus, ResultStatus, Stage
from routoo.errors import InputError, NotFoundError, RoutooError
from routoo.pipeline.select.shard import select_shard
from routoo.settings import REPOSITORY
from routoo.store import batches, shards
from routoo.store.database import Database
from tests import batch_factory as factory
from tests.dispatch_factory import rows as found_rows
from tests.gateway_server import running_gateway

pytestmark = pytest.mark.anyio
PROMPTS = ["Where?", "Who?", "When?", "Why?"]
OPTIONS: BatchOptions = {
    "pool": factory.pool_of("small", "large"),
    "budget_usd": 1,
    "ping": False,
    "dedupe": False,
}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name no broker and no predictor that is there, and cut shards small."""
    monkeypatch.setenv("ROUTOO_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("ROUTOO_SHARD_SIZE", "2")
    monkeypatch.setenv("ROUTOO_CHECKPOINT", "/nowhere")
    monkeypatch.setattr("producer.queue._TIMEOUT_S", 0.1)


@pytest.fixture
def client(database_url: str) -> Iterator[Client]:
    with Client(database_url=database_url) as client:
        yield client


async def plan(db: Database, batch_id: str) -> None:
    """Score and select a batch, as workers would."""
    await factory.score(db, UUID(batch_id))
    lease = await factory.claim(db, UUID(batch_id), Stage.SELECT)
    async with db.transaction() as conn:
        batch = await batches.get(conn, UUID(batch_id))
    await select_shard(db, lease, batch)
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())


async def answer(db: Database, batch_id: str, shard_no: int) -> None:
    """Answer the jobs of a shard."""
    await factory.dispatch(db, await factory.claim(db, UUID(batch_id), Stage.DISPATCH, shard_no))


# The tests run in an event loop, as the code of a notebook does.


async def test_results_come_while_the_batch_runs_and_the_state_tells_how_far_it_is(
    client: Client, db: Database
) -> None:
    batch = client.submit(PROMPTS, name="asked", **OPTIONS)
    assert batch.status().waits_for == "scorer"
    await plan(db, batch.id)
    await answer(db, batch.id, 1)
    found = batch.results()
    early = [next(found), next(found)]
    assert [one.index for one in early] == [2, 3]
    state = batch.status()
    assert (state.status, state.answered, state.jobs) == (BatchStatus.IN_PROGRESS, 2, 4)
    assert (state.budget_usd, state.spent_usd) == (Decimal(1), Decimal("0.02"))
    with pytest.raises(TimeoutError, match="in_progress"):
        batch.wait(timeout_s=0)
    await answer(db, batch.id, 0)
    assert [one.index for one in found] == [0, 1]
    assert batch.wait().all_answered
    ordered = list(client.batch("asked").results(in_order=True))
    assert [one.custom_id for one in ordered] == [f"row-{number}" for number in range(1, 5)]
    assert {(one.status, one.answer, one.model) for one in ordered} == {
        (ResultStatus.SUCCEEDED, "here", "small")
    }
    assert ordered[0].response == {"id": "response-0"}


async def test_a_plan_is_shown_before_it_is_submitted(database_url: str, db: Database) -> None:
    rows = [{"custom_id": str(number), "prompt": text} for number, text in enumerate(PROMPTS)]
    async with AsyncClient(database_url=database_url) as client:
        batch = await client._submitted(rows, OPTIONS, plan_only=True)
        with pytest.raises(InputError, match="a plan has no results"):
            await anext(batch.results())
        await plan(db, batch.id)
        found = await batch.plan()
        assert (found.jobs, found.served, found.status) == (4, 4, "unconstrained")
        assert 0 < found.expected_cost_usd <= (found.worst_case_usd or 0) <= 1
        assert [model.model for model in found.models] == ["small", "large"]
        assert [point.cost_usd for point in found.frontier] == sorted(
            point.cost_usd for point in found.frontier
        )
        assert found.details["jobs"] == 4
        with pytest.raises(InputError, match="was not submitted"):
            await batch.wait()
        await batch.submit()
        assert (await batch.status()).status is BatchStatus.IN_PROGRESS
        assert [one.id for one in await client.batches()] == [batch.id]


async def test_a_batch_is_paused_resumed_and_cancelled(client: Client) -> None:
    batch = client.submit([{"prompt": "Who?"}], **OPTIONS)
    batch.pause()
    assert batch.status().status is BatchStatus.PAUSED
    batch.resume(budget_usd="2.5")
    state = batch.status()
    assert (state.status, state.budget_usd) == (BatchStatus.IN_PROGRESS, Decimal("2.5"))
    batch.cancel()
    (result,) = batch.results()
    assert (result.status, result.is_answered) == (ResultStatus.CANCELLED, False)
    assert result.error_code == "cancelled"
    batch.retry()
    assert not batch.status().is_over


async def test_the_same_key_is_the_same_batch_and_a_file_is_read(
    client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Who?", "unknown": 1}\n')
    first = client.submit(path, idempotency_key="once", **OPTIONS)
    assert any("fields not used: 'unknown'" in note for note in first.notes)
    again = client.submit(str(path), idempotency_key="once", **OPTIONS)
    assert again.id == first.id
    assert any("nothing was added" in note for note in again.notes)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": " "}], "rows:1: the prompt is empty"),
        (["Who?", {"prompt": "Who?", "custom_id": object()}], "rows:2: the row can't be written"),
        ([{"prompt": "Who?", "custom_id": "a"}] * 2, "repeats the one of line 1"),
    ],
)
async def test_bad_rows_are_refused_with_all_that_is_wrong(
    client: Client, rows: list[Any], said: str
) -> None:
    with pytest.raises(BadInputError) as refused:
        client.submit(rows, **OPTIONS)
    assert said in "\n".join(refused.value.problems.listed)


async def test_options_are_read_like_those_of_the_commands(client: Client) -> None:
    with pytest.raises(InputError, match=r"budget_usd: .*dollars"):
        client.submit(PROMPTS, budget_usd=-1)
    with pytest.raises(InputError, match="not in the pool"):
        client.submit(PROMPTS, **(OPTIONS | BatchOptions(match="medium@0.9")))
    with pytest.raises(InputError, match="there is no such option"):
        client.submit(PROMPTS, bugdet_usd=1)  # type: ignore[call-arg]
    with pytest.raises(NotFoundError):
        client.batch("nothing")
    asked = BatchOptions(
        deadline=timedelta(minutes=90), allowed_models=("small", "large"), max_cost_usd=0.5
    )
    assert as_texts(asked) == {
        "deadline": "5400.000000s",
        "allowed_models": "small,large",
        "max_cost_usd": "0.5",
    }


async def test_a_table_of_pandas_goes_in_and_comes_out(client: Client, db: Database) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"prompt": PROMPTS, "max_tokens": [8.0, None, None, None]})
    batch = client.submit(table, **OPTIONS)
    await plan(db, batch.id)
    await answer(db, batch.id, 0)
    await answer(db, batch.id, 1)
    found = batch.to_pandas()
    assert list(found["answer"]) == ["here"] * 4
    assert found["cost_usd"].sum() == pytest.approx(0.04)
    assert found.index.name == "index"


async def test_prompts_are_made_of_a_template_and_results_joined_to_what_they_are_made_of(
    client: Client, db: Database
) -> None:
    rows = [{"key": key, "text": text, "on": date(2026, 1, 2)} for key, text in enumerate(PROMPTS)]
    batch = client.submit(
        rows, template="Say {text}", system_template="Briefly", id_column="key", **OPTIONS
    )
    asked = await found_rows(db, "SELECT custom_id, body FROM jobs ORDER BY job_no")
    assert [custom_id for custom_id, _ in asked] == ["0", "1", "2", "3"]
    assert [one["content"] for one in asked[1][1]["messages"]] == ["Briefly", "Say Who?"]
    await plan(db, batch.id)
    await answer(db, batch.id, 0)
    await answer(db, batch.id, 1)
    joined = batch.join([*reversed(rows), {"key": 7, "answer": "ours"}], id_column="key")
    assert [row["key"] for row in joined] == [3, 2, 1, 0, 7]
    assert [row["result_answer"] for row in joined] == ["here"] * 4 + [None]
    assert (joined[0]["text"], joined[0]["index"], joined[4]["answer"]) == ("Why?", 3, "ours")
    with pytest.raises(InputError, match="no row is one of the 4 jobs"):
        batch.join(rows)


async def test_a_table_s_results_are_joined_without_ids_of_its_own(
    client: Client, db: Database, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("text,note\nWhere?,a\nWho?,b\n")
    batch = client.submit(path, template="{text}", **OPTIONS)
    await plan(db, batch.id)
    await answer(db, batch.id, 0)
    joined = batch.join(str(path))
    assert [(row["note"], row["answer"], row["model"]) for row in joined] == [
        ("a", "here", "small"),
        ("b", "here", "small"),
    ]


async def test_webhooks_are_kept_and_their_addresses_checked(client: Client, db: Database) -> None:
    done, failed = "https://a.example/done", ["https://b.example/1", "https://b.example/2"]
    client.submit(PROMPTS, on_success=done, on_failure=failed, **OPTIONS)
    told = await found_rows(db, "SELECT event, url FROM batch_webhooks ORDER BY url")
    assert told == [("success", done), *(("failure", url) for url in failed)]
    with pytest.raises(InputError, match=r"on_failure: .*not encrypted"):
        client.submit(PROMPTS, on_failure="http://a.example", **OPTIONS)


async def test_what_templates_and_parts_need_is_said_in_the_words_of_python(client: Client) -> None:
    with pytest.raises(InputError, match=r"^template: .*brace"):
        client.submit(PROMPTS, template="{", **OPTIONS)
    with pytest.raises(InputError, match=r"^split: only a dataset"):
        client.submit(PROMPTS, split="test", **OPTIONS)
    with pytest.raises(BadInputError) as refused:
        client.submit([{"text": "x"}], template="{other}", **OPTIONS)
    assert "rows:1: the row has no value for 'other'" in "\n".join(refused.value.problems.listed)


async def test_a_client_lives_as_long_as_its_batches_and_says_when_it_is_closed(
    client: Client, database_url: str
) -> None:
    batch = Client(database_url=database_url).submit(PROMPTS, **OPTIONS)
    assert batch.status().jobs == 4
    client.close()
    client.close()
    with pytest.raises(InputError, match="the client is closed"):
        client.batches()


async def test_without_pandas_the_error_says_what_to_do(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    batch = client.submit(PROMPTS, **OPTIONS)
    with pytest.raises(ImportError, match="pip install pandas"):
        batch.to_pandas()


def test_a_program_that_closes_nothing_ends_and_importing_is_cheap(database_url: str) -> None:
    code = f"""
import sys, producer
assert not {{"psycopg", "numpy", "torch"}} & sys.modules.keys()
client = producer.Client(database_url={database_url!r})
print(client.batches(), "torch" in sys.modules)
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert (shown.stdout, shown.stderr) == ("[] False\n", "")


def test_a_users_own_code_passes_strict_type_checks(tmp_path: Path) -> None:
    code = tmp_path / "script.py"
    code.write_text(
        """
from producer import BatchState, Client, Result

def main(rows: list[dict[str, str]]) -> float:
    with Client(database_url="postgresql://host/name") as client:
        batch = client.plan(rows, budget_usd=5, match="large@0.98")
        cost_usd: float = batch.plan().expected_cost_usd
        batch.submit()
        results: list[Result] = list(batch.results())
        state: BatchState = batch.wait(timeout_s=60)
        reveal_type(results[0].answer)
        client.submit(rows, budget=5)
        return cost_usd + float(state.spent_usd or 0)
"""
    )
    # Of our modules alone: to read those of all libraries takes half a minute of CPU.
    ours = ("--follow-imports=silent", "--no-site-packages", "--ignore-missing-imports")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *ours, f"--cache-dir={tmp_path}", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    found = done.stdout.splitlines()
    assert any('is "str | None"' in line for line in found), found
    assert [line for line in found if ": error:" in line] == [
        line for line in found if 'Unexpected keyword argument "budget"' in line
    ]
    assert json.dumps(done.returncode) == "1"


@pytest.fixture
def gateway_client(database_url: str, tmp_path: Path) -> Iterator[Client]:
    """A client of a gateway, with a key of its own."""
    with (
        running_gateway(database_url, tmp_path) as gateway,
        Client(base_url=gateway.base_url, api_key=gateway.add_key()) as client,
    ):
        yield client


async def test_a_gateway_is_used_in_the_same_way(gateway_client: Client, db: Database) -> None:
    rows = [{"custom_id": text, "prompt": text} for text in PROMPTS]
    options: BatchOptions = {"cascade": False, "dedupe": False, "patience_s": 60}
    batch = gateway_client.submit(rows, budget_usd=1, name="asked", **options)
    state = batch.status()
    assert (state.name, state.status, state.jobs) == ("asked", BatchStatus.IN_PROGRESS, 4)
    assert (state.budget_usd, state.spent_usd) == (Decimal(1), Decimal(0))
    assert (state.stage, state.waits_for) == ("scoring", "scorer")
    batch_id = batch.id.removeprefix("batch_")
    await factory.score(db, UUID(batch_id))
    await factory.select(db, UUID(batch_id))
    await answer(db, batch_id, 1)
    found = batch.results()
    assert [next(found).index, next(found).index] == [2, 3]  # as they come
    await answer(db, batch_id, 0)
    assert [one.index for one in found] == [0, 1]
    ordered = list(batch.results(in_order=True))
    assert [(one.index, one.custom_id) for one in ordered] == list(enumerate(PROMPTS))
    assert {one.response["id"] for one in ordered if one.response} == {
        f"response-{number}" for number in range(4)
    }
    assert {(one.model, one.planned_model, one.cost_usd, one.decision) for one in ordered} == {
        ("small", "small", Decimal("0.01"), "direct")
    }
    state = batch.wait()
    assert (state.all_answered, state.downgraded, state.spent_usd) == (True, 0, Decimal("0.04"))
    known = gateway_client.batch(), gateway_client.batch(batch.id), gateway_client.batch("asked")
    assert {one.id for one in known} == {batch.id}


async def test_a_gateway_plans_pauses_resumes_and_retries(
    gateway_client: Client, db: Database
) -> None:
    asked = gateway_client._client._submitted(PROMPTS, {}, plan_only=True)
    batch = gateway_client._of(gateway_client._connection.run(asked))
    batch_id = batch.id.removeprefix("batch_")
    assert batch.status().status is BatchStatus.PLANNING
    with pytest.raises(InputError, match="A plan has no results"):
        next(batch.results())
    await plan(db, batch_id)
    assert batch.status().status is BatchStatus.PLANNED
    with pytest.raises(InputError, match="was not submitted"):
        batch.wait()
    found = batch.plan()
    assert (found.jobs, found.served, found.details["jobs"]) == (4, 4, 4)
    batch.submit()
    batch.submit()  # changes nothing
    batch.pause()
    assert batch.status().status is BatchStatus.PAUSED
    batch.resume(budget_usd="2.5")
    state = batch.status()
    assert (state.status, state.budget_usd) == (BatchStatus.IN_PROGRESS, Decimal("2.5"))
    batch.cancel()
    assert {one.status for one in batch.results()} == {ResultStatus.CANCELLED}
    batch.retry()
    assert not batch.status().is_over


async def test_a_gateway_gets_prompts_made_of_a_template_with_the_ids_of_its_rows(
    gateway_client: Client, db: Database, tmp_path: Path
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("text,note\nWhere?,a\nWho?,b\n")
    batch = gateway_client.submit(path, template="Say {text}", cascade=False, dedupe=False)
    batch_id = batch.id.removeprefix("batch_")
    asked = await found_rows(db, "SELECT custom_id, body FROM jobs ORDER BY job_no")
    assert [(one, body["messages"][0]["content"]) for one, body in asked] == [
        ("row-2", "Say Where?"),
        ("row-3", "Say Who?"),
    ]
    await factory.score(db, UUID(batch_id))
    await factory.select(db, UUID(batch_id))
    await answer(db, batch_id, 0)
    assert [(row["note"], row["model"]) for row in batch.join(path)] == [
        ("a", "small"),
        ("b", "small"),
    ]
    with pytest.raises(InputError, match=r"can't be given this option.*on_success"):
        gateway_client.submit(PROMPTS, on_success="https://a.example")


async def test_a_gateway_refuses_in_its_own_words(gateway_client: Client) -> None:
    with pytest.raises(InputError, match=r"metadata\.budget_usd"):
        gateway_client.submit(PROMPTS, budget_usd="much")
    with pytest.raises(InputError, match="the prompt is empty"):
        gateway_client.submit([" "])
    with pytest.raises(InputError, match="can't be given this option"):
        gateway_client.submit(PROMPTS, validate={"not_empty": True})
    for unknown in ("batch_00000000000000000000000000000000", "no such name"):
        with pytest.raises(NotFoundError):
            gateway_client.batch(unknown)
    batch = gateway_client.submit(PROMPTS)
    with pytest.raises(InputError, match="greater than or equal to 0"):
        batch.resume(budget_usd=-1)
    batch.cancel()
    assert {one.status for one in batch.results()} == {ResultStatus.CANCELLED}
    with pytest.raises(InputError, match="cancelled"):
        batch.pause()


async def test_a_gateway_that_is_away_or_knows_no_such_key_is_an_error() -> None:
    away = Client(base_url="http://127.0.0.1:1", api_key="k")
    with away, pytest.raises(RoutooError, match="can't be reached"):
        away.batches()
    with pytest.raises(InputError, match="a database and workers of its own"):
        Client(base_url="http://127.0.0.1:1", start_workers=True)
