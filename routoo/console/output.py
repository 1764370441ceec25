"""Writes to standard output and standard error: text, JSON and tables, whole and as given.

Tables of figures leave out columns, by rank, where the screen is narrow, and name them. rich is
imported when a table or a console is wanted: help pages and JSON do without.
"""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

_WIDTH_OF_A_PIPE = 200
_GAP = 2
"""Blanks between two columns."""


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
    if sys.__stdout__ is old:  # Celery's handler of SIGTERM writes there before it tells anybody
        sys.__stdout__ = sys.stdout  # type: ignore[misc]


def _console(*, is_terminal: bool, stderr: bool) -> "Console":
    from rich.console import Console

    width = None if is_terminal else _WIDTH_OF_A_PIPE
    return Console(stderr=stderr, width=width, markup=False, emoji=False)


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    """A column, and what may happen to it where the screen is narrow."""

    title: str
    rank: int = 0
    """Columns of the highest rank are left out first; those of rank 0 stay."""
    least: int | None = None
    """Narrowest width in characters; None where no cell may be cut."""
    first: bool = False
    """Whether free width goes to this column before the others."""
    right: bool = False
    """Numbers stand at the right edge."""
    fold: bool = False
    """Text that is too long goes on in the next line; else it is cut, with an ellipsis."""


class FittedTable:
    """Rows under columns, in the width that the screen has.

    Columns are first narrowed to their least width, then left out by rank until the others fit; a
    line below the table names what was left out.

    Args:
        columns: From left to right.
    """

    def __init__(self, *columns: TableColumn) -> None:
        self._columns = columns
        self._rows: list[tuple[Sequence[str], str | None]] = []

    def add_row(self, *cells: str, style: str | None = None) -> None:
        """Add a row with a cell a column."""
        self._rows.append((cells, style))

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Yield the table and the note that rich prints."""
        from rich.table import Table
        from rich.text import Text

        widths = self.widths(options.max_width)
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
        for number, width in widths.items():
            column = self._columns[number]
            table.add_column(
                column.title,
                width=width,
                justify="right" if column.right else "left",
                overflow="fold" if column.fold else "ellipsis",
                no_wrap=not column.fold,
            )
        for cells, style in self._rows:
            table.add_row(*(cells[number] for number in widths), style=style)
        yield table
        left_out = [one.title for no, one in enumerate(self._columns) if no not in widths]
        if left_out:
            names = ", ".join(left_out)
            yield Text(f"for a wider screen or --json: {names}", style="dim")

    def widths(self, screen: int) -> dict[int, int]:
        """Return the width of each column that is shown, by its number.

        Args:
            screen: Width of the screen in characters.
        """
        natural = dict(enumerate(self._natural()))
        least = {
            no: wide if self._columns[no].least is None else min(wide, self._columns[no].least or 0)
            for no, wide in natural.items()
        }
        for number in self._expendable():
            if _total(least) <= screen:
                break
            del least[number]
        free = max(screen - _total(least), 0)
        for number in sorted(least, key=lambda no: self._turn(no, natural[no] - least[no])):
            more = min(natural[number] - least[number], free)
            least[number] += more
            free -= more
        return least

    def _turn(self, number: int, lacking: int) -> tuple[bool, int]:
        """Return a column's turn to be widened: the first ones, then those that lack the least."""
        return not self._columns[number].first, lacking

    def _natural(self) -> Iterator[int]:
        """Yield the width at which nothing of a column is cut."""
        from rich.cells import cell_len

        for number, column in enumerate(self._columns):
            yield max([cell_len(column.title), *(cell_len(row[number]) for row, _ in self._rows)])

    def _expendable(self) -> list[int]:
        """Return the columns that may be left out: those that say nothing first, then by rank."""
        numbers = [no for no, column in enumerate(self._columns) if column.rank]
        return sorted(numbers, key=lambda no: (self._says_something(no), -self._columns[no].rank))

    def _says_something(self, number: int) -> bool:
        return any(row[number] not in {"", "-"} for row, _ in self._rows)


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + _GAP * max(len(widths) - 1, 0)
