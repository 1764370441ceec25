"""Reports every few seconds that a worker process lives: a batch can then say what it waits for."""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from routoo.errors import StoreError
from routoo.store import workers
from routoo.store.database import Database
from worker.loop import LoopThread
from worker.roles import Role


@contextmanager
def heartbeat(loop: LoopThread, db: Database, name: str, role: Role) -> Iterator[None]:
    """Report while the block runs that a worker lives; one that is silent counts as gone."""
    task = loop.run(_start(db, name, role))
    try:
        yield
    finally:
        loop.run(_stop(task))


async def _start(db: Database, name: str, role: Role) -> "asyncio.Task[None]":
    return asyncio.create_task(_report_forever(db, name, role))


async def _report_forever(db: Database, name: str, role: Role) -> None:
    while True:
        # A database that is away loses a report and nothing else.
        with contextlib.suppress(StoreError):
            async with db.transaction() as conn:
                await workers.report(conn, name, role)
        await asyncio.sleep(workers.REPORT_INTERVAL_S)


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
