"""Answers kept for later batches."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Index, Integer, LargeBinary, Text
from sqlmodel import SQLModel

from routoo.store.tables.column import TIMESTAMP, column, created_at


class CachedAnswerRow(SQLModel, table=True):
    """An answer to a request, for whoever asks the same model the same."""

    __tablename__ = "response_cache"
    __table_args__ = (
        CheckConstraint("octet_length(key) = 32", name="response_cache_key"),
        Index("response_cache_expiry", "expires_at"),
        {"comment": "Answers kept for later batches, by model and request"},
    )

    key: bytes = column(LargeBinary(), "Digest of model and request", primary_key=True)
    model: str = column(Text(), "Candidate model that answered")
    answer: str = column(Text(), "Text of its first choice")
    response: dict[str, Any] = column(JSON(), "The whole response")
    prompt_tokens: int = column(Integer(), "Of the call that answered")
    completion_tokens: int = column(Integer(), "Of the call that answered")
    expires_at: datetime = column(TIMESTAMP, "Not given out after this")
    created_at: datetime = created_at()
