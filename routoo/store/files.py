"""Uploaded files: written and read in parts, so that none is ever whole in memory."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

from psycopg import AsyncConnection

from routoo.store import columns
from routoo.store.database import Database

PART_BYTES = 2**20
"""Bytes of a part; only the last one is smaller."""
BAD_ROWS_PURPOSE = "bad_rows"
"""Of files that hold the rows which were left out of a batch; they are not listed."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that was uploaded to its end."""

    id: UUID
    key_id: UUID | None
    """Key that it belongs to; None stands for the operator."""
    filename: str
    purpose: str
    size_bytes: int
    sha256: str
    created_at: datetime


@dataclass(slots=True)
class FileWriter:
    """Writes a file part by part; it is there once `finish` has returned.

    Attributes:
        database: Where it goes.
        key_id: Key that it belongs to.
        id: Its key.
        size_bytes: Bytes written so far.
    """

    database: Database
    key_id: UUID | None
    id: UUID = field(default_factory=uuid4)
    size_bytes: int = 0
    _pending: bytearray = field(default_factory=bytearray)
    _parts: int = 0
    _hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    async def begin(self, filename: str, purpose: str) -> None:
        """Write the file's row, without a size as long as it is not whole."""
        values = {
            "id": self.id,
            "key_id": self.key_id,
            "filename": filename,
            "purpose": purpose,
        }
        async with self.database.transaction() as conn:
            await conn.execute(columns.insert("files", values), values)

    async def write(self, data: bytes) -> None:
        """Add some bytes."""
        self._hash.update(data)
        self.size_bytes += len(data)
        self._pending += data
        while len(self._pending) >= PART_BYTES:
            part = bytes(self._pending[:PART_BYTES])
            del self._pending[:PART_BYTES]
            await self._flush(part)

    async def finish(self) -> FileRecord:
        """Write the rest, and let the file appear."""
        if self._pending:
            await self._flush(bytes(self._pending))
            self._pending.clear()
        async with self.database.transaction() as conn:
            await conn.execute(
                "UPDATE files SET size_bytes = %s, sha256 = %s WHERE id = %s",
                [self.size_bytes, self._hash.hexdigest(), self.id],
            )
            return await get(conn, self.id)

    async def discard(self) -> None:
        """Remove what was written."""
        async with self.database.transaction() as conn:
            await delete(conn, self.id)

    async def _flush(self, part: bytes) -> None:
        async with self.database.transaction() as conn:
            await conn.execute(
                "INSERT INTO file_parts (file_id, part_no, content) VALUES (%s, %s, %b)",
                [self.id, self._parts, part],
            )
        self._parts += 1


async def get(conn: AsyncConnection, file_id: UUID) -> FileRecord:
    """Return a file.

    Raises:
        NotFoundError: There is none with this id, or it is still being uploaded.
    """
    found = await _select(conn, "id = %s", [file_id])
    return columns.only(found, "file", file_id)


async def list_of(
    conn: AsyncConnection, key_id: UUID | None, *, all_keys: bool
) -> list[FileRecord]:
    """Return the files of a key, or of all keys, the newest first."""
    condition = """
        purpose <> %s AND (%s OR key_id IS NOT DISTINCT FROM %s) ORDER BY created_at DESC, id
    """
    return await _select(conn, condition, [BAD_ROWS_PURPOSE, all_keys, key_id])


async def delete(conn: AsyncConnection, file_id: UUID) -> bool:
    """Delete a file; return whether there was one."""
    return bool((await conn.execute("DELETE FROM files WHERE id = %s", [file_id])).rowcount)


async def delete_unfinished(conn: AsyncConnection, older_than_s: float) -> None:
    """Delete uploads that began so long ago and never came to their end."""
    await conn.execute(
        """
        DELETE FROM files WHERE size_bytes IS NULL
          AND created_at < clock_timestamp() - make_interval(secs => %s)
        """,
        [older_than_s],
    )


async def parts(database: Database, file_id: UUID) -> AsyncIterator[bytes]:
    """Yield a file's bytes, a part at a time; no connection is held in between."""
    part_no = 0
    while True:
        async with database.transaction() as conn:
            cursor = await conn.execute(
                "SELECT content FROM file_parts WHERE file_id = %s AND part_no = %s",
                [file_id, part_no],
                binary=True,
            )
            row = await cursor.fetchone()
        if row is None:
            return
        yield row[0]
        part_no += 1


async def _select(conn: AsyncConnection, condition: str, values: list[object]) -> list[FileRecord]:
    source = f"files WHERE size_bytes IS NOT NULL AND {condition}"
    return await columns.select(conn, FileRecord, source, values)
