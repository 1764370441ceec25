"""Writes to standard output and standard error: text, JSON and tables, whole and as given.

rich is imported when a table or a console is wanted: help pages and JSON do without.
"""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class ConsoleFeedback:
    """Implements `routoo.ports.Feedback` for a terminal, or a file that standard error goes to."""

    def note(self, text: str) -> None:
        """Write a remark, a line of its own."""
        note(text)

    @contextmanager
    def progress_bar(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar while the block runs; the block reports how many more items are done."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=messages()) as bar:
            task = bar.add_task(title, total=total)

            def advance(count: int) -> None:
                bar.advance(task, count)

            yield advance


_WIDTH_OF_A_PIPE = 200


def console() -> "Console":
    """Return a rich console on standard output, for results.

    In a pipe it is wide, so that no cell is cut. Text is printed as it is: a name or an answer may
    hold what rich would take for markup ("[b]") or for an emoji (":key:").
    """
    return _console(is_terminal=sys.stdout.isatty(), stderr=False)


def messages() -> "Console":
    """Return a rich console like `console()` on standard error, for progress and remarks."""
    return _console(is_terminal=sys.stderr.isatty(), stderr=True)


def report_table(*headers: str) -> "Table":
    """Return a rich table to fill; text too long for its cell continues on the next line."""
    from rich.table import Column, Table

    return Table(*(Column(header, overflow="fold") for header in headers))


def note(text: str) -> None:
    """Write a line to standard error: a remark or an error, no part of the command's output."""
    # Paths and names may hold bytes that the terminal's encoding has no character for.
    encoding = sys.stderr.encoding or "utf-8"
    printable = text.encode(encoding, errors="backslashreplace").decode(encoding)
    sys.stderr.write(f"{printable}\n")


def json_line(value: Any) -> str:
    """Return a value as one line of JSON; amounts become numbers, times ISO text."""
    import orjson

    return orjson.dumps(value, default=_plain).decode()


def buffer_standard_output() -> None:
    """Put a buffer behind `sys.stdout` where it has none.

    Python ignores how much of a long write an unbuffered standard output took: when a signal
    interrupts a write to a full pipe, the rest is lost silently. Lines still go out one by one.
    """
    old = sys.stdout
    if not isinstance(getattr(old, "buffer", None), io.RawIOBase):
        return
    encoding, errors = old.encoding, old.errors
    # Detached: the old wrapper would close the output when it is garbage-collected.
    whole = io.BufferedWriter(old.detach())  # type: ignore[union-attr]
    sys.stdout = io.TextIOWrapper(whole, encoding=encoding, errors=errors, line_buffering=True)


def _console(*, is_terminal: bool, stderr: bool) -> "Console":
    from rich.console import Console

    width = None if is_terminal else _WIDTH_OF_A_PIPE
    return Console(stderr=stderr, width=width, markup=False, emoji=False)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    return str(value)
