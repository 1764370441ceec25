"""Reads rows from a query of a PostgreSQL database: read-only, and piece by piece.

Neither the query nor what the server says about it gets into a message: both may quote data.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from producer.rows.formats import PLAIN_FIELDS, RawRow, WantedColumns, id_text, in_chunks
from producer.rows.templates import RowTemplate
from routoo.errors import InputError
from routoo.store.database import libpq_url

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
