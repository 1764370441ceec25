"""Prints tables that leave out columns, by rank, where the screen is narrow, and name them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_GAP = 2
"""Blanks between two columns."""


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
