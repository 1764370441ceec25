"""Derives column lists of SQL statements from the fields of the records they read and write.

A record is a dataclass whose fields are named as the columns are, or say their column by `named`.
What a statement needs to know of the columns (their names, their types, where a value comes from)
follows from it, so that a column is spelled in one place. The schema itself stands in
`routoo.store.tables`; a test holds the two together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from datetime import datetime
from decimal import Decimal
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

from routoo.errors import NotFoundError

Record = TypeVar("Record")

_COLUMN = "column"

_SQL_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),  # before int, which it derives from
    (int, "int"),
    (float, "real"),
    (Decimal, "numeric"),
    (str, "text"),
    (UUID, "uuid"),
    (datetime, "timestamptz"),
    (dict, "json"),
)


def names(
    record: type, keep: Callable[["Field[Any]"], bool] = lambda _field: True
) -> tuple[str, ...]:
    """Return the names of a record's columns, in the order of its fields.

    A field whose metadata says `{"column": None}` is sent with the others and not stored.
    """
    stored = (field for field in fields(record) if field.metadata.get(_COLUMN, "") is not None)
    return tuple(_column(field) for field in stored if keep(field))


def named(column: str) -> Mapping[str, str]:
    """Return the metadata of a field whose column has another name."""
    return {_COLUMN: column}


def _column(field: "Field[Any]") -> str:
    return str(field.metadata.get(_COLUMN) or field.name)


def values_of(record: object) -> dict[str, Any]:
    """Return what a record holds, by column."""
    return {_column(field): getattr(record, field.name) for field in fields(cast("Any", record))}


def listed(columns: Iterable[str], of: str | None = None) -> str:
    """Return columns as a statement lists them; `of` is the table or alias they are read from."""
    return ", ".join(columns if of is None else (f"{of}.{column}" for column in columns))


def assigned(columns: Iterable[str]) -> str:
    """Return the assignments of ON CONFLICT DO UPDATE that take over the new row's values."""
    return ", ".join(f"{column} = excluded.{column}" for column in columns)


def recordset(record: type, columns: Sequence[str] | None = None) -> str:
    """Return a FROM item that reads the parameter `rows`, made by `json_rows`, as columns.

    JSON columns arrive as text and must be cast: so the escapes in them, NULs among them, stay as
    they came.

    Args:
        record: The record whose fields say the types.
        columns: The columns to read; None for all.
    """
    types = _sql_types(record)
    sent = (
        f"{name} {'text' if types[name] == 'json' else types[name]}" for name in columns or types
    )
    return f"json_to_recordset(%(rows)s::json) AS row({', '.join(sent)})"


def from_recordset(record: type, columns: Sequence[str]) -> str:
    """Return the SELECT list for what `recordset` reads, JSON columns cast."""
    types = _sql_types(record)
    return ", ".join(f"{name}::json" if types[name] == "json" else name for name in columns)


def insert(table: str, columns: Iterable[str], then: str = "") -> bytes:
    """Return the INSERT of one row whose values come as named parameters.

    Args:
        table: The table.
        columns: The columns, which are the parameters' names too.
        then: What follows: ON CONFLICT, RETURNING.
    """
    known = list(columns)
    marks = ", ".join(f"%({column})s" for column in known)
    return f"INSERT INTO {table} ({listed(known)}) VALUES ({marks}) {then}".encode()


async def select(
    conn: AsyncConnection,
    record: type[Record],
    source: str,
    values: Sequence[Any] | Mapping[str, Any],
    *,
    of: str | None = None,
) -> list[Record]:
    """Return the records that a query finds.

    Args:
        conn: A connection.
        record: The record; its fields are the columns.
        source: What follows FROM, a literal of the caller's: the table and its conditions.
        values: The query's parameters.
        of: Alias of the table that has the columns, where the query joins several.
    """
    read = listed((f"{_column(one)} AS {one.name}" for one in fields(cast("Any", record))), of)
    query = f"SELECT {read} FROM {source}".encode()
    async with conn.cursor(row_factory=class_row(record)) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchall()


def only(found: Sequence[Record], what: str, value: object, *, remedy: str | None = None) -> Record:
    """Return the first record of what was looked for.

    Args:
        found: What `select` returned.
        what: What a record is, for the message.
        value: What was looked for.
        remedy: What to do where there is none.

    Raises:
        NotFoundError: There is none.
    """
    if not found:
        raise NotFoundError(f"there is no such {what}", value=str(value), remedy=remedy)
    return found[0]


def python_types(record: type) -> dict[str, type]:
    """Return the types of a record's fields by name, without `| None` and type parameters."""
    return {_column(field): _python_type(field.type) for field in fields(record)}


def _python_type(annotation: object) -> type:
    if isinstance(annotation, UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not type(None))
    plain = get_origin(annotation) or annotation
    if not isinstance(plain, type):
        raise TypeError(f"no column holds a {annotation}")
    return plain


def _sql_types(record: type) -> dict[str, str]:
    return {name: _sql_type(python_type) for name, python_type in python_types(record).items()}


def _sql_type(python_type: type) -> str:
    for known, sql_type in _SQL_TYPES:
        if issubclass(python_type, known):
            return sql_type
    raise TypeError(f"no column holds a {python_type.__name__}")
