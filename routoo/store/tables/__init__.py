"""The schema of record: every table as a SQLModel class.

Hot paths speak SQL through psycopg; these classes say what the columns are, and a test proves that
the migrations produce exactly them. `batches`, `shards`, `jobs`, `predictions`, `assignments`,
`attempts` and `results` and the view `batch_results` are public: people poll them with SQL.
"""

from sqlmodel import SQLModel

from routoo.store.tables.batch import BatchRow, LedgerRow, ShardRow
from routoo.store.tables.fact import AssignmentRow, JobRow, PredictionRow
from routoo.store.tables.outcome import AttemptRow, GradeRow, ReservationRow, ResultRow

METADATA = SQLModel.metadata

__all__ = [
    "METADATA",
    "AssignmentRow",
    "AttemptRow",
    "BatchRow",
    "GradeRow",
    "JobRow",
    "LedgerRow",
    "PredictionRow",
    "ReservationRow",
    "ResultRow",
    "ShardRow",
]
