"""The console that tables are printed to."""

import sys

from rich.console import Console

_WIDTH_OF_A_PIPE = 200


def console() -> Console:
    """Return a console on standard output; in a pipe it is wide, so that no cell is cut."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_A_PIPE)
