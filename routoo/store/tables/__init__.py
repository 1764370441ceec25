"""The schema of record: every table as a SQLModel class.

Hot paths speak SQL through psycopg; these classes say what the columns are, and a test proves that
the migrations produce exactly them. `batches`, `shards`, `jobs`, `predictions`, `assignments`,
`attempts` and `results` and the view `batch_results` are public: people poll them with SQL.
"""

from sqlmodel import SQLModel

from routoo.store.tables.batch import BatchRow, FloorRow, LedgerRow, ReplanRow, ShardRow
from routoo.store.tables.cache import CachedAnswerRow
from routoo.store.tables.endpoint import EndpointRow
from routoo.store.tables.evaluation import AlertRow, EvalItemRow, EvalRunRow, EvalSetRow
from routoo.store.tables.fact import AssignmentRow, FollowerRow, JobRow, PredictionRow
from routoo.store.tables.history import BudgetWarningRow, SupersededResultRow
from routoo.store.tables.outcome import AttemptRow, GradeRow, ReservationRow, ResultRow
from routoo.store.tables.provider import ProviderBatchRow, ProviderRowRow
from routoo.store.tables.registry import CheckpointRow, PromotionRow
from routoo.store.tables.schedule import FiringRow, ScheduleRow
from routoo.store.tables.stream import StreamBatchRow, StreamRow

METADATA = SQLModel.metadata

__all__ = [
    "METADATA",
    "AlertRow",
    "AssignmentRow",
    "AttemptRow",
    "BatchRow",
    "BudgetWarningRow",
    "CachedAnswerRow",
    "CheckpointRow",
    "EndpointRow",
    "EvalItemRow",
    "EvalRunRow",
    "EvalSetRow",
    "FiringRow",
    "FloorRow",
    "FollowerRow",
    "GradeRow",
    "JobRow",
    "LedgerRow",
    "PredictionRow",
    "PromotionRow",
    "ProviderBatchRow",
    "ProviderRowRow",
    "ReplanRow",
    "ReservationRow",
    "ResultRow",
    "ScheduleRow",
    "ShardRow",
    "StreamBatchRow",
    "StreamRow",
    "SupersededResultRow",
]
