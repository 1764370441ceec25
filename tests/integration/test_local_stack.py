"""Workers for one command: those that live are used, and none is started in vain."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from producer.local_stack import LocalStack
from routoo.embedded.stack import StackStatus, is_stack_running, stack_lock, status_path
from routoo.errors import CheckpointError
from routoo.settings import Settings
from routoo.store import workers
from routoo.store.database import Database

pytestmark = pytest.mark.anyio


@pytest.fixture
def stack(database_url: str, tmp_path: Path) -> LocalStack:
    """A stack that could not score anything: there is no checkpoint."""
    return LocalStack(
        Settings(
            home=tmp_path,
            database_url=SecretStr(database_url),
            broker_url=SecretStr("redis://127.0.0.1:1/0"),
            checkpoint=tmp_path / "nothing",
        )
    )


async def report(db: Database, *roles: str) -> None:
    async with db.transaction() as conn:
        for role in roles:
            await workers.report(conn, f"{role}@host:1", role)


async def live_roles(db: Database) -> frozenset[str]:
    async with db.transaction() as conn:
        return await workers.live_roles(conn)


async def test_workers_that_live_do_the_work_and_nothing_is_started(
    db: Database, stack: LocalStack
) -> None:
    await report(db, "scorer", "dispatcher")

    async def work() -> str:
        await stack.ready.wait()
        return "done"

    assert await stack.serve(db, work()) == "done"
    assert not stack.is_started
    assert not stack.is_ready()
    stack.stop()


async def test_without_a_predictor_no_worker_is_started_and_the_work_ends(
    db: Database, stack: LocalStack
) -> None:
    await report(db, "dispatcher")  # no scorer
    with pytest.raises(CheckpointError, match="there is no predictor to score the prompts with"):
        await stack.serve(db, asyncio.sleep(3600))
    assert not stack.is_started


async def test_a_named_checkpoint_that_living_workers_would_not_use_is_refused(
    db: Database, stack: LocalStack
) -> None:
    stack.named_checkpoint = True
    await stack.check_named_checkpoint(db)  # no worker lives: it is for those that are started
    await report(db, "scorer", "dispatcher")
    with pytest.raises(CheckpointError, match="workers run already") as refused:
        await stack.check_named_checkpoint(db)
    assert refused.value.exit_code == 2
    stack.named_checkpoint = False
    await stack.check_named_checkpoint(db)


async def test_a_worker_that_ends_or_is_silent_lives_no_more(db: Database) -> None:
    await report(db, "scorer", "dispatcher", "beat")
    assert await live_roles(db) == {"scorer", "dispatcher", "beat"}
    async with db.transaction() as conn:
        await workers.remove(conn, "scorer@host:1")
        await conn.execute(
            "UPDATE workers SET seen_at = now() - interval '16 s' WHERE role = 'beat'"
        )
    assert await live_roles(db) == {"dispatcher"}


def test_a_stack_runs_while_its_lock_is_held_and_its_status_is_read(tmp_path: Path) -> None:
    assert not is_stack_running(tmp_path)
    with stack_lock(tmp_path):
        assert is_stack_running(tmp_path)
    assert not is_stack_running(tmp_path)
    assert StackStatus.read(tmp_path) is None
    status = StackStatus(1, {"beat-1": 2}, ready=False)
    status.write(tmp_path)
    assert StackStatus.read(tmp_path) == status
    assert status_path(tmp_path).exists()
