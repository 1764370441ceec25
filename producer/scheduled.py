"""Submits the batches of a schedule: of files, where the beat runs, or of a query.

Queries are read-only, and are read piece by piece. Neither a query nor what the server says about
it gets into a message: both may quote data.
"""

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from producer.aims import read_limits
from producer.rows.bad_rows import BadInputError
from producer.rows.formats import PLAIN_FIELDS, RawRow, WantedColumns, id_text, in_chunks
from producer.rows.source import Format, Source
from producer.rows.templates import RowTemplate, row_template
from producer.submit import BatchRequest, NoRowsError, submit_in
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.pool import Pool
from routoo.domain.validators import Validators
from routoo.domain.webhook import webhooks_of
from routoo.errors import (
    ConfigError,
    DatabaseUnavailableError,
    InputError,
    NotFoundError,
    RoutooError,
)
from routoo.evaluation_runs.scheduler import Begun
from routoo.files import files_sha256
from routoo.store import schedules
from routoo.store.budget import set_budget
from routoo.store.database import libpq_url
from routoo.store.encoding import storable
from routoo.store.schedules import ScheduledBatch, ScheduleRecord

_BAD_ROWS = ".errors.jsonl"
"""Ends the names of files of bad rows, which no pattern finds."""
_PROBLEMS_SHOWN = 3
_SHARE_UNIT_USD = Decimal("0.000000001")
"""Shares of a budget are rounded down to this, so that their sum doesn't exceed it."""
_LONGEST_DETAIL = 2_000
_ROWS_AT_ONCE = 2_000
_CONNECT_S = 10
_STATEMENT_MS = 600_000
"""Longest wait for the server's next rows, in milliseconds."""
_IDS = frozenset({"custom_id", "item_id"})
_REQUESTS = frozenset({"body", "params"})
"""Columns that hold whole requests, as JSON."""


@dataclass(frozen=True, slots=True)
class SqlSource:
    """The rows that a query returns; implements `producer.rows.source.RowSource`."""

    query: str = field(repr=False)
    url: str = field(repr=False)
    template: RowTemplate | None = None
    """What prompts are made of; the column `prompt` where unset."""
    name: str = "query"
    stem: str = "query"

    @contextmanager
    def rows(self) -> Iterator[tuple[Iterator[list[RawRow]], Callable[[], int]]]:
        """Open the query; yields its rows in chunks, and a function that counts no bytes.

        Raises:
            InputError: The database can't be reached, or the query fails or lacks a column.
        """
        with self._mapped():
            options = f"-c default_transaction_read_only=on -c statement_timeout={_STATEMENT_MS}"
            with psycopg.connect(
                libpq_url(self.url), connect_timeout=_CONNECT_S, options=options
            ) as conn:
                conn.read_only = True
                with conn.cursor("routoo_rows", row_factory=dict_row) as cursor:
                    cursor.itersize = _ROWS_AT_ONCE
                    cursor.execute(self.query.encode())
                    self._check([column.name for column in cursor.description or ()])
                    yield in_chunks(self._raw_rows(cursor)), lambda: 0

    def _check(self, names: list[str]) -> None:
        needed = frozenset() if _REQUESTS & set(names) else frozenset({"prompt"})
        if self.template is not None:
            needed = self.template.needed
        WantedColumns(needed, PLAIN_FIELDS | needed).check(names, self.name)

    def _raw_rows(self, cursor: "psycopg.ServerCursor[dict[str, Any]]") -> Iterator[RawRow]:
        with self._mapped():
            for number, values in enumerate(cursor, 1):
                given = {name: _plain(name, value) for name, value in values.items()}
                fields = {name: value for name, value in given.items() if value is not None}
                row = RawRow(number, fields, fields)
                yield row if self.template is None else self.template.apply(row)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Say in our own words what the database refuses."""
        try:
            yield
        except psycopg.Error as error:
            code = f" ({error.sqlstate})" if error.sqlstate else ""
            raise InputError(
                f"the rows can't be had: {type(error).__name__}{code}",
                where=self.name,
                remedy="Try the query with psql, as the user that the URL names",
            ) from None


def _plain(name: str, value: object) -> object:
    """Return a value as a row has it; ids of any type are texts, instants ISO texts."""
    if value is None:
        return None
    if name in _IDS:
        return id_text(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value) if isinstance(value, UUID) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchWork:
    """What a schedule submits, beside its pool, its budget, its aim and its call options."""

    files: str | None = None
    """Absolute path of a file or of a dataset's folder, or a pattern of paths."""
    query: str | None = None
    """SQL that returns rows."""
    url_env: str | None = None
    """Environment variable of the beat that holds the URL of the query's database."""
    only_new: bool = False
    """Submit a file once, unless its content changes."""
    max_files: int | None = None
    """Most files that one due time submits."""
    row_format: str | None = None
    template: str | None = None
    system_template: str | None = None
    id_column: str | None = None
    subset: str | None = None
    split: str | None = None
    limits: Mapping[str, str | None] = field(default_factory=dict)
    """Limits of every job, as they were typed: a deadline of 2h is counted from each submission."""
    validators: dict[str, Any] | None = None
    ignore_model: bool = False
    skip_invalid: bool = False
    errors: str | None = None
    """Absolute path of the file of bad rows."""
    on_success: Sequence[str] | None = None
    on_failure: Sequence[str] | None = None
    """Who is told how a batch ended."""

    def as_json(self) -> dict[str, Any]:
        """Return it as the value of a JSON column."""
        return {name: value for name, value in asdict(self).items() if value not in (None, False)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what `as_json` wrote."""
        return cls(**value)

    def row_template(self) -> RowTemplate | None:
        """Return what prompts are made of; None where it is the column `prompt`.

        Raises:
            InputError: A template can't be read.
        """
        return row_template(self.template, self.system_template, self.id_column, str)


async def submit_scheduled(
    conn: AsyncConnection, schedule: ScheduleRecord, due_at: datetime, *, shard_size: int
) -> Begun:
    """Submit the batches of a schedule in a transaction, one of each file.

    Together they have the schedule's budget. A file that can't be submitted doesn't keep the
    others from it.

    Args:
        conn: A transaction with a lock on the schedule.
        schedule: A schedule of batches.
        due_at: When it was due.
        shard_size: Most jobs in a shard.

    Raises:
        RoutooError: Nothing can be submitted.
    """
    work = BatchWork.from_json(schedule.batch or {})
    submitter = _Submitter(conn, schedule, work, due_at, shard_size)
    if work.query is not None:
        await submitter.submit(_query(work), None)
    else:
        await submitter.submit_files(list(_paths(work)))
        await submitter.share_budget()
    return submitter.begun()


@dataclass(slots=True)
class _Submitter:
    """Submits the sources of one due time, and notes what came of them."""

    conn: AsyncConnection
    schedule: ScheduleRecord
    work: BatchWork
    due_at: datetime
    shard_size: int
    batches: list[ScheduledBatch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    def begun(self) -> Begun:
        """Return what came of them."""
        outcome = "submitted" if self.batches else "failed" if self.failed else "skipped"
        detail = "; ".join(self.notes)
        if len(detail) > _LONGEST_DETAIL:
            detail = f"{detail[:_LONGEST_DETAIL]} [...]"
        return Begun(None, tuple(self.batches), outcome, detail or None)

    async def submit_files(self, paths: Sequence[Path]) -> None:
        """Submit files, each as a batch of its own."""
        if not paths:
            self.notes.append(f"no file fits {self.work.files}")
        most = self.work.max_files
        for path in paths:
            if most is not None and len(self.batches) >= most:
                self.notes.append(f"from {path.name} on: left for later (--max-files {most})")
                return
            await self._submit_file(path)

    async def share_budget(self) -> None:
        """Divide the budget among the batches by their jobs, before anybody sees them."""
        budget_usd = self.schedule.budget_usd
        if budget_usd is None:
            return
        jobs = sum(batch.job_count for batch in self.batches)
        for batch in self.batches:
            share_usd = (budget_usd * batch.job_count / jobs).quantize(_SHARE_UNIT_USD, ROUND_DOWN)
            await set_budget(self.conn, batch.batch_id, share_usd)

    async def _submit_file(self, path: Path) -> None:
        work, schedule = self.work, self.schedule
        try:
            _check_name(path)
            source = Source.of(
                str(path), None if work.row_format is None else Format(work.row_format)
            )
            source = source.reading(work.row_template(), subset=work.subset, split=work.split)
            before = _states(source.files) if work.only_new else None
            sha256 = files_sha256(source.files) if work.only_new else None
        except (RoutooError, OSError) as error:
            self._fail(error)
            return
        if sha256 is not None and await schedules.is_submitted(
            self.conn, schedule.id, str(path), sha256
        ):
            self.notes.append(f"{path.name}: submitted before")
            return
        await self.submit(source, sha256, before)

    async def submit(
        self,
        source: Source | SqlSource,
        sha256: str | None,
        before: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        """Submit one source, or note why not.

        Args:
            source: A file, a folder or a query.
            sha256: Hash of the files, where they are submitted once.
            before: Their states before they were hashed.
        """
        try:
            request = self._request(source.stem if isinstance(source, Source) else None)
            async with self.conn.transaction():  # a savepoint: others are not lost with it
                done = await submit_in(self.conn, source, request, shard_size=self.shard_size)
                if before is not None and isinstance(source, Source):
                    _check_unchanged(source, before)
        except DatabaseUnavailableError:
            raise
        except NoRowsError:
            self.notes.append(f"{source.name}: it has no rows")
            return
        except (RoutooError, OSError) as error:
            self._fail(error)
            return
        facts = self.schedule.id, self.due_at, source.name, done.job_count, sha256
        self.batches.append(ScheduledBatch(done.batch_id, *facts))
        if done.problems.bad_rows:
            where = f", written to {done.error_file}" if done.error_file else ""
            count = f"{done.problems.bad_rows:,} bad rows left out"
            self.notes.append(f"{source.name}: {count}{where}")

    def _fail(self, error: RoutooError | OSError) -> None:
        self.failed = True
        problems = error.problems.listed if isinstance(error, BadInputError) else []
        self.notes.append(" ".join([str(error), *problems[:_PROBLEMS_SHOWN]]))

    def _request(self, stem: str | None) -> BatchRequest:
        schedule, work = self.schedule, self.work
        pool = Pool.model_validate(schedule.pool)
        rules = None if work.validators is None else Validators.from_json(work.validators)
        name = f"{schedule.name} {self.due_at:%Y-%m-%d %H:%M}"
        return BatchRequest(
            pool=pool,
            name=name if stem is None else f"{name} {stem}",
            budget_usd=schedule.budget_usd,
            objective=Objective.from_json(schedule.objective),
            call_options=CallOptions.from_json(schedule.call_options),
            sla=read_limits(work.limits, pool.names, datetime.now(UTC), str, rules),
            ignore_model=work.ignore_model,
            skip_invalid=work.skip_invalid,
            error_file=None if work.errors is None else Path(work.errors),
            webhooks=webhooks_of(work.on_success, work.on_failure),
        )


def _query(work: BatchWork) -> SqlSource:
    name = work.url_env or ""
    url = os.environ.get(name, "").strip()
    if not url:
        raise ConfigError(
            f"the environment variable {name} is not set where the beat runs",
            where="--sql-url-env",
            remedy="Set it to the URL of the query's database, and start the beat again",
        )
    return SqlSource(work.query or "", url, work.row_template())


def _paths(work: BatchWork) -> Iterator[Path]:
    """Yield the files that a path or a pattern names, in the order of their names."""
    named = work.files or ""
    if not glob.has_magic(named) or Path(named).exists():
        if not Path(named).exists():
            remedy = "Files are read where the beat runs: write it there before it is due"
            raise NotFoundError("no such file", where=named, remedy=remedy)
        yield Path(named)
        return
    anchor = Path(named).anchor
    for path in sorted(Path(anchor).glob(named.removeprefix(anchor))):
        if not path.name.endswith(_BAD_ROWS):
            yield path


def _check_name(path: Path) -> None:
    if (name := storable(str(path))) != str(path):
        what, remedy = "the file's name is not UTF-8, so it can't be kept", "Rename it"
        raise InputError(what, where=name, remedy=remedy)


def _states(paths: Sequence[Path]) -> tuple[tuple[int, ...], ...]:
    """Return what changes with files' contents."""
    found = (path.stat() for path in paths)
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


def _check_unchanged(source: Source, before: Sequence[tuple[int, ...]]) -> None:
    """Refuse files that changed since they were hashed: their rows would be paid for twice."""
    if _states(source.files) != before:
        remedy = "Write files under another name, and rename them once they are whole"
        raise InputError("the file changed while it was read", where=source.name, remedy=remedy)
