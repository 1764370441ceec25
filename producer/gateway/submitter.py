"""Reads the rows of batches that were asked for, and submits them, beside the answers to requests.

It works in a thread with an event loop and connections of its own: reading rows takes the
processor, and requests are answered meanwhile. What a dead gateway left is taken over by the next.
"""

import asyncio
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import structlog

from producer.gateway.batch_metadata import read_batch
from producer.gateway.errors import ApiError
from producer.gateway.ids import batch_id_text
from producer.gateway.options import GatewayOptions
from producer.gateway.output_files import bad_row_line
from producer.pool_check import check_pool
from producer.queue import check_broker, publish_or_note
from producer.rows.bad_rows import BadInputError
from producer.rows.source import Format, Source
from producer.submit import BatchRequest, Submission, submit
from routoo.domain.job import ApiBatchState, Stage
from routoo.errors import RoutooError
from routoo.settings import Settings
from routoo.store import api_batches, files
from routoo.store.api_batches import ApiBatchRecord
from routoo.store.batches import control
from routoo.store.database import Database
from routoo.store.files import BAD_ROWS_PURPOSE, FileWriter

_POLL_S = 5.0
"""Time between two looks for batches that another gateway left."""
_CONNECTIONS = 3
_UNFINISHED_S = 86_400.0
"""Uploads that began so long ago and never ended are deleted."""
_log = structlog.get_logger(__name__)


class Submitter:
    """The thread; a context manager.

    Args:
        settings: Those of the deployment.
        database_url: Where batches go.
        options: Hold the pools.
    """

    def __init__(self, settings: Settings, database_url: str, options: GatewayOptions) -> None:
        self._settings, self._url, self._options = settings, database_url, options
        self._loop = asyncio.new_event_loop()
        self._wake, self._stop = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="submitter")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop after the batch at work: it is submitted whole or not at all."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        """Look for batches at once."""
        self._loop.call_soon_threadsafe(self._wake.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._work())
        finally:
            self._loop.close()

    async def _work(self) -> None:
        async with Database(self._url, max_size=_CONNECTIONS) as database:
            while not self._stop.is_set():
                self._wake.clear()
                try:
                    await self._submit_all(database)
                except RoutooError as error:
                    _log.error("gateway.submitter_failed", reason=str(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _POLL_S)

    async def _submit_all(self, database: Database) -> None:
        async with database.transaction() as conn:
            await files.delete_unfinished(conn, _UNFINISHED_S)
            waiting = await api_batches.validating(conn)
        for batch_id in waiting:
            if self._stop.is_set():
                return
            async with api_batches.reading(database, batch_id) as record:
                if record is not None:
                    await self._submit(database, record)

    async def _submit(self, database: Database, record: ApiBatchRecord) -> None:
        """Submit a batch, or note why it can't be."""
        try:
            await self._read_and_submit(database, record)
        except BadInputError as error:
            await _fail(database, record.id, _row_errors(error))
        except ApiError as error:
            await _fail(database, record.id, [_error(error.message, error.param)])
        except RoutooError as error:
            if error.retryable:
                raise
            await _fail(database, record.id, [_error(str(error), None)])
        except Exception as error:  # noqa: BLE001 - one batch must not keep the others waiting
            _log.error("gateway.batch_failed", batch=str(record.id), exc_info=error)
            await _fail(database, record.id, [_error("The gateway failed to read it.", None)])

    async def _read_and_submit(self, database: Database, record: ApiBatchRecord) -> None:
        check_broker(self._settings)
        async with database.transaction() as conn:
            file = await files.get(conn, record.input_file_id)
        with tempfile.TemporaryDirectory(prefix="routoo-") as folder:
            path = Path(folder) / "rows.jsonl"
            await _spool(database, file.id, path)
            request = self._request(record, file.filename, Path(folder) / "bad-rows.jsonl")
            await check_pool(database, request.pool, self._settings)
            source = Source(path, Format.JSONL, label=file.filename)
            submission = await submit(
                database, source, request, shard_size=self._settings.shard_size
            )
            bad_rows = await _keep_bad_rows(database, record, submission)
        await self._conclude(database, record, submission, bad_rows)

    def _request(self, record: ApiBatchRecord, filename: str, bad_rows: Path) -> BatchRequest:
        asked = read_batch(
            self._options,
            record.details,
            record.completion_window,
            record.created_at,
            Path(filename).stem or "batch",
        )
        return replace(
            asked.request,
            budget_usd=record.budget_usd,
            idempotency_key=f"gateway:{record.id}",
            batch_id=record.id,
            key_id=record.key_id,
            error_file=bad_rows if asked.request.skip_invalid else None,
        )

    async def _conclude(
        self,
        database: Database,
        record: ApiBatchRecord,
        submission: Submission,
        bad_rows: UUID | None,
    ) -> None:
        count = submission.problems.bad_rows
        async with database.transaction() as conn:
            if not await api_batches.set_submitted(conn, record.id, count, bad_rows):
                await control.cancel(conn, record.id)  # it was cancelled meanwhile
                await control.end_cancelled(conn, record.id)
                return
        shards = self._settings.shard_count(submission.job_count)
        publish_or_note(self._settings, Stage.SCORE, record.id, shards)


async def _spool(database: Database, file_id: UUID, path: Path) -> None:
    """Write a file to disk, where its reader wants it."""
    with path.open("wb") as stream:
        async for part in files.parts(database, file_id):
            stream.write(part)


async def _keep_bad_rows(
    database: Database, record: ApiBatchRecord, submission: Submission
) -> UUID | None:
    """Keep the rows that were left out, for the batch's error file."""
    if submission.error_file is None:
        return None
    writer = FileWriter(database, record.key_id)
    await writer.begin(submission.error_file.name, BAD_ROWS_PURPOSE)
    with submission.error_file.open("rb") as lines:
        for line in lines:
            await writer.write(bad_row_line(batch_id_text(record.id), line))
    await writer.finish()
    return writer.id


async def _fail(database: Database, batch_id: UUID, errors: list[dict[str, Any]]) -> None:
    async with database.transaction() as conn:
        await api_batches.end(conn, batch_id, ApiBatchState.FAILED, errors)


def _row_errors(error: BadInputError) -> list[dict[str, Any]]:
    """Return the first problems of rows, each with its line, as OpenAI lists them."""
    listed: list[dict[str, Any]] = [
        {"code": str(problem.kind), "message": str(problem), "line": line, "param": None}
        for line, problem in error.problems.first
    ]
    total = error.problems.counts.total()
    if total > len(listed):
        more = f"{total - len(listed):,} more problems are not listed."
        listed.append(_error(more, None))
    return listed


def _error(message: str, param: str | None) -> dict[str, Any]:
    return {"code": "invalid_request", "message": message, "line": None, "param": param}
