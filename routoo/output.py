"""Standard output that takes every byte, whatever PYTHONUNBUFFERED says."""

import io
import sys


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
