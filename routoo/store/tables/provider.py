"""Tables of the provider batch channel: what was handed over to providers' batch APIs."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Boolean, CheckConstraint, Index, Integer, Text, Uuid
from sqlmodel import SQLModel

from routoo.domain.provider_batch import ProviderState
from routoo.store.tables.column import TIMESTAMP, batch_key, column, created_at, one_of


class ProviderBatchRow(SQLModel, table=True):
    """Rows of one dispatch shard that were handed over together."""

    __tablename__ = "provider_batches"
    __table_args__ = (
        one_of("state", ProviderState, "provider_batches_state"),
        CheckConstraint(
            "state <> 'created' OR provider_id IS NOT NULL", name="provider_batches_created"
        ),
        Index("provider_batches_shard", "batch_id", "shard_no"),
        {"comment": "Batches at providers' batch APIs"},
    )

    marker: UUID = column(Uuid(), "Our key of it, in its metadata there", primary_key=True)
    batch_id: UUID = column(Uuid(), "The batch")
    shard_no: int = column(Integer(), "Dispatch shard whose rows these are")
    model: str = column(Text(), "Candidate: a model's batch channel")
    state: str = column(Text(), "prepared, created or closed", default="'prepared'")
    provider_id: str | None = column(Text(), "The provider's key of it", nullable=True)
    provider_status: str | None = column(Text(), "The provider's word for it", nullable=True)
    create_tried_at: datetime | None = column(
        TIMESTAMP, "When the provider was last asked to create it", nullable=True
    )
    cancel_asked: bool = column(Boolean(), "The provider was asked to cancel it", default="false")
    closed_at: datetime | None = column(TIMESTAMP, "When its last row was settled", nullable=True)
    error: str | None = column(Text(), "What went wrong with it last", nullable=True)
    created_at: datetime = created_at()


class ProviderRowRow(SQLModel, table=True):
    """One call that goes through a provider's batch; its reservation has the same key."""

    __tablename__ = "provider_rows"
    __table_args__ = (
        Index("provider_rows_marker", "marker"),
        {"comment": "Calls that go through providers' batches"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    attempt_no: int = column(Integer(), "Call of the job, from 1", primary_key=True)
    marker: UUID = column(Uuid(), "The provider's batch that holds it")
