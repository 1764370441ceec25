"""The progress of a plan on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from producer.progress import Snapshot
from routoo.console.output import messages


@contextmanager
def scoring_progress() -> Iterator[Callable[[Snapshot], None]]:
    """Show a bar of scored jobs on standard error; yields where to report snapshots."""
    progress = Progress(
        TextColumn("planning"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} jobs scored"),
        TimeElapsedColumn(),
        console=messages(),
        transient=True,
    )
    task = progress.add_task("plan", total=None)

    def show(snapshot: Snapshot) -> None:
        now = snapshot.progress
        progress.update(task, total=now.jobs, completed=now.scored)

    with progress:
        yield show
