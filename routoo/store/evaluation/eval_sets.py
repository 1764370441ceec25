"""Evaluation sets: versions of items with references, unchanging once written."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid4

import orjson
from psycopg import AsyncConnection

from routoo.domain.items import Item
from routoo.domain.prompt import text_sha256
from routoo.errors import InputError
from routoo.store import columns

_ITEM_COLUMNS = columns.names(Item)


class Purpose(StrEnum):
    """What a set's graded answers may be used for."""

    EVALUATION = "evaluation"
    """Measuring only: its items never enter training."""
    TRAINING = "training"
    """Collecting outcomes that predictors learn from."""


@dataclass(frozen=True, slots=True)
class EvalSetRecord:
    """One version of an evaluation set."""

    id: UUID
    name: str
    content_sha256: str
    purpose: Purpose
    item_count: int
    created_at: datetime

    def __post_init__(self) -> None:
        """Parse what the database keeps as text."""
        object.__setattr__(self, "purpose", Purpose(self.purpose))


def content_sha256(items: Sequence[Item]) -> str:
    """Return the hash that names a version: over every field of every item, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(orjson.dumps(asdict(item)) + b"\n")
    return digest.hexdigest()


_ADD = b"""
    INSERT INTO eval_sets (id, name, content_sha256, purpose, item_count)
    VALUES (%s, %s, %s, %s, %s) ON CONFLICT (name, content_sha256) DO NOTHING RETURNING id
"""


async def add(
    conn: AsyncConnection, name: str, items: Sequence[Item], purpose: Purpose
) -> tuple[EvalSetRecord, bool]:
    """Write a version of a set, or find it where the same content is there under this name.

    Args:
        conn: A transaction.
        name: What the set is called.
        items: At least one, or an `InputError`.
        purpose: What its answers may be used for; a known version keeps its own.

    Returns:
        The version, and whether it is new.
    """
    if not items:
        raise InputError("an evaluation set needs at least one item")
    key = (name, content_sha256(items))
    cursor = await conn.execute(_ADD, [uuid4(), *key, purpose, len(items)])
    row = await cursor.fetchone()
    if row is not None:
        await _copy(conn, row[0], items)
    found = await _select(conn, "WHERE name = %s AND content_sha256 = %s", list(key))
    return found[0], row is not None


async def _copy(conn: AsyncConnection, eval_set_id: UUID, items: Sequence[Item]) -> None:
    copied = columns.listed(("eval_set_id", "item_no", "text_sha256", *_ITEM_COLUMNS))
    async with (
        conn.cursor() as cursor,
        cursor.copy(f"COPY eval_items ({copied}) FROM STDIN") as copy,
    ):
        for item_no, item in enumerate(items):
            values = [getattr(item, name) for name in _ITEM_COLUMNS]
            await copy.write_row([eval_set_id, item_no, text_sha256(item.prompt), *values])


async def find(conn: AsyncConnection, name: str) -> EvalSetRecord:
    """Return the newest version of a set; NAME@HASH, with the start of a hash, names another.

    Raises:
        NotFoundError: There is none.
    """
    plain, _, version = name.rpartition("@")
    found = await _select(conn, "WHERE name = %s ORDER BY created_at DESC LIMIT 1", [name])
    if not found and plain:
        condition = "WHERE name = %s AND starts_with(content_sha256, %s) ORDER BY created_at DESC"
        found = await _select(conn, condition, [plain, version])
    remedy = "`routoo-producer evalset list` shows them"
    return columns.only(found, "evaluation set", name, remedy=remedy)


async def get(conn: AsyncConnection, eval_set_id: UUID) -> EvalSetRecord:
    """Return a version.

    Raises:
        NotFoundError: There is none with this id.
    """
    found = await _select(conn, "WHERE id = %s", [eval_set_id])
    return columns.only(found, "evaluation set", eval_set_id)


async def list_all(conn: AsyncConnection) -> list[EvalSetRecord]:
    """Return every version of every set, by name and newest first."""
    return await _select(conn, "ORDER BY name, created_at DESC", [])


async def load_items(conn: AsyncConnection, eval_set_id: UUID) -> list[Item]:
    """Return a version's items in order: `item_no` is the position."""
    source = "eval_items WHERE eval_set_id = %s ORDER BY item_no"
    return await columns.select(conn, Item, source, [eval_set_id])


async def held_out(conn: AsyncConnection, text_hashes: Sequence[str]) -> set[str]:
    """Return those of some prompts' hashes that belong to evaluation: never to be trained on."""
    cursor = await conn.execute(
        """
        SELECT DISTINCT text_sha256 FROM eval_items i JOIN eval_sets s ON s.id = i.eval_set_id
        WHERE s.purpose = 'evaluation' AND text_sha256 = ANY(%s)
        """,
        [list(text_hashes)],
    )
    return {row[0] async for row in cursor}


async def _select(
    conn: AsyncConnection, condition: str, values: list[object]
) -> list[EvalSetRecord]:
    return await columns.select(conn, EvalSetRecord, f"eval_sets {condition}", values)
