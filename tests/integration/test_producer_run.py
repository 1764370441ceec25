"""What `run` refuses before it starts anything, and how it finds the batch it goes on with."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from producer.run import RunKey, changes, find_earlier
from producer.submit import BatchRequest
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.job import SLA
from routoo.errors import InputError
from routoo.store import batches
from routoo.store.database import Database
from tests import batch_factory as factory
from tests.producer_command import ProducerCommand

pytestmark = pytest.mark.anyio


@pytest.fixture
def command(database_url: str, tmp_path: Path) -> ProducerCommand:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Who?"}\n')
    return ProducerCommand(database_url, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rows.jsonl", "--out", "a.jsonl"), "Give --yes, or look first"),
        (("rows.jsonl", "--out", "rows.jsonl", "--yes"), "the answers would replace the prompts"),
        (("rows.jsonl", "--out", "a.xlsx", "--yes"), "the format can't be told"),
        (("rows.jsonl", "--out", "no/a.csv", "--yes"), "there is no such folder"),
        (("-", "--out", "a.jsonl", "--yes"), "the prompts must stand in a file"),
        (("rows.jsonl", "--out", "a.jsonl", "--yes"), "there is no predictor to score"),
    ],
)
def test_what_can_not_work_is_refused_with_a_remedy(
    command: ProducerCommand, arguments: tuple[str, ...], said: str
) -> None:
    assert said in command.refusal("run", *arguments)


def request(folder: Path) -> tuple[Path, BatchRequest]:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Who?"}))
    return path, BatchRequest(factory.pool_of("small", "large"), name="rows", budget_usd=Decimal(5))


def key_of(path: Path, request: BatchRequest, **options: object) -> RunKey:
    return RunKey.of(path, request, {"budget_usd": str(request.budget_usd), **options})


async def begin(db: Database, path: Path, request: BatchRequest, status: str) -> str:
    """Make a batch in some state as a run of these options makes it; return its id."""
    key = key_of(path, request)
    async with db.transaction() as conn:
        earlier = await find_earlier(conn, key, request)
        new = batches.NewBatch(
            "rows",
            request.pool,
            idempotency_key=earlier.idempotency_key,
            budget_usd=request.budget_usd,
            draft=True,
        )
        batch_id, created = await batches.create(conn, new)
        assert created
        submitted_at = None if status in {"planned", "failed"} else datetime.now(UTC)
        await conn.execute(
            "UPDATE batches SET status = %s, submitted_at = %s WHERE id = %s",
            [status, submitted_at, batch_id],
        )
    return str(batch_id)


async def found(db: Database, path: Path, request: BatchRequest) -> str | None:
    async with db.transaction() as conn:
        earlier = await find_earlier(conn, key_of(path, request), request)
    return None if earlier.batch is None else str(earlier.batch.id)


async def test_the_same_file_name_and_options_are_the_same_batch(
    db: Database, tmp_path: Path
) -> None:
    path, asked = request(tmp_path)
    assert await found(db, path, asked) is None
    batch_id = await begin(db, path, asked, "in_progress")
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(path.read_bytes())
    assert await found(db, moved, asked) == batch_id
    assert await found(db, path, replace(asked, name="other")) is None
    path.write_text('{"prompt": "Whom?"}')
    assert await found(db, path, asked) is None


async def test_other_options_are_told_once_money_was_spent_and_replan_before(
    db: Database, tmp_path: Path
) -> None:
    path, asked = request(tmp_path)
    dearer = replace(asked, budget_usd=Decimal(6))
    await begin(db, path, asked, "planned")
    assert await found(db, path, dearer) is None
    batch_id = await begin(db, path, dearer, "completed")
    with pytest.raises(InputError, match=r"budget: \$6.0000 then, \$7.0000 now") as refused:
        await found(db, path, replace(asked, budget_usd=Decimal(7)))
    assert refused.value.where == f"batch {batch_id}"
    assert await found(db, path, dearer) == batch_id


async def test_a_plan_that_failed_is_made_again(db: Database, tmp_path: Path) -> None:
    path, asked = request(tmp_path)
    await begin(db, path, asked, "failed")
    assert await found(db, path, asked) is None
    again = await begin(db, path, asked, "planned")
    assert await found(db, path, asked) == again


async def test_changes_are_told_in_words(db: Database, tmp_path: Path) -> None:
    path, asked = request(tmp_path)
    batch_id = await begin(db, path, asked, "completed")
    async with db.transaction() as conn:
        before = await batches.find(conn, batch_id)
    model = asked.pool.models[0]
    other = replace(
        asked,
        pool=asked.pool.model_copy(update={"models": (model,)}),
        objective=Objective(min_mean_quality=0.8),
        sla=SLA(min_quality=0.5),
        call_options=CallOptions(cascade=False),
    )
    assert changes(before, other) == [
        "aim: the most quality then, a mean quality of 0.8 at the least cost now",
        "--min-quality: None then, 0.5 now",
        f"pool: {', '.join(asked.pool.names[1:])} gone",
        "cascade: True then, False now",
    ]
    assert changes(before, asked) == [
        "limits of the rows, rules for answers, or how the rows are read"
    ]
