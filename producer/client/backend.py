"""States what runs the client's batches, the database or a gateway, and what it returns of them."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from producer.client.options import BatchOptions, Rows
from routoo.domain.job import BatchStatus, ResultStatus


@dataclass(frozen=True, slots=True)
class ModelShare:
    """One model of a plan."""

    model: str
    jobs: int
    """Jobs that it is planned for."""
    share: float
    """Of the jobs that have a model."""
    alone_quality: float
    """Mean expected quality if it answered every job."""
    alone_cost_usd: float
    """Expected cost if it answered every job, in USD."""


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """What a budget would buy."""

    cost_usd: float
    mean_quality: float
    random_mix_quality: float | None
    """Of a random mix of models at the same cost."""
    shadow_price_per_usd: float | None
    """Good answers that one more dollar would buy there; None at the cheapest point."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch is expected to bring and to cost; no model was called for it."""

    jobs: int
    served: int
    """Jobs that get a model."""
    expected_quality: float
    """Mean over the jobs that get a model, in [0, 1]."""
    quality_interval: tuple[float, float] | None
    """Where their mean grade will lie with 95 % confidence."""
    expected_cost_usd: float
    worst_case_usd: float | None
    """If every answer runs to its limit; never above the budget."""
    finish_s: float | None
    """Seconds until all answers are there; None where no latency is known."""
    shadow_price_per_usd: float
    """Good answers that one more dollar would buy; 0 where money doesn't bind."""
    status: str
    """optimal, within_gap, unconstrained, or infeasible: then `advice` says what to relax."""
    advice: str
    models: tuple[ModelShare, ...]
    frontier: tuple[FrontierPoint, ...]
    """Points of rising cost."""
    details: dict[str, Any] = field(repr=False)
    """All that is known of the plan, as `routoo-producer plan --json` prints it."""

    @classmethod
    def of(cls, plan: dict[str, Any]) -> "Plan":
        """Return a plan as the batch keeps it."""
        forecast = plan.get("forecast") or {}
        interval = forecast.get("quality_interval")
        return cls(
            jobs=plan["jobs"],
            served=plan["served"],
            expected_quality=plan["expected_quality"],
            quality_interval=None if interval is None else (interval[0], interval[1]),
            expected_cost_usd=plan["expected_cost_usd"],
            worst_case_usd=forecast.get("worst_case_usd"),
            finish_s=(forecast.get("finish") or {}).get("last_s"),
            shadow_price_per_usd=plan["shadow_price_per_usd"],
            status=plan["status"],
            advice=plan["advice"],
            models=tuple(ModelShare(**model) for model in plan["models"]),
            frontier=tuple(_point(point) for point in forecast.get("frontier") or ()),
            details=plan,
        )


def _point(point: dict[str, Any]) -> FrontierPoint:
    names = ("cost_usd", "mean_quality", "random_mix_quality", "shadow_price_per_usd")
    return FrontierPoint(*(point[name] for name in names))


@dataclass(frozen=True, slots=True)
class BatchState:
    """A batch at one moment."""

    id: str
    name: str
    status: BatchStatus
    jobs: int
    answered: int
    """Jobs that have an answer."""
    failed: int
    """Jobs that ended without one."""
    downgraded: int
    """Jobs answered by a model that is expected to be worse than the planned one."""
    spent_usd: Decimal
    """Cost of the calls so far."""
    budget_usd: Decimal | None
    stage: str | None = None
    """scoring, selecting or answering; None where nothing happens."""
    left_s: float | None = None
    """Seconds until the stage is done at its present rate; None where that isn't known."""
    waits_for: str | None = None
    """Role of the workers that it waits for, none of which lives."""
    error: str | None = None
    """Why the batch failed as a whole."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or waits as a plan, until somebody asks for more."""
        return self.status.is_over

    @property
    def all_answered(self) -> bool:
        """Whether every job has an answer."""
        return self.answered == self.jobs


@dataclass(frozen=True, slots=True)
class Result:
    """How one job ended; the columns of the SQL view `batch_results`, and the whole response."""

    index: int
    """Position in the input, from 0."""
    custom_id: str
    status: ResultStatus
    answer: str | None
    model: str | None
    """Its name in the pool."""
    cost_usd: Decimal
    """What its calls cost."""
    expected_quality: float | None
    """Predicted for the model that answered."""
    planned_model: str | None
    reason: str | None
    """Why another model than planned answered."""
    decision: str
    """direct, accepted or escalated."""
    latency_s: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    error_code: str | None
    error_message: str | None
    response: dict[str, Any] | None = field(repr=False)
    """The chat completion that the endpoint sent."""

    @property
    def is_answered(self) -> bool:
        """Whether it has an answer."""
        return self.status is ResultStatus.SUCCEEDED


@dataclass(frozen=True, slots=True)
class Submitted:
    """A batch that is known to the backend now."""

    batch_id: str
    notes: tuple[str, ...] = ()
    """What was found beside: rows left out, fields not used, a key that was known."""


class Backend(Protocol):
    """Runs batches. Batches are named by id."""

    async def open(self) -> None:
        """Connect; called once, before anything else."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...

    async def submit(self, rows: Rows, options: BatchOptions, *, plan_only: bool) -> Submitted:
        """Submit rows, or let them be planned only."""
        ...

    async def submit_plan(self, batch_id: str) -> None:
        """Run exactly what was planned."""
        ...

    async def plan(self, batch_id: str) -> Plan:
        """Return the plan of a batch, once it is made."""
        ...

    async def state(self, batch_id: str) -> BatchState:
        """Return the batch now."""
        ...

    def results(self, batch_id: str, *, in_order: bool) -> AsyncGenerator[Result, None]:
        """Yield every job's result, as it comes or in input order, until the batch is over."""
        ...

    async def pause(self, batch_id: str) -> None:
        """Let no new call start."""
        ...

    async def resume(self, batch_id: str, budget_usd: Decimal | None) -> None:
        """Let a paused batch go on, or give it another budget."""
        ...

    async def retry(self, batch_id: str) -> None:
        """Open the jobs without an answer again."""
        ...

    async def cancel(self, batch_id: str) -> None:
        """End a batch; the answers so far are kept."""
        ...

    async def find(self, text: str | None) -> str:
        """Return the id of a batch named by id, start of an id, or name; None is the latest."""
        ...

    async def recent(self, limit: int) -> Sequence[str]:
        """Return the ids of the newest batches, newest first."""
        ...
