"""Reads the metadata and rows of batches that were asked for, and submits them.

The submitter works beside the answers to requests, in a thread with an event loop and connections
of its own: reading rows takes the processor. What a dead gateway left is taken over by the next.
"""

import asyncio
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import structlog

from producer.aims import read_budget, read_limits, read_objective, read_option
from producer.gateway.errors import ApiError
from producer.gateway.ids import batch_id_text
from producer.gateway.options import GatewayOptions
from producer.gateway.output_files import bad_row_line
from producer.pool_check import check_pool
from producer.queue import check_broker, publish_or_note
from producer.rows.bad_rows import BadInputError
from producer.rows.limits import read_deadline, read_number
from producer.rows.source import Format, Source
from producer.submit import BatchRequest, Submission, submit
from routoo.domain.batch_options import CallOptions, OnUnavailable
from routoo.domain.job import ApiBatchState, Stage
from routoo.errors import InputError, RoutooError
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
MOST_PAIRS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
"""OpenAI's limits of metadata."""
_TRUE = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class AskedBatch:
    """What a batch is asked to be."""

    request: BatchRequest
    expires_at: datetime
    """No call starts after this."""


def label(field: str) -> str:
    """Return what messages call a field of the metadata."""
    return f"metadata.{field}"


def check_metadata(value: object) -> dict[str, str]:
    """Return metadata, within OpenAI's limits.

    Raises:
        ApiError: It is no object of texts, or too large.
    """
    metadata = {} if value is None else value
    if not isinstance(metadata, dict) or len(metadata) > MOST_PAIRS:
        raise ApiError(400, f"Give an object of at most {MOST_PAIRS} texts.", param="metadata")
    for key, text in metadata.items():
        if not isinstance(text, str) or len(key) > LONGEST_KEY or len(text) > LONGEST_VALUE:
            message = (
                f"Keys have at most {LONGEST_KEY} and values, which are texts, at most "
                f"{LONGEST_VALUE} characters; {key[:LONGEST_KEY]!r} has another value."
            )
            raise ApiError(400, message, param="metadata")
        if "\0" in key + text:
            raise ApiError(400, "Metadata holds the NUL character.", param="metadata")
    return metadata


def read_batch(
    options: GatewayOptions,
    metadata: Mapping[str, str],
    window: str,
    asked_at: datetime,
    name: str,
) -> AskedBatch:
    """Return the batch that metadata asks for.

    Args:
        options: Hold the pools.
        metadata: As `check_metadata` returns it.
        window: How long it may take, as 24h.
        asked_at: When it was asked for: what times are counted from.
        name: What the batch is called where the metadata names none.

    Raises:
        ApiError: A field has no usable value; names the field.
    """
    try:
        return _read(options, metadata, window, asked_at, name)
    except RoutooError as error:
        where = error.where or ""
        raise ApiError(400, str(error), param=where or "metadata") from error


def _read(
    options: GatewayOptions, metadata: Mapping[str, str], window: str, asked_at: datetime, name: str
) -> AskedBatch:
    ends_at = read_option("completion_window", lambda text: read_deadline(text, asked_at), window)
    pool = options.pool(metadata.get("pool"), where=label("pool")).with_batch_channels()
    limits = read_limits(metadata, pool.names, asked_at, label)
    expires_at = min(filter(None, (ends_at, limits.deadline)), default=asked_at + timedelta(days=1))
    return AskedBatch(
        BatchRequest(
            pool=pool,
            name=metadata.get("name") or name,
            budget_usd=read_budget(metadata, label),
            objective=read_objective(metadata, pool.names, label),
            call_options=_call_options(metadata),
            sla=replace(limits, deadline=expires_at),
            plan_only=_flag(metadata, "plan_only"),
            ignore_model=_flag(metadata, "ignore_model"),
            skip_invalid=_flag(metadata, "skip_invalid"),
        ),
        expires_at,
    )


def _call_options(metadata: Mapping[str, str]) -> CallOptions:
    on_unavailable = metadata.get("on_unavailable", OnUnavailable.WAIT)
    if on_unavailable not in list(OnUnavailable):
        known = " or ".join(OnUnavailable)
        raise InputError(
            "it is not known",
            value=on_unavailable,
            where=label("on_unavailable"),
            remedy=f"Give {known}",
        )
    most = _number(metadata, "max_completion_tokens", 1.0)
    return CallOptions(
        dedupe=_flag(metadata, "dedupe") if "dedupe" in metadata else None,
        on_unavailable=OnUnavailable(on_unavailable),
        patience_s=_number(metadata, "patience_s", 0.0),
        max_completion_tokens=None if most is None else int(most),
        cascade=_flag(metadata, "cascade", default=True),
    )


def _number(metadata: Mapping[str, str], name: str, least: float) -> float | None:
    def read(text: object) -> float:
        return read_number(name, text, least=least)

    return read_option(label(name), read, metadata.get(name))


def _flag(metadata: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    text = metadata.get(name)
    if text is None:
        return default
    if text.lower() not in _TRUE:
        raise InputError("it is no flag", value=text, where=label(name), remedy="Give true, false")
    return _TRUE[text.lower()]


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
