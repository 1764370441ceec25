"""Standard output: every byte of a long write, every character of a table."""

import io
import sys

from rich.console import Console
from rich.table import Column, Table

_WIDTH_OF_A_PIPE = 200


def console() -> Console:
    """Return a console on standard output; in a pipe it is wide, so that no cell is cut."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_A_PIPE)


def report_table(*headers: str) -> Table:
    """Return a table to fill; what is too long for a cell goes on in its next line."""
    return Table(*(Column(header, overflow="fold") for header in headers))


def write_it_whole() -> None:
    """Put a buffer behind `sys.stdout` where it has none.

    Python does not look how much of a long write an unbuffered standard output took: interrupted
    on a full pipe, it takes a part, and the rest would be lost without a word. Lines still go out
    one by one.
    """
    old = sys.stdout
    if not isinstance(getattr(old, "buffer", None), io.RawIOBase):
        return
    encoding, errors = old.encoding, old.errors
    # Detached: the old wrapper, once forgotten, would close the output.
    whole = io.BufferedWriter(old.detach())  # type: ignore[union-attr]
    sys.stdout = io.TextIOWrapper(whole, encoding=encoding, errors=errors, line_buffering=True)
