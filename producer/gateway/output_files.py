"""The output and error files of batches: made of the results whenever they are read, never kept."""

from collections.abc import AsyncIterator, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from producer.gateway.errors import ApiError
from producer.gateway.ids import FileId, FileKind, batch_id_text
from producer.results.export import output_line
from routoo.domain.caller import Caller
from routoo.domain.job import ResultStatus
from routoo.store import api_batches, files, results
from routoo.store.api_batches import ApiBatchRecord, SubmittedBatch
from routoo.store.database import Database

OUTPUT_PURPOSE = "batch_output"
_BLOCK_BYTES = 1 << 17
_MOST_LISTED_BATCHES = 10_000

Sizes = MutableMapping[tuple[str, datetime], int]
"""Sizes that were counted, by file and the time its batch ended: a retry changes both."""


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file of a batch's results."""

    id: FileId
    batch: ApiBatchRecord
    created_at: datetime

    @property
    def filename(self) -> str:
        """Its name, as OpenAI calls such files."""
        return f"{batch_id_text(self.batch.id)}_{self.id.kind}.jsonl"


def result_file_ids(
    batch: ApiBatchRecord, submitted: SubmittedBatch | None
) -> dict[FileKind, FileId]:
    """Return which files a batch has: none before it is over, and none that would be empty."""
    if submitted is None or not submitted.status.has_ended:
        return {}
    lines = {
        FileKind.OUTPUT: submitted.succeeded,
        FileKind.ERRORS: submitted.unanswered + batch.bad_rows,
    }
    return {kind: FileId(kind, batch.id) for kind, count in lines.items() if count}


async def find_result_file(database: Database, caller: Caller, file_id: FileId) -> ResultFile:
    """Return a file of a batch.

    Raises:
        NotFoundError: There is no such batch.
        ApiError: It is another key's, was deleted, or has no such file.
    """
    async with database.transaction() as conn:
        batch = await api_batches.get(conn, file_id.id)
        submitted = (await api_batches.submitted_batches(conn, [batch.id])).get(batch.id)
    found = _files(batch, submitted)
    if (caller.is_admin or batch.key_id == caller.key_id) and file_id.kind in found:
        return found[file_id.kind]
    raise ApiError(404, f"No such file: {str(file_id)!r}.")


async def list_result_files(database: Database, caller: Caller) -> list[ResultFile]:
    """Return the files of all batches that a caller sees."""
    async with database.transaction() as conn:
        batches = await api_batches.page(
            conn,
            caller.key_id,
            all_keys=caller.is_admin,
            after=None,
            limit=_MOST_LISTED_BATCHES,
        )
        found = await api_batches.submitted_batches(conn, [batch.id for batch in batches])
    return [one for batch in batches for one in _files(batch, found.get(batch.id)).values()]


def _files(batch: ApiBatchRecord, submitted: SubmittedBatch | None) -> dict[FileKind, ResultFile]:
    if submitted is None:
        return {}
    at = submitted.completed_at or submitted.submitted_at
    ids = result_file_ids(batch, submitted)
    return {
        kind: ResultFile(file_id, batch, at)
        for kind, file_id in ids.items()
        if str(kind) not in batch.deleted_files
    }


async def result_lines(database: Database, result_file: ResultFile) -> AsyncIterator[bytes]:
    """Yield a file's lines, some at a time, in input order; bad rows stand first."""
    wants_answers = result_file.id.kind is FileKind.OUTPUT
    batch = result_file.batch
    block = bytearray()
    if not wants_answers and batch.bad_rows_file_id is not None:
        async for part in files.parts(database, batch.bad_rows_file_id):
            yield part
    async with database.transaction() as conn:
        async for record in results.iterate(conn, batch.id):
            if (record.status is ResultStatus.SUCCEEDED) is wants_answers:
                block += output_line(batch.id, record)
            if len(block) >= _BLOCK_BYTES:
                yield bytes(block)
                block.clear()
    if block:
        yield bytes(block)


def known_size(result_file: ResultFile, sizes: Sizes) -> int:
    """Return a file's size in bytes, 0 where it was not counted yet."""
    return sizes.get((str(result_file.id), result_file.created_at), 0)


async def size_of(database: Database, result_file: ResultFile, sizes: Sizes) -> int:
    """Return a file's size in bytes, counted once."""
    key = (str(result_file.id), result_file.created_at)
    if key not in sizes:
        size = 0
        async for block in result_lines(database, result_file):
            size += len(block)
        sizes[key] = size
    return sizes[key]


def bad_row_line(batch_id: str, line: bytes) -> bytes:
    """Return the line of an error file for a row that was left out.

    Args:
        batch_id: The batch, as the API shows it.
        line: Of the file of bad rows that a submission writes.
    """
    bad: dict[str, Any] = orjson.loads(line)
    first = bad["problems"][0]
    message = " ".join(problem["message"] for problem in bad["problems"])
    error = {
        "id": f"batch_req_{batch_id.removeprefix('batch_')}_line_{bad['line']}",
        "custom_id": _custom_id(bad["raw"]),
        "response": None,
        "error": {"code": first["kind"], "message": message, "line": bad["line"]},
    }
    return orjson.dumps(error, option=orjson.OPT_APPEND_NEWLINE)


def _custom_id(raw: object) -> str | None:
    if isinstance(raw, str):
        try:
            raw = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return None
    value = raw.get("custom_id") if isinstance(raw, dict) else None
    return value if isinstance(value, str) else None
