"""Writes results as CSV with a header."""

import csv
import io
from collections.abc import Sequence
from typing import BinaryIO

from producer.results.columns import COLUMNS, values
from routoo.store.results import ResultRecord

_CREATED_AT = COLUMNS.index("created_at")


class CsvWriter:
    """Writes the columns of `batch_results`; null is an empty field."""

    def __init__(self, stream: BinaryIO) -> None:
        self._text = io.TextIOWrapper(stream, "utf-8", newline="")
        self._writer = csv.writer(self._text)
        self._writer.writerow(COLUMNS)

    def write(self, records: Sequence[ResultRecord]) -> None:
        """Write some results."""
        for record in records:
            row = values(record)
            row[_CREATED_AT] = record.created_at.isoformat()
            self._writer.writerow(row)

    def close(self) -> None:
        """Send the rest to the stream and leave that open."""
        self._text.flush()
        self._text.detach()
