"""Takes snapshots of a batch's progress: one, or one after the other until it is over."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from psycopg import AsyncConnection

from routoo.console.output import note
from routoo.domain.absence import Absence
from routoo.domain.behaviour import FoundBehaviour, found_in
from routoo.domain.job import BatchStatus, ResultStatus, ShardState, Stage
from routoo.errors import DatabaseUnavailableError, NotFoundError
from routoo.store import batches, endpoints, webhooks, workers
from routoo.store.batches import BatchRecord, replans
from routoo.store.batches.progress import Progress, progress
from routoo.store.batches.replans import Replan
from routoo.store.database import Database
from routoo.store.endpoints import absence
from routoo.store.webhooks import WebhookRecord
from routoo.store.workers import WorkerWait

_POLL_S = 0.5
_DATABASE_AWAY_S = 60.0
"""How long `follow` waits for a database that restarts."""
_AS_PLANNED = 1.05
"""A batch that will cost no more of its budget than this keeps its plan."""
_WINDOW_S = 180.0
"""Of the rate of scoring: longer than a shard takes."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A batch and its progress at one moment."""

    batch: BatchRecord
    progress: Progress
    at: datetime
    replans: Sequence[Replan] = ()
    """Revisions of the plan since the batch started, in order."""
    wait: WorkerWait | None = None
    """What it waits for where no worker is at it."""
    scored_per_s: float | None = None
    """Jobs scored a second lately, where the batch has been followed long enough to tell."""
    behaviours: Sequence[FoundBehaviour] = ()
    """What endpoints of the batch were found to do that its pool doesn't say."""

    webhooks: Sequence[WebhookRecord] = ()
    """Who is told how it ended; of a batch that is over."""
    absences: Mapping[str, Absence] = field(default_factory=dict)
    """Models whose endpoints take no calls for now, by name; of a batch that runs or is paused."""

    @property
    def selected(self) -> int:
        """Jobs that have been through the selection."""
        # A batch that is being planned anew was selected before.
        done = self.progress.shards[Stage.SELECT].get(ShardState.DONE, 0) or self.replans
        return self.progress.jobs if done else 0

    @property
    def succeeded(self) -> int:
        """Jobs that have an answer."""
        return self.progress.results[ResultStatus.SUCCEEDED]

    @property
    def unsuccessful(self) -> int:
        """Jobs that ended without an answer."""
        return self.progress.ended - self.succeeded

    @property
    def spent_usd(self) -> Decimal:
        """Cost of the calls so far, above the budget too."""
        return self.progress.balance.spent_usd + self.progress.balance.overrun_usd

    @property
    def elapsed_s(self) -> float:
        """Seconds from submission to the end, or to now."""
        end = self.batch.completed_at or self.at
        start = self.batch.submitted_at or self.batch.created_at
        return max((end - start).total_seconds(), 0.0)

    @property
    def jobs_per_s(self) -> float | None:
        """Jobs a second of the present stage lately; answers a second once the batch is over."""
        if not self.is_over:
            return self.progress.recent_per_s if self.selected else self.scored_per_s
        return self.succeeded / self.elapsed_s if self.succeeded and self.elapsed_s else None

    @property
    def stage(self) -> str | None:
        """What happens to the jobs now; None where nothing does."""
        if self.progress.status not in {BatchStatus.PLANNING, BatchStatus.IN_PROGRESS}:
            return None
        if self.selected:
            return "answering"
        return "scoring" if self.progress.scored < self.progress.jobs else "selecting"

    @property
    def left_s(self) -> float | None:
        """Seconds until the present stage is done at its rate of late, None where not known."""
        rate, now = self.jobs_per_s, self.progress
        if self.stage is None or not rate or now.at_providers:
            return None
        return (now.jobs - (now.ended if self.selected else now.scored)) / rate

    @property
    def budget_warning(self) -> int | None:
        """Share of the budget that is used up, in per cent, where the batch may need more.

        None where what is left pays for the open jobs: as many of each model as planned, at what
        its calls have cost so far.
        """
        now, warnings = self.progress, self.progress.budget_warnings
        if not warnings or now.balance.limit_usd is None:
            return None
        if self.is_over:
            return warnings[-1] if now.results[ResultStatus.BUDGET_EXHAUSTED] else None
        total_usd = float(self.spent_usd) + self._to_come_usd()
        enough = total_usd <= float(now.balance.limit_usd) * _AS_PLANNED
        return None if enough else warnings[-1]

    def _to_come_usd(self) -> float:
        """Return what the open jobs will cost if each model gets as many as planned."""
        plan, so_far = self.batch.plan, {one.model: one for one in self.progress.models}
        if plan is None:
            return math.inf
        to_come_usd = 0.0
        for model in plan.get("models", ()):
            found = so_far.get(model["model"])
            left = max(model["jobs"] - (found.results if found else 0), 0)
            each_usd = model["alone_cost_usd"] / plan["jobs"]
            if found and found.results:
                each_usd = float(found.cost_usd) / found.results
            to_come_usd += left * each_usd
        return to_come_usd

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen to the batch any more."""
        return self.progress.status.is_over

    @property
    def planned_cost_usd(self) -> float | None:
        """What the plan expected the answers to cost, in USD; None without a plan."""
        cost_usd = (self.batch.plan or {}).get("expected_cost_usd")
        return None if cost_usd is None else float(cost_usd)

    @property
    def as_planned(self) -> bool:
        """Whether no job was answered by a model that is expected to be worse than planned."""
        return self.progress.deviations.downgrades == 0

    @property
    def all_succeeded(self) -> bool:
        """Whether every job has an answer."""
        return self.succeeded == self.progress.jobs

    @property
    def probes(self) -> dict[str, Any]:
        """What the plan says of jobs that ask a cheap model first; empty where none may."""
        return (self.batch.plan or {}).get("probes") or {}

    def as_json(self) -> dict[str, Any]:
        """Return the facts that `--json` prints."""
        return {
            "batch_id": str(self.batch.id),
            "name": self.batch.name,
            "status": self.progress.status,
            "error": self.progress.error,
            "created_at": self.batch.created_at,
            "completed_at": self.batch.completed_at,
            **self._jobs_json(),
            **self._money_json(),
            **self._rates_json(),
            "failures": [asdict(failure) for failure in self.progress.failures],
            **self._models_json(),
            "replans": [asdict(replan) for replan in self.replans],
            "webhooks": [{**asdict(one), "url": None, "host": one.host} for one in self.webhooks],
        }

    def _jobs_json(self) -> dict[str, Any]:
        return {
            "jobs": self.progress.jobs,
            "scored": self.progress.scored,
            "selected": self.selected,
            "answered": self.succeeded,
            "ended": self.progress.ended,
            "at_providers": self.progress.at_providers,
            "results": {str(status): count for status, count in self.progress.results.items()},
        }

    def _money_json(self) -> dict[str, Any]:
        balance = self.progress.balance
        return {
            "budget_usd": balance.limit_usd,
            "reserved_usd": balance.reserved_usd,
            "spent_usd": self.spent_usd,
            "overrun_usd": balance.overrun_usd,
            "budget_warnings": self.progress.budget_warnings,
        }

    def _rates_json(self) -> dict[str, Any]:
        return {
            "elapsed_s": self.elapsed_s,
            "stage": self.stage,
            "jobs_per_s": self.jobs_per_s,
            "eta_s": self.left_s if self.selected else None,
            "waits_for": self.wait and {**asdict(self.wait), "is_served": self.wait.is_served},
        }

    def _models_json(self) -> dict[str, Any]:
        deviations = self.progress.deviations
        return {
            "models": [
                {
                    "model": share.model,
                    "jobs": share.results,
                    "share": share.results / self.succeeded if self.succeeded else 0.0,
                    "calls": share.attempts,
                    "cost_usd": share.cost_usd,
                }
                for share in self.progress.models
            ],
            "probes": {key: value for key, value in self.probes.items() if key != "policies"},
            "deviations": {
                "jobs": deviations.jobs,
                "downgrades": deviations.downgrades,
                "upgrades": deviations.upgrades,
                "reasons": deviations.reasons,
            },
            "absences": [
                {
                    "model": name,
                    "reason": one.reason,
                    "lasted_s": one.lasted_s,
                    "rest_s": one.rest_s,
                    "message": one.message,
                }
                for name, one in self.absences.items()
            ],
            "endpoints": [
                {"model": one.model, "base_url": one.base_url, **asdict(one.behaviour)}
                for one in self.behaviours
            ],
        }


async def find_batch(conn: AsyncConnection, text: str | None) -> BatchRecord:
    """Return the batch that a person names; the latest where they name none.

    Raises:
        NotFoundError: There is no such batch, or none at all.
    """
    if text is not None:
        return await batches.find(conn, text)
    found = await batches.list_recent(conn, 1)
    if not found:
        raise NotFoundError("there are no batches yet", remedy="Submit one")
    return found[0]


async def take_snapshot(conn: AsyncConnection, batch: BatchRecord) -> Snapshot:
    """Return a snapshot of a batch, now."""
    now = await progress(conn, batch.id)
    selected = now.shards[Stage.SELECT].get(ShardState.DONE, 0)
    if now.status is not batch.status or (selected and batch.plan is None):
        batch = await batches.get(conn, batch.id)
    revisions = await replans.history(conn, batch.id)
    wait = await workers.wait_of(conn, batch.id)
    behaviours = found_in(batch.pool, await endpoints.load_behaviour(conn))
    absences = {} if batch.status.is_over else await _absences(conn, batch)
    hooks = await webhooks.of_batch(conn, batch.id) if batch.status.has_ended else []
    return Snapshot(
        batch,
        now,
        datetime.now(UTC),
        revisions,
        wait,
        behaviours=behaviours,
        absences=absences,
        webhooks=hooks,
    )


async def _absences(conn: AsyncConnection, batch: BatchRecord) -> dict[str, Absence]:
    """Return the models of a batch whose endpoints take no calls for now."""
    found = {model.name: await absence(conn, model) for model in batch.pool.models}
    return {name: one for name, one in found.items() if one is not None}


@dataclass(slots=True)
class ScoringRate:
    """The rate at which jobs are scored; their count moves by whole shards."""

    _points: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, now_s: float, scored: int) -> float | None:
        """Add a measurement and return the rate of the last minutes.

        Args:
            now_s: Time of the measurement on a monotonic clock.
            scored: Jobs that are scored by then.

        Returns:
            Jobs a second; None while none was scored in that time.
        """
        self._points.append((now_s, scored))
        while len(self._points) > 1 and now_s - self._points[0][0] > _WINDOW_S:
            self._points.popleft()
        first_s, first_scored = self._points[0]
        return (scored - first_scored) / (now_s - first_s) if scored > first_scored else None


async def follow(database: Database, batch: BatchRecord) -> AsyncIterator[Snapshot]:
    """Yield snapshots of a batch, twice a second, until the batch is over.

    Raises:
        DatabaseUnavailableError: The database was away for a minute.
    """
    rate = ScoringRate()
    last_answer_s = time.monotonic()
    while True:
        try:
            async with database.transaction() as conn:
                snapshot = await take_snapshot(conn, batch)
        except DatabaseUnavailableError as error:
            if time.monotonic() - last_answer_s > _DATABASE_AWAY_S:
                raise
            note(f"trying again: {error}")
        else:
            last_answer_s = time.monotonic()
            scored_per_s = rate.add(last_answer_s, snapshot.progress.scored)
            yield replace(snapshot, scored_per_s=scored_per_s)
            if snapshot.is_over:
                return
        await asyncio.sleep(_POLL_S)
