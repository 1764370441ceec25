"""Tables of operations: providers' batches, endpoints' limits, cached answers and streams."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from routoo.domain.endpoint import LimitField
from routoo.domain.provider_batch import ProviderState
from routoo.domain.webhook import WebhookEvent
from routoo.store.tables.column import (
    RESPONSE_COMMENT,
    TIMESTAMP,
    USD,
    batch_key,
    column,
    created_at,
    one_of,
)


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
    file_id: str | None = column(Text(), "The provider's key of its input file", nullable=True)
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


class EndpointRow(SQLModel, table=True):
    """The account of an endpoint: which processes hold its slots, what was granted lately."""

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


class EndpointBehaviourRow(SQLModel, table=True):
    """What an endpoint was found to do that its pool doesn't say."""

    __tablename__ = "endpoint_behaviour"
    __table_args__ = (
        one_of("limit_field", LimitField, "endpoint_behaviour_limit_field"),
        {
            "comment": "What endpoints were found to do that pools don't say;"
            " delete a row once it is mended"
        },
    )

    endpoint: str = column(Text(), "Base URL, model and name of the key", primary_key=True)
    limit_field: str | None = column(
        Text(),
        "Field that limits its answers, by its refusals; null = it refused none",
        nullable=True,
    )
    extra_prompt_tokens: int = column(
        Integer(), "Most prompt tokens billed beyond a call's bound", default="0"
    )
    extra_completion_tokens: int = column(
        Integer(), "Most completion tokens billed beyond a call's bound", default="0"
    )
    changed_at: datetime = column(TIMESTAMP, "When that was last found", default="now()")


class CachedAnswerRow(SQLModel, table=True):
    """An answer to a request, for later jobs that make the same request to the same model."""

    __tablename__ = "response_cache"
    __table_args__ = (
        CheckConstraint("octet_length(key) = 32", name="response_cache_key"),
        Index("response_cache_expiry", "expires_at"),
        {"comment": "Answers kept for later batches, by model and request"},
    )

    key: bytes = column(LargeBinary(), "Digest of model and request", primary_key=True)
    model: str = column(Text(), "Candidate model that answered")
    answer: str = column(Text(), "Text of its first choice")
    response: dict[str, Any] = column(JSON(), RESPONSE_COMMENT)
    prompt_tokens: int = column(Integer(), "Of the call that answered")
    completion_tokens: int = column(Integer(), "Of the call that answered")
    finish_reason: str | None = column(
        Text(), "Why the answer ended, as far as the endpoint told", nullable=True
    )
    expires_at: datetime = column(TIMESTAMP, "Not given out after this")
    created_at: datetime = created_at()


class StreamRow(SQLModel, table=True):
    """An endless submission with its budget and its price of a dollar."""

    __tablename__ = "streams"
    __table_args__ = (
        UniqueConstraint("name", name="streams_name"),
        CheckConstraint("budget_usd_per_hour > 0", name="streams_budget"),
        CheckConstraint("price_per_usd >= 0", name="streams_price"),
        CheckConstraint("lines_taken >= 0", name="streams_lines"),
        {"comment": "Endless submissions, paced by a budget an hour"},
    )

    id: UUID = column(Uuid(), "Key of the stream", primary_key=True)
    name: str = column(Text(), "What its owner calls it")
    budget_usd_per_hour: Decimal = column(USD, "Most that any clock hour may cost, in USD")
    price_per_usd: float = column(
        REAL(), "Quality that a dollar must buy now; 0 = money is plenty", default="0"
    )
    paced_at: datetime = column(TIMESTAMP, "When the price last moved", default="now()")
    source: str = column(Text(), "File that its lines were taken from, - for a pipe")
    lines_taken: int = column(BigInteger(), "Lines of that file that are done with", default="0")
    created_at: datetime = created_at()


class StreamBatchRow(SQLModel, table=True):
    """A batch that a stream submitted."""

    __tablename__ = "stream_batches"
    __table_args__ = ({"comment": "Batches of streams; the budget of each was allotted to it"},)

    batch_id: UUID = batch_key(references=True)
    stream_id: UUID = Field(
        sa_column=Column(
            Uuid(),
            ForeignKey("streams.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
            comment="Its stream",
        )
    )
    submitted_at: datetime = column(TIMESTAMP, "When its budget was allotted", default="now()")
    target_usd: float = column(REAL(), "Its share of the hour's budget, in USD")
    priced_at: datetime | None = column(
        TIMESTAMP, "When its plan moved the stream's price", nullable=True
    )
    ended_at: datetime | None = column(
        TIMESTAMP, "When it was seen to be over and idle", nullable=True
    )


class JudgeRow(SQLModel, table=True):
    """A judge of answers that a scorer saved, since dispatchers may not see its folder."""

    __tablename__ = "judges"
    __table_args__ = (
        {"comment": "Judges of answers, for those that can't see the checkpoint's folder"},
    )

    content_sha256: str = column(Text(), "Hash of the content", primary_key=True)
    content: bytes = column(LargeBinary(), "The judge as one file")
    created_at: datetime = created_at()


class BatchJudgeRow(SQLModel, table=True):
    """Which judge judges the answers of a batch."""

    __tablename__ = "batch_judges"
    __table_args__ = (
        ForeignKeyConstraint(["content_sha256"], ["judges.content_sha256"]),
        {"comment": "Which judge judges a batch's answers"},
    )

    batch_id: UUID = batch_key(references=True)
    content_sha256: str = column(Text(), "The judge of the checkpoint that scored it")


class WorkerRow(SQLModel, table=True):
    """A worker process that reports every few seconds."""

    __tablename__ = "workers"
    __table_args__ = (
        one_of("role", ("scorer", "dispatcher", "beat"), "workers_role"),
        {"comment": "Worker processes; one that was killed stays until a day has passed"},
    )

    name: str = column(
        Text(), "Role, host and process, as shards name their owner", primary_key=True
    )
    role: str = column(Text(), "scorer, dispatcher or beat")
    started_at: datetime = column(TIMESTAMP, "When it reported first", default="now()")
    seen_at: datetime = column(TIMESTAMP, "When it reported last", default="now()")


class BatchWebhookRow(SQLModel, table=True):
    """An address that is told how a batch ended."""

    __tablename__ = "batch_webhooks"
    __table_args__ = (
        one_of("event", WebhookEvent, "batch_webhooks_event"),
        Index("batch_webhooks_batch", "batch_id"),
        Index(
            "batch_webhooks_open",
            "batch_id",
            postgresql_where=text("ended_at IS NULL OR next_try_at IS NOT NULL"),
        ),
        {"comment": "Who is told how a batch ended"},
    )

    id: UUID = column(Uuid(), "Key of the webhook, part of its messages' ids", primary_key=True)
    batch_id: UUID = Field(
        sa_column=Column(
            Uuid(),
            ForeignKey("batches.id", ondelete="CASCADE"),
            nullable=False,
            comment="The batch",
        )
    )
    event: str = column(Text(), "What is told: success or failure")
    url: str = column(Text(), "Where it is posted")
    ended_at: datetime | None = column(
        TIMESTAMP, "The batch's end that was looked at last", nullable=True
    )
    deliveries: int = column(Integer(), "Calls for that end so far", default="0")
    next_try_at: datetime | None = column(
        TIMESTAMP, "When it is called again; null = not for that end", nullable=True
    )
    delivered_at: datetime | None = column(TIMESTAMP, "When it accepted that end", nullable=True)
    error: str | None = column(Text(), "Why the last call was not accepted", nullable=True)
    created_at: datetime = created_at()
