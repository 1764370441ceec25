"""What is known of endpoints, across batches."""

from datetime import datetime
from typing import Any

from sqlalchemy import Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import SQLModel

from routoo.store.tables.column import column, created_at


class EndpointRow(SQLModel, table=True):
    """The account of an endpoint: who holds its places, what was let through lately."""

    __tablename__ = "endpoints"
    __table_args__ = (
        {
            "comment": "Shared limits of endpoints; not public: its content may change any time",
            "postgresql_with": {"fillfactor": 50},
        },
    )

    endpoint: str = column(Text(), "Base URL, model and name of the key", primary_key=True)
    account: dict[str, Any] = column(JSONB(), "Places, windows, breaker")
    created_at: datetime = created_at()
