"""Columns of Parquet tables; what is of the wrong kind is named by file, column and row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool
from numpy.typing import DTypeLike

from routoo.errors import InputError

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
_NUMBERS = (pa.types.is_floating, pa.types.is_integer, pa.types.is_null)


def read_table(path: Path, *, required: Sequence[str]) -> pa.Table:
    """Read a table that has at least these columns.

    Raises:
        InputError: It is no Parquet file, can't be read, or has no such column.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise InputError("there is no such file", where=str(path)) from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            "the table can't be read",
            where=str(path),
            value=str(error),
            remedy="Items are Parquet or JSON lines (.jsonl, .ndjson, .json), outcomes Parquet",
        ) from error
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise InputError(
            f"the table has no column {', '.join(missing)}",
            where=str(path),
            remedy=f"It needs at least the columns {', '.join(required)}",
        )
    return table


def ids(path: Path, table: pa.Table, column: str) -> list[str | None]:
    """Return names, whole numbers as their digits; null is None.

    Raises:
        InputError: The column holds something else.
    """
    if pa.types.is_integer(_kind(table, column)):
        return list(table[column].cast(pa.string()).to_pylist())
    return texts(path, table, column, needed="text or whole numbers")


def texts(path: Path, table: pa.Table, column: str, *, needed: str = "text") -> list[str | None]:
    """Return texts; null is None.

    Raises:
        InputError: The column holds something else.
    """
    kind = _kind(table, column)
    if not any(is_kind(kind) for is_kind in _TEXT):
        raise _wrong_kind(path, table, column, needed)
    return list(table[column].cast(pa.string()).to_pylist())


def whole_numbers(path: Path, table: pa.Table, column: str) -> list[int | None]:
    """Return whole numbers; null is None.

    Raises:
        InputError: The column holds something else.
    """
    try:
        return list(table[column].cast(pa.int64()).to_pylist())
    except pa.ArrowException as error:
        raise _wrong_kind(path, table, column, "whole numbers") from error


def numbers(
    path: Path, table: pa.Table, column: str, dtype: DTypeLike
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return numbers of 0 or more; NaN where there is none, or no such column.

    Raises:
        InputError: The column holds something else.
    """
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan, dtype=dtype)
    kind = _kind(table, column)
    if not any(is_kind(kind) for is_kind in _NUMBERS):
        raise _wrong_kind(path, table, column, "numbers")
    values = table[column].cast(pa.float64()).to_numpy(zero_copy_only=False)
    refuse(path, column, values, (values < 0) | np.isinf(values), "is below 0 or endless")
    return np.asarray(values, dtype=dtype)


def known(table: pa.Table, column: str) -> Bool[np.ndarray, " rows"]:
    """Tell which rows have something in a column."""
    return np.asarray(pc.is_valid(table[column]).to_numpy(zero_copy_only=False))


def refuse(
    path: Path, column: str, values: Sequence[Any] | np.ndarray, bad: np.ndarray, fault: str
) -> None:
    """Refuse rows whose value has a fault.

    Raises:
        InputError: There are such rows; it names the first.
    """
    rows = np.flatnonzero(bad)
    if len(rows):
        others = f", here and in {len(rows) - 1} more rows" if len(rows) > 1 else ""
        value = values[rows[0]]
        raise InputError(
            f"the {column} {fault}{others}",
            value=value.item() if isinstance(value, np.generic) else value,
            where=f"{path}, row {rows[0] + 1}",
            remedy="Mend such rows, or leave them out",
        )


def _kind(table: pa.Table, column: str) -> pa.DataType:
    kind = table[column].type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _wrong_kind(path: Path, table: pa.Table, column: str, needed: str) -> InputError:
    return InputError(
        f"the column {column} is not of {needed}",
        value=str(table[column].type),
        where=str(path),
        remedy=f"Write it as {needed}",
    )
