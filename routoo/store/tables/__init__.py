"""The schema of record: every table as a SQLModel class.

Hot paths speak SQL through psycopg; these classes say what the columns are, and a test proves that
the migrations produce exactly them. `batches`, `shards`, `jobs`, `predictions`, `assignments`,
`attempts` and `results` and the view `batch_results` are public: people poll them with SQL.
"""

from sqlmodel import SQLModel

from routoo.store.tables.batch import (
    BatchRow,
    BudgetWarningRow,
    FloorRow,
    LedgerRow,
    ReplanRow,
    ShardRow,
    SupersededResultRow,
)
from routoo.store.tables.evaluation import (
    AlertRow,
    CheckpointRow,
    EvalItemRow,
    EvalRunRow,
    EvalSetRow,
    FiringRow,
    PromotionRow,
    ScheduleRow,
)
from routoo.store.tables.facts import (
    AssignmentRow,
    AttemptRow,
    FollowerRow,
    GradeRow,
    JobRow,
    PredictionRow,
    ReservationRow,
    ResultRow,
)
from routoo.store.tables.operations import (
    CachedAnswerRow,
    EndpointRow,
    ProviderBatchRow,
    ProviderRowRow,
    StreamBatchRow,
    StreamRow,
)

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
