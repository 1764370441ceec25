"""The progress of a submission on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from producer.submit import ReadProgress
from routoo.console.output import messages

_PER_S = 5


@contextmanager
def reading_progress(size_bytes: int | None) -> Iterator[Callable[[ReadProgress], None]]:
    """Show a bar on standard error; yields where to report the read.

    Args:
        size_bytes: Size of the input, None where it is not known: then the bar only pulses.
    """
    progress = Progress(
        TextColumn("submitting"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        console=messages(),
        transient=True,
        refresh_per_second=_PER_S,
    )
    task = progress.add_task("submit", total=size_bytes, rows=0)

    def show(read: ReadProgress) -> None:
        progress.update(task, completed=read.bytes_read, rows=read.rows)

    with progress:
        yield show
