"""Runs an offline command against the database that the settings name."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from routoo.embedded.stack import embedded_stack
from routoo.settings import Settings
from routoo.store.database import Database

Answer = TypeVar("Answer")


def with_database(settings: Settings, command: Callable[[Database], Awaitable[Answer]]) -> Answer:
    """Run a command with an open database; an embedded one is started and migrated first.

    Raises:
        RoutooError: What the command raised, or the database can't be used.
    """
    with embedded_stack(settings, broker=False) as (url, _):
        if settings.embedded_database:
            # Alembic takes a second to load: not for --help
            from routoo.store.migrate import upgrade  # noqa: PLC0415

            upgrade(url)
        return asyncio.run(_run(url, command))


async def _run(url: str, command: Callable[[Database], Awaitable[Answer]]) -> Answer:
    async with Database(url, max_size=2) as database:
        return await command(database)
