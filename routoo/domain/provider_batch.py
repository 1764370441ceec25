"""A batch at a provider: the rows that were submitted together, and the state they are in."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from routoo.domain.validators import Validators

_OVER = frozenset({"completed", "failed", "expired", "cancelled"})


class ProviderState(StrEnum):
    """Our own state of a provider's batch."""

    PREPARED = "prepared"
    """Its money is reserved, and it is not known yet whether the provider created it."""
    CREATED = "created"
    """The provider works on it."""
    CLOSED = "closed"
    """Every row is settled."""


@dataclass(frozen=True, slots=True)
class ProviderBatch:
    """A batch as the provider describes it."""

    id: str
    """The provider's own."""
    status: str
    """As it reports it: validating, in_progress, finalizing, completed, failed, expired, ..."""
    output_file_id: str | None = None
    """File of the answers, once there are any."""
    error_file_id: str | None = None
    """File of the rows that failed, once there are any."""
    latency_s: float | None = None
    """From creation to end, in seconds, where the provider says so."""
    message: str | None = None
    """Why it failed as a whole."""
    is_postponed: bool = False
    """It failed before any row was tried, for a reason that passes: another one may succeed."""
    row_count: int | None = None
    """How many rows it has, where the provider says so."""

    @property
    def is_over(self) -> bool:
        """Whether the provider will do nothing more for it."""
        return self.status in _OVER


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """One job's request in a provider's batch."""

    job_no: int
    attempt_no: int
    """Number of the call among the job's."""
    body: Mapping[str, Any]
    """The request as its owner gave it."""
    worst_case_usd: Decimal
    """Reserved for it, in USD."""
    spent_usd: Decimal = Decimal(0)
    """What the job's earlier calls cost, in USD."""
    deadline: datetime | None = None
    """The job's, with time zone."""
    validators: Validators | None = None
    """The job's own rules for its answer."""

    @property
    def custom_id(self) -> str:
        """Name of the row in the provider's files."""
        return f"job-{self.job_no}-{self.attempt_no}"


@dataclass(frozen=True, slots=True)
class OpenProviderBatch:
    """A batch at a provider whose rows are not all settled."""

    marker: UUID
    """Our own key, which the batch's metadata carries."""
    model: str
    """Name of the candidate: a model's batch channel."""
    state: ProviderState
    provider_id: str | None
    """The provider's key of it, once it is known."""
    prepared_at: datetime
    age_s: float
    """Since then, in seconds."""
    create_age_s: float | None
    """Since the provider was last asked to create it, in seconds."""
    cancel_asked: bool
    """Whether the provider was asked to cancel it."""
    file_id: str | None = None
    """The provider's key of the input file, once it is uploaded."""

    def __post_init__(self) -> None:
        """Parse what the database keeps as text."""
        object.__setattr__(self, "state", ProviderState(self.state))
