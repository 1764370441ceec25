"""Runs a command: settings, database, event loop, interrupts."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import TypeVar

import typer

from producer.session import database_in_use
from routoo.settings import Settings
from routoo.store.database import Database

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells give it."""
_CONNECTIONS = 2
"""One to stream from and one to write with."""

Answer = TypeVar("Answer")


def run(
    settings: Settings,
    command: Callable[[Database], Awaitable[Answer]],
    *,
    on_interrupt: str = "Interrupted.",
) -> Answer:
    """Run a command against the database that the settings name.

    Args:
        settings: Read at the entry point.
        command: What to do with the open database.
        on_interrupt: What to say on standard error after Ctrl-C.

    Raises:
        Exit: After Ctrl-C, with status 130.
        RoutooError: What the command raised.
    """
    # Python's own handler would be replaced by asyncio with one that can't end a blocking read.
    previous = signal.signal(signal.SIGINT, _raise_interrupt)
    try:
        with database_in_use(settings) as url:
            return asyncio.run(_with_database(url, command))
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{on_interrupt}\n")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, previous)


async def _with_database(url: str, command: Callable[[Database], Awaitable[Answer]]) -> Answer:
    async with Database(url, max_size=_CONNECTIONS) as database:
        return await command(database)


def _raise_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
