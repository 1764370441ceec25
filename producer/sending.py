"""Sends an order from a command line: progress, problems, and a message to the workers."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from producer.notice import note, print_problems
from producer.rows.report import BadInputError
from producer.rows.source import Source
from producer.running import run
from producer.session import wake_workers
from producer.submit import BatchRequest, ReadProgress, Submission, submit
from routoo.domain.job import Stage
from routoo.settings import Settings
from routoo.store.database import Database

_ON_INTERRUPT = (
    "Interrupted. A batch is committed whole or not at all: "
    "`routoo-producer list` shows it if it was."
)


def send_request(settings: Settings, source: Source, request: BatchRequest) -> Submission:
    """Submit a batch and say on standard error what became of it.

    Raises:
        BadInputError: Rows have problems and are not to be skipped; they are listed by then.
        RoutooError: As `producer.submit.submit` raises.
    """
    submission = _submit(settings, source, request)
    _tell(submission, "planning" if request.plan_only else "submitted")
    return submission


def wake_for(settings: Settings, submission: Submission) -> None:
    """Tell the workers of a new batch: last, since a broker that is away takes its time."""
    if submission.created:
        shard_count = -(-submission.job_count // settings.shard_size)
        wake_workers(settings, Stage.SCORE, submission.batch_id, shard_count)


def _submit(settings: Settings, source: Source, request: BatchRequest) -> Submission:
    async def submit_rows(database: Database) -> Submission:
        with _progress(source) as on_progress:
            return await submit(
                database, source, request, shard_size=settings.shard_size, on_progress=on_progress
            )

    try:
        return run(settings, submit_rows, on_interrupt=_ON_INTERRUPT)
    except BadInputError as error:
        print_problems(error.report)
        raise


def _tell(submission: Submission, done: str) -> None:
    print_problems(submission.report)
    if submission.error_file is not None:
        count = submission.report.bad_rows
        note(f"{count:,} bad rows were left out and written to {submission.error_file}")
    if submission.ignored_fields:
        note(f"fields not used: {', '.join(map(ascii, submission.ignored_fields))}")
    if submission.created:
        note(f"{done} {submission.job_count:,} jobs")
    else:
        note("already submitted under this idempotency key: nothing was added")


@contextmanager
def _progress(source: Source) -> Iterator[Callable[[ReadProgress], None] | None]:
    """Show rows read, as they are, where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from producer.screen.reading import reading_progress  # noqa: PLC0415 - rich, for terminals only

    with reading_progress(source.size_bytes) as on_progress:
        yield on_progress
