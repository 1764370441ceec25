"""What people see: every byte of a long write, every character of a table, names as they are."""

import io
import sys

from rich.console import Console
from rich.table import Column, Table

_WIDTH_OF_A_PIPE = 200


def console() -> Console:
    """Return a console on standard output, for results.

    In a pipe it is wide, so that no cell is cut. Text is printed as it is: a name or an answer may
    hold what rich would take for markup ("[b]") or for an emoji (":key:").
    """
    return _console(is_terminal=sys.stdout.isatty(), stderr=False)


def messages() -> Console:
    """Return the same on standard error, for progress, remarks and errors."""
    return _console(is_terminal=sys.stderr.isatty(), stderr=True)


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


def _console(*, is_terminal: bool, stderr: bool) -> Console:
    width = None if is_terminal else _WIDTH_OF_A_PIPE
    return Console(stderr=stderr, width=width, markup=False, emoji=False)
