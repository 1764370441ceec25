"""Column kinds that several tables share."""

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Numeric,
    Text,
    Uuid,
    text,
)
from sqlalchemy.types import TypeEngine
from sqlmodel import Field

TIMESTAMP = DateTime(timezone=True)
"""An instant; SQLModel's own default has no time zone."""
USD = Numeric()
"""Exact US dollars: no rounding of a price times a token count."""
NAMES: ARRAY[str] = ARRAY(Text())
"""Names of candidate models."""
REALS: ARRAY[float] = ARRAY(REAL())
"""One value a candidate model, in pool order."""
RESPONSE_COMMENT = "The response; a first text of 200 characters or more stands in `answer` alone"


def column(
    kind: TypeEngine[Any] | type[TypeEngine[Any]],
    comment: str,
    *,
    nullable: bool = False,
    primary_key: bool = False,
    default: str | None = None,
) -> Any:
    """Return a column with its comment; `default` is the server's SQL expression."""
    return Field(
        sa_column=Column(
            kind,
            nullable=nullable,
            primary_key=primary_key,
            comment=comment,
            server_default=None if default is None else text(default),
        )
    )


def batch_key(*, references: bool = False) -> Any:
    """Return the leading key column `batch_id`, on small tables as a foreign key."""
    keys = [ForeignKey("batches.id", ondelete="CASCADE")] if references else []
    return Field(sa_column=Column(Uuid(), *keys, primary_key=True, comment="The batch"))


def created_at() -> Any:
    """Return a column that holds when the row was written."""
    return column(TIMESTAMP, "When the row was written", default="now()")


def one_of(name: str, values: type[StrEnum] | tuple[str, ...], constraint: str) -> CheckConstraint:
    """Return a constraint that a text column holds one of some words."""
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{name} IN ({words})", name=constraint)
