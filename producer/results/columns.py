"""Lists the columns of the view `batch_results`, which exported tables have too."""

from collections.abc import Callable
from typing import Any

from routoo.store.results import VIEW_COLUMNS, ResultRecord

COLUMNS = VIEW_COLUMNS
"""In the view's order, without `batch_id`: a file holds one batch."""


def values(record: ResultRecord) -> list[Any]:
    """Return a result's values in the order of `COLUMNS`."""
    return [getattr(record, name) for name in COLUMNS]


def as_row(record: ResultRecord, convert: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """Return a result as a mapping from column to value.

    Args:
        record: The result.
        convert: Applied to each value that is there.
    """
    row = dict(zip(COLUMNS, values(record), strict=True))
    if convert is None:
        return row
    return {name: None if value is None else convert(value) for name, value in row.items()}
