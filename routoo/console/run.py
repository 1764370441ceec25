"""Runs a program or a command: errors and Ctrl-C become messages and exit statuses.

Every `RoutooError` names its own status in `exit_code`; the others stand here.
"""

import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import typer

from routoo.console.output import buffer_standard_output, note
from routoo.errors import RoutooError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from routoo.settings import Settings
    from routoo.store.database import Database


SYSTEM_ERROR = 4
"""The operating system refused: a full disk, a folder that may not be written (`OSError`)."""
INCOMPLETE = 5
"""The command came to its end, and some calls failed, some jobs or rows have no answer."""
DEVIATED = 7
"""With `--strict`: some jobs were answered by a model expected to be worse than the planned one."""
BATCH_FAILED = 8
"""The batch failed as a whole; its error says why."""
INTERRUPTED = 130
"""Ctrl-C, as shells give it (128 + SIGINT)."""


_CONNECTIONS = 2
"""Database connections of a command: one to stream from and one to write with."""

Result = TypeVar("Result")


def run_program(app: Callable[[], object]) -> None:
    """Run a command line; an expected error ends it with a message and a status, not a trace.

    Raises:
        SystemExit: The command failed: with the error's `exit_code` for an error of ours, with
            `SYSTEM_ERROR` where the operating system refused, with `INTERRUPTED` after Ctrl-C.
    """
    buffer_standard_output()
    quiet_driver()
    try:
        app()
    except RoutooError as error:
        note(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        note(f"error: {where}{error.strerror or error}")
        sys.exit(SYSTEM_ERROR)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def quiet_driver() -> None:
    """Silence the log of the database driver: our own errors and events say the same."""
    logging.getLogger("psycopg").setLevel(logging.ERROR)


def run_with_database(
    settings: "Settings",
    command: "Callable[[Database], Awaitable[Result]]",
    *,
    on_interrupt: str | Callable[[], str] = "Interrupted.",
) -> Result:
    """Run a coroutine with an open database, the one that the settings name.

    Args:
        settings: Read at the entry point.
        command: What to do with the open database.
        on_interrupt: Text for standard error after Ctrl-C, or what returns it then.

    Raises:
        Exit: After Ctrl-C, with status 130.
        RoutooError: What the command raised, or the database can't be used.
    """
    import asyncio

    # asyncio would replace Python's own handler by one that can't end a blocking read.
    previous = signal.signal(signal.SIGINT, _raise_interrupt)
    try:
        with usable_database(settings) as url:
            return asyncio.run(_with_database(url, command))
    except KeyboardInterrupt:
        note(f"\n{on_interrupt if isinstance(on_interrupt, str) else on_interrupt()}")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, previous)


def run_in_transaction(
    settings: "Settings", command: "Callable[[AsyncConnection], Awaitable[Result]]"
) -> Result:
    """Run a coroutine in one transaction of that database, which is committed at its end."""

    async def run(database: "Database") -> Result:
        async with database.transaction() as conn:
            return await command(conn)

    return run_with_database(settings, run)


@contextmanager
def usable_database(settings: "Settings") -> Iterator[str]:
    """Keep a usable database for as long as the block runs.

    An embedded server is started where it doesn't run, migrated, and stopped in the end unless
    workers or other commands use it. A server named by URL is left as it is. This blocks: enter
    it before an event loop runs.

    Yields:
        The database's URL.

    Raises:
        EmbeddedStackError: The embedded server can't be started.
        StoreError: The database can't be migrated.
    """
    from pathlib import Path

    from routoo.embedded.stack import embedded_stack
    from routoo.tracing import tracing

    traced = tracing(Path(sys.argv[0]).name, is_wanted=settings.traces)
    with traced, embedded_stack(settings, broker=False) as (url, _):
        if settings.embedded_database:
            from routoo.store.administration import upgrade

            upgrade(url)
        yield url


async def _with_database(url: str, command: "Callable[[Database], Awaitable[Result]]") -> Result:
    from routoo.store.database import Database, check_reachable

    await check_reachable(url)
    async with Database(url, max_size=_CONNECTIONS) as database:
        return await command(database)


def _raise_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
