"""What `run` refuses before it starts anything, and how it finds the batch it goes on with."""

import asyncio
import json
import os
import pty
import signal
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from producer.run import RunKey, changes, find_earlier
from producer.submit import BatchRequest
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.job import SLA, BatchStatus, Stage
from routoo.domain.model_prior import GENERAL_CHECKPOINT
from routoo.errors import InputError
from routoo.pipeline.select.shard import select_shard
from routoo.store import batches, checkpoints, shards, workers
from routoo.store.database import Database
from routoo.training.promote import register_folder
from tests import batch_factory as factory
from tests.producer_command import ProducerCommand
from tests.warm_commands import PRODUCER

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
    return RunKey.of([path], request, {"budget_usd": str(request.budget_usd), **options})


def test_a_run_of_an_older_version_goes_on(tmp_path: Path) -> None:
    """The key is that of before pools had priors, formats and prices of a cache's writes."""
    key = RunKey("run:c70f129907c33b943dd461cef54a9397:", "4b2132907bd78edc")
    assert key_of(*request(tmp_path)) == key


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
            plan_only=True,
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


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command: ProducerCommand, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self._run = subprocess.Popen(
            [str(PRODUCER), *arguments],
            env=command.environment,
            cwd=command.environment["ROUTOO_HOME"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    async def read(self, word: str | None = None) -> str:
        """Return what is shown up to a word, or to the end."""
        return await asyncio.to_thread(self._read, word)

    def _read(self, word: str | None) -> str:
        shown = b""
        while word is None or word.encode() not in shown:
            try:
                shown += os.read(self._ours, 4096)
            except OSError:  # the other end is closed
                break
        return shown.decode()

    def type(self, line: str) -> None:
        os.write(self._ours, f"{line}\n".encode())

    async def exit_status(self) -> int:
        try:
            return await asyncio.to_thread(self._run.wait, 120)
        finally:
            os.close(self._ours)


async def planned_batch(db: Database) -> UUID:
    """Do what workers would until the batch that a command makes is planned; return its id."""
    sql = b"SELECT id FROM batches WHERE status = 'planning'"
    while True:
        async with db.transaction() as conn:
            found = await (await conn.execute(sql)).fetchone()
        if found is not None:
            break
        await asyncio.sleep(0.1)
    await factory.score(db, found[0])
    lease = await factory.claim(db, found[0], Stage.SELECT)
    async with db.transaction() as conn:
        batch = await batches.get(conn, found[0])
    await select_shard(db, lease, batch)
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())
    return batch.id


async def answer(db: Database, batch_id: UUID) -> None:
    """Answer a batch, as a dispatcher would, once it is submitted."""
    while True:
        async with db.transaction() as conn:
            if await batches.status(conn, batch_id) is BatchStatus.IN_PROGRESS:
                break
        await asyncio.sleep(0.1)
    await factory.dispatch(db, await factory.claim(db, batch_id, Stage.DISPATCH))


@pytest.fixture
async def arguments(db: Database, tmp_path: Path) -> tuple[str, ...]:
    """Rows, a pool of two models, and workers that seem to live: the test does their work."""
    (tmp_path / "four.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Who is {n}?"}) + "\n" for n in range(4))
    )
    pool = factory.pool_of("small", "large").model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "two.yaml").write_text(json.dumps(pool))
    async with db.transaction() as conn:
        for role in ("scorer", "dispatcher"):
            await workers.report(conn, role, role)
        await conn.execute("UPDATE workers SET seen_at = now() + interval '1 hour'")
    return ("run", "four.jsonl", "--pool", "two.yaml", "--budget-usd", "1", "--out", "out.jsonl")


async def test_on_a_terminal_the_plan_is_shown_and_only_a_yes_spends(
    db: Database, command: ProducerCommand, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    first = Terminal(command, *arguments)
    batch_id = await planned_batch(db)
    assert "random mix" in await first.read("[y/N]")
    first.type("n")
    assert "nothing was spent" in await first.read()
    assert await first.exit_status() == 130
    second = Terminal(command, *arguments)
    await second.read("[y/N]")
    second.type("y")
    await answer(db, batch_id)
    assert "4 of 4 answered" in await second.read()
    assert await second.exit_status() == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4


def begin_in_a_script(command: ProducerCommand, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(PRODUCER), *arguments],
        env=command.environment,
        cwd=command.environment["ROUTOO_HOME"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_run_keeps_its_batch_and_the_same_command_goes_on(
    db: Database, command: ProducerCommand, arguments: tuple[str, ...], how: int
) -> None:
    run = begin_in_a_script(command, *arguments, "--yes")
    batch_id = await planned_batch(db)
    assert run.stdout is not None
    while "in_progress" not in await asyncio.to_thread(run.stdout.readline):
        pass
    run.send_signal(how)
    _, messages = await asyncio.to_thread(run.communicate, timeout=120)
    assert run.returncode == 130
    assert f"Batch {batch_id} is kept and goes on at its workers" in messages
    await answer(db, batch_id)
    async with db.transaction() as conn:
        learnt = await register_folder(conn, GENERAL_CHECKPOINT)
        await checkpoints.promote(conn, learnt, "learnt meanwhile")
    again = await asyncio.to_thread(command.run, *arguments, "--yes", "--json")
    facts = json.loads(again.stdout)
    assert (again.returncode, facts["batch_id"], facts["answered"]) == (0, str(batch_id), 4)
    assert f"goes on with batch {batch_id}" in again.stderr
    assert "it was planned before the checkpoint in use now" in again.stderr
