"""Shows on standard error how long work goes: remarks, and bars that count what is done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from routoo.console.output import messages, note


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
