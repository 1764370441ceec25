"""Files and batches of the gateway, by the client that people's scripts use; no worker runs."""

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import openai
import psycopg
import pytest
from openai import HttpxBinaryResponseContent
from openai.types import Batch

from routoo.domain.caller import Scope
from routoo.domain.job import Stage
from routoo.pipeline.select.shard import select_shard
from routoo.store import batches, shards
from routoo.store.database import Database
from tests import batch_factory as factory
from tests.gateway_server import RunningGateway, pool_of, running_gateway


@pytest.fixture
def gateway(database_url: str, tmp_path: Path) -> Iterator[RunningGateway]:
    pools = {"default": pool_of(), "dear": pool_of(huge="100")}
    limits = {"max_request_bytes": 4096, "max_file_bytes": 100_000}
    with running_gateway(database_url, tmp_path, pools=pools, **limits) as found:
        yield found


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    key = gateway.add_key()
    with openai.OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0) as client:
        yield client


def rows(count: int, **body: Any) -> bytes:
    """Return a file of requests as OpenAI's documentation writes them."""
    lines = (
        {
            "custom_id": f"job-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"Question {number}"}], **body},
        }
        for number in range(count)
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def upload(client: openai.OpenAI, content: bytes, name: str = "rows.jsonl") -> str:
    return client.files.create(file=(name, content), purpose="batch").id


def wait_for(client: openai.OpenAI, batch_id: str, done: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 60
    while not done(batch := client.batches.retrieve(batch_id)):
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
    return batch


def is_read(batch: Any) -> bool:
    return batch.status != "validating"


def create(client: openai.OpenAI, file_id: str, **metadata: str) -> Any:
    return client.batches.create(
        input_file_id=file_id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata=metadata,
    )


def query(gateway: RunningGateway, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(gateway.database_url) as conn:
        return conn.execute(sql.encode()).fetchall()


def test_a_file_is_uploaded_described_read_and_deleted(client: openai.OpenAI) -> None:
    content = rows(300)
    made = client.files.create(file=("rows.jsonl", content), purpose="batch")

    assert (made.filename, made.purpose, made.bytes) == ("rows.jsonl", "batch", len(content))
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).content == content
    assert [one.id for one in client.files.list(purpose="batch")] == [made.id]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_files_are_listed_in_pages(client: openai.OpenAI) -> None:
    made = [upload(client, rows(1), f"{number}.jsonl") for number in range(5)]

    assert [one.id for one in client.files.list(limit=2, order="asc")] == made
    assert [one.id for one in client.files.list(limit=2)] == made[::-1]


def test_a_batch_is_submitted_with_what_its_metadata_asks_for(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    asked = {"budget_usd": "2.5", "min_mean_quality": "0.5", "pool": "dear", "team": "ours"}
    made = create(client, upload(client, rows(30)), **asked)
    batch = wait_for(client, made.id, is_read)

    assert batch.status == "in_progress"
    assert batch.metadata == asked
    assert (batch.request_counts.total, batch.request_counts.completed) == (30, 0)
    assert batch.expires_at - batch.created_at == 86_400
    assert (batch.output_file_id, batch.error_file_id, batch.errors) == (None, None, None)
    stored = query(
        gateway,
        "SELECT b.id::text, name, budget_usd, pool #>> '{models,0,name}', job_count,"
        " objective ->> 'min_mean_quality', b.deadline - b.created_at < interval '24 hours',"
        " k.name FROM batches b JOIN ledgers l ON l.batch_id = b.id"
        " JOIN api_keys k ON k.id = l.key_id".replace(" name,", " b.name,"),
    )
    expected_id = batch.id.removeprefix("batch_")
    assert [(one[0].replace("-", ""), *one[1:]) for one in stored] == [
        (expected_id, "rows", Decimal("2.5"), "huge", 30, "0.5", True, "key")
    ]


def test_bad_rows_fail_a_batch_with_their_lines(client: openai.OpenAI) -> None:
    lines = rows(3).splitlines()
    content = b"\n".join([lines[0], b"{not json", lines[0], lines[2]])
    batch = wait_for(client, create(client, upload(client, content)).id, is_read)

    assert batch.status == "failed"
    assert batch.failed_at is not None
    found = [(one.line, one.code) for one in batch.errors.data]
    assert found == [(2, "malformed_line"), (3, "duplicate_custom_id")]


def test_bad_rows_are_left_out_where_the_metadata_says_so(client: openai.OpenAI) -> None:
    content = rows(2) + b'{"custom_id": "bad", "body": {"messages": []}}\n'
    made = create(client, upload(client, content), skip_invalid="true")
    batch = wait_for(client, made.id, is_read)

    counts = batch.request_counts
    assert (batch.status, counts.total, counts.failed) == ("in_progress", 3, 1)
    cancelled = wait_for(client, client.batches.cancel(made.id).id, lambda one: one.cancelled_at)
    assert cancelled.status == "cancelled"
    errors = client.files.content(cancelled.error_file_id).text.splitlines()
    assert [json.loads(line)["custom_id"] for line in errors] == ["bad", "job-0", "job-1"]
    first = json.loads(errors[0])["error"]
    assert (first["code"], first["line"]) == ("missing_field", 3)
    described = client.files.retrieve(cancelled.error_file_id)
    assert described.bytes == len(client.files.content(cancelled.error_file_id).content)
    assert client.files.delete(cancelled.error_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(cancelled.error_file_id)


def test_the_same_file_with_the_same_metadata_is_one_batch(client: openai.OpenAI) -> None:
    first = create(client, upload(client, rows(3)), budget_usd="1")

    assert create(client, upload(client, rows(3)), budget_usd="1").id == first.id
    assert create(client, upload(client, rows(3)), budget_usd="2").id != first.id
    assert create(client, upload(client, rows(4)), budget_usd="1").id != first.id
    client.batches.cancel(first.id)
    assert create(client, upload(client, rows(3)), budget_usd="1").id != first.id


def test_batches_are_listed_in_pages(client: openai.OpenAI) -> None:
    file_id = upload(client, rows(1))
    made = [create(client, file_id, run=str(number)).id for number in range(5)]

    assert [one.id for one in client.batches.list(limit=2)] == made[::-1]
    assert [one.id for one in client.batches.list(limit=2, after=made[2]).data] == [
        made[1],
        made[0],
    ]


@pytest.mark.parametrize(
    ("metadata", "param"),
    [
        ({"budget_usd": "much"}, "metadata.budget_usd"),
        ({"pool": "http://evil.example"}, "metadata.pool"),
        ({"match": "gpt-9@0.9"}, "metadata.match"),
        ({"deadline": "yesterday"}, "metadata.deadline"),
        ({"skip_invalid": "perhaps"}, "metadata.skip_invalid"),
        ({"max_completion_tokens": "0"}, "metadata.max_completion_tokens"),
        ({"min_mean_quality": "0.5", "willingness_to_pay_usd": "1"}, "metadata"),
        ({"note": "x" * 513}, "metadata"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(
    client: openai.OpenAI, metadata: dict[str, str], param: str
) -> None:
    file_id = upload(client, rows(1))

    with pytest.raises(openai.BadRequestError) as refusal:
        create(client, file_id, **metadata)

    assert refusal.value.param == param


def test_an_unknown_endpoint_window_or_file_is_refused(client: openai.OpenAI) -> None:
    file_id = upload(client, rows(1))
    asked: dict[str, Any] = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
    with pytest.raises(openai.BadRequestError):
        client.batches.create(**{**asked, "endpoint": "/v1/embeddings"}, completion_window="24h")
    with pytest.raises(openai.BadRequestError):
        client.batches.create(**asked, completion_window="soon")  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError):
        create(client, "file-0123")


@pytest.fixture
def as_key(gateway: RunningGateway) -> Iterator[Callable[[str], openai.OpenAI]]:
    """Return what opens a client with a key."""
    with contextlib.ExitStack() as clients:

        def opened(key: str) -> openai.OpenAI:
            client = openai.OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0)
            return clients.enter_context(client)

        yield opened


def test_keys_open_what_their_scopes_allow(
    gateway: RunningGateway, as_key: Callable[[str], openai.OpenAI]
) -> None:
    with pytest.raises(openai.AuthenticationError) as unknown:
        as_key("rt-unknown").files.list()
    assert unknown.value.code == "invalid_api_key"
    reader = as_key(gateway.add_key("reader", [Scope.READ]))
    with pytest.raises(openai.PermissionDeniedError):
        upload(reader, rows(1))
    writer = as_key(gateway.add_key("writer"))
    made = create(writer, upload(writer, rows(1)))
    assert list(reader.batches.list()) == []  # another key's
    for call in (reader.batches.retrieve, reader.files.retrieve):
        with pytest.raises(openai.NotFoundError):
            call(made.id if call == reader.batches.retrieve else made.input_file_id)
    admin = as_key(gateway.add_key("admin", [Scope.ADMIN]))
    assert [one.id for one in admin.batches.list()] == [made.id]


def test_a_key_asks_for_no_more_than_it_may_spend_today(gateway: RunningGateway) -> None:
    key = gateway.add_key("poor", usd_per_day="0.5")
    with openai.OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0) as client:
        file_id = upload(client, rows(1))

        with pytest.raises(openai.RateLimitError) as refusal:
            create(client, file_id, budget_usd="0.6")
        assert refusal.value.code == "insufficient_quota"
        create(client, file_id)
        assert query(gateway, "SELECT budget_usd FROM api_batches") == [(Decimal("0.5"),)]


def test_bodies_over_the_limits_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as large_file:
        upload(client, b"x" * 200_000)
    assert large_file.value.status_code == 413
    with pytest.raises(openai.APIStatusError) as large_request:
        create(client, "file-" + "0" * 10_000)
    assert large_request.value.status_code == 413
    assert list(client.files.list()) == []


def test_a_form_that_breaks_off_or_has_no_file_leaves_nothing(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    async def post(data: Any, headers: dict[str, str]) -> int:
        key = {"Authorization": f"Bearer {client.api_key}"}
        async with (
            aiohttp.ClientSession(headers=key) as session,
            session.post(f"{gateway.base_url}/files", data=data, headers=headers) as answer,
        ):
            await answer.read()
            status = answer.status
        await asyncio.sleep(0.05)  # the loop closes the sockets of a closed session
        return status

    form = aiohttp.FormData({"purpose": "batch"})
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    begun = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n{}'
    wrong = aiohttp.FormData({"purpose": "fine-tune"})
    wrong.add_field("file", rows(1), filename="rows.jsonl")
    for data, headers in [(form, {}), (begun, kind), (b"{}", {}), (wrong, {})]:
        assert asyncio.run(post(data, headers)) == 400
    assert query(gateway, "SELECT count(*) FROM files") == [(0,)]


def test_a_batch_that_a_dead_gateway_left_is_submitted_by_the_next(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.gateway.submitter._POLL_S", 0.5)
    with (
        running_gateway(database_url, tmp_path) as gateway,
        openai.OpenAI(base_url=gateway.base_url, api_key=gateway.add_key()) as client,
    ):
        made = create(client, upload(client, rows(2)))
        wait_for(client, made.id, is_read)
        with psycopg.connect(database_url) as conn:  # as if it had died before it said so
            conn.execute("UPDATE api_batches SET state = 'validating'")
        wait_for(client, made.id, is_read)

        assert query(gateway, "SELECT job_count FROM batches") == [(2,)]


def act(client: openai.OpenAI, batch_id: str, action: str, **body: Any) -> Any:
    """Call a route that OpenAI's API lacks, as its client's users do."""
    return client.post(f"/batches/{batch_id}/{action}", body=body or None, cast_to=Batch)


def test_a_plan_spends_nothing_before_it_is_submitted(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    made = create(client, upload(client, rows(3)), plan_only="true", budget_usd="1")
    batch = wait_for(client, made.id, is_read)

    assert batch.status == "in_progress"
    own = {"status": "planning", "downgraded": 0, "spent_usd": 0.0, "budget_usd": 1.0}
    assert batch.routoo == own
    with pytest.raises(openai.ConflictError) as early:
        client.get(f"/batches/{made.id}/plan", cast_to=dict[str, Any])
    assert early.value.code == "no_plan"
    with pytest.raises(openai.BadRequestError, match="not ready"):
        act(client, made.id, "submit")
    asyncio.run(plan(gateway, made.id))
    shown = client.get(f"/batches/{made.id}/plan", cast_to=dict[str, Any])
    assert (shown["status"], shown["plan"]["jobs"], shown["budget_usd"]) == ("planned", 3, 1)
    assert act(client, made.id, "submit").routoo["status"] == "in_progress"


def test_a_plan_is_dropped_by_cancelling_it(gateway: RunningGateway, client: openai.OpenAI) -> None:
    made = create(client, upload(client, rows(1)), plan_only="true")
    wait_for(client, made.id, is_read)
    asyncio.run(plan(gateway, made.id))

    assert client.batches.cancel(made.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="plan that was cancelled"):
        act(client, made.id, "retry")


def test_a_batch_is_paused_given_money_cancelled_and_retried(client: openai.OpenAI) -> None:
    made = create(client, upload(client, rows(2)), budget_usd="1")
    wait_for(client, made.id, is_read)

    assert act(client, made.id, "pause").routoo["status"] == "paused"
    resumed = act(client, made.id, "resume", budget_usd="2.5")
    assert (resumed.routoo["status"], resumed.routoo["budget_usd"]) == ("in_progress", 2.5)
    progress = client.get(f"/batches/{made.id}/progress", cast_to=dict[str, Any])
    assert (progress["jobs"], progress["budget_usd"], progress["stage"]) == (2, 2.5, "scoring")
    with pytest.raises(openai.BadRequestError):
        act(client, made.id, "resume", budget_usd="much")
    client.batches.cancel(made.id)
    lines = client.get(
        f"/batches/{made.id}/results", cast_to=HttpxBinaryResponseContent
    ).text.splitlines()
    assert [json.loads(line)["error"]["code"] for line in lines] == ["cancelled"] * 2
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        act(client, made.id, "pause")
    assert act(client, made.id, "retry", error_code="cancelled").status == "in_progress"


def test_results_that_are_followed_end_early_where_the_gateway_is_stopped(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    made = create(client, upload(client, rows(2)))
    wait_for(client, made.id, is_read)
    followed = f"{gateway.base_url}/batches/{made.id}/results"
    headers = {"Authorization": f"Bearer {client.api_key}"}
    request = urllib.request.Request(followed, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        gateway.server.should_exit = True
        assert answer.read() == b""


def test_what_openai_lacks_needs_the_scope_and_the_owner(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    made = create(client, upload(client, rows(1)))
    wait_for(client, made.id, is_read)
    other = client.with_options(api_key=gateway.add_key("other"))
    reader = client.with_options(api_key=gateway.add_key("reader", [Scope.READ]))

    for action in ("submit", "pause", "resume", "retry"):
        with pytest.raises(openai.NotFoundError):
            act(other, made.id, action)
        with pytest.raises(openai.PermissionDeniedError):
            act(reader, made.id, action)
    for shown in ("plan", "progress", "results"):
        with pytest.raises(openai.NotFoundError):
            other.get(f"/batches/{made.id}/{shown}", cast_to=dict[str, Any])


async def plan(gateway: RunningGateway, batch_id: str) -> None:
    """Score and select a batch, as workers would."""
    known = UUID(batch_id.removeprefix("batch_"))
    async with Database(gateway.database_url) as db:
        await factory.score(db, known)
        lease = await factory.claim(db, known, Stage.SELECT)
        async with db.transaction() as conn:
            batch = await batches.get(conn, known)
        await select_shard(db, lease, batch)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.Done())
