"""The registry of predictor checkpoints, and which of them is in use."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Column, Identity, Integer, Text, UniqueConstraint, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from routoo.store.tables.column import column, created_at
from routoo.store.tables.evaluation import reference


class CheckpointRow(SQLModel, table=True):
    """A predictor checkpoint that scorers may load."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        UniqueConstraint("weights_sha256", name="checkpoints_weights"),
        {"comment": "Predictor checkpoints, with the figures they were registered with"},
    )

    id: UUID = column(Uuid(), "Key of the checkpoint", primary_key=True)
    path: str = column(Text(), "Folder, the same on every scorer")
    weights_sha256: str = column(Text(), "Hash of its weights file")
    manifest: dict[str, Any] = column(JSONB(), "Backbone, models, training data, figures")
    registered_at: datetime = created_at()


class PromotionRow(SQLModel, table=True):
    """A checkpoint was put into use; the latest row counts."""

    __tablename__ = "checkpoint_promotions"
    __table_args__ = ({"comment": "Which checkpoint scorers use: the latest row's"},)

    promotion_no: int = Field(
        sa_column=Column(
            Integer(), Identity(always=True), primary_key=True, comment="Order of promotions"
        )
    )
    checkpoint_id: UUID = reference("checkpoints.id", "The checkpoint")
    reason: str = column(Text(), "Why")
    is_rollback: bool = column(
        Boolean(), "Whether it undoes the promotion before it", default="false"
    )
    promoted_at: datetime = created_at()
