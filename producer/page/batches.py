"""Shows batches: the list, and one with its stages, its money, its models and its failures."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from producer.page.charts import bar, frontier_legend, frontier_picture
from producer.page.rendering import Visit, about, ago, usd
from producer.progress import Snapshot, take_snapshot
from producer.screen.plan import plan_facts
from producer.screen.progress import plan_notes, wait_line, warnings
from routoo.console import formatting
from routoo.domain.job import BatchStatus
from routoo.errors import NotFoundError
from routoo.store import batches, budget
from routoo.store.batches import BatchRecord
from routoo.store.batches.overview import BatchFilter, BatchLine, list_lines

PAGE_LINES = 50
_GROUPS = {
    "all": None,
    "running": ["in_progress", "paused", "cancelling"],
    "plans": ["planning", "planned"],
    "completed": ["completed"],
    "failed": ["failed", "cancelled"],
}
"""Statuses by the word that the list is filtered by."""
_STATUS_KINDS = {
    BatchStatus.PLANNING: "live",
    BatchStatus.PLANNED: "",
    BatchStatus.IN_PROGRESS: "live",
    BatchStatus.PAUSED: "warn",
    BatchStatus.CANCELLING: "warn",
    BatchStatus.COMPLETED: "good",
    BatchStatus.FAILED: "bad",
    BatchStatus.CANCELLED: "",
}
_RECENT_S = 30.0


@dataclass(frozen=True, slots=True)
class ShownBatch:
    """A batch of the list, with what is derived of it."""

    batch: BatchLine
    now: datetime

    @property
    def kind(self) -> str:
        """Class of its status."""
        return _STATUS_KINDS[self.batch.status]

    @property
    def ended(self) -> int:
        """Jobs that ended."""
        return self.batch.answered + self.batch.unanswered

    @property
    def progress(self) -> str:
        """How far it is, drawn: scored while it is planned, answered from then on."""
        one, jobs = self.batch, max(self.batch.jobs, 1)
        parts = [(one.answered / jobs, "fill"), (one.unanswered / jobs, "fillbad")]
        label = f"{one.answered:,} of {one.jobs:,} answered, {one.unanswered:,} without an answer"
        if not self.ended and one.scored and one.status is BatchStatus.PLANNING:
            parts, label = [(one.scored / jobs, "fill2")], f"{one.scored:,} of {one.jobs:,} scored"
        return bar(parts, label)

    @property
    def finish(self) -> str:
        """When it ended, or when it may."""
        one = self.batch
        if one.completed_at is not None:
            took = one.completed_at - (one.submitted_at or one.created_at)
            return f"took {about(took.total_seconds())}"
        if one.status is BatchStatus.PLANNED:
            return "waits for you"
        if one.status is not BatchStatus.IN_PROGRESS:
            return "\N{EN DASH}"
        left_s = self._left_s()
        return "\N{EN DASH}" if left_s is None else f"about {about(left_s)} left"

    def _left_s(self) -> float | None:
        """Return the seconds left at the rate of late, or by the plan before the first answers."""
        one = self.batch
        if one.recent and one.since_first_s:
            return (one.jobs - self.ended) * min(_RECENT_S, one.since_first_s) / one.recent
        if one.planned_s is None or self.ended:
            return None
        end = (one.submitted_at or one.created_at) + timedelta(seconds=one.planned_s)
        left_s = (end - self.now).total_seconds()
        return left_s if left_s > 0 else None


async def list_page(visit: Visit) -> dict[str, Any]:
    """Return what the list of batches shows, as the page's address asks."""
    asked = visit.request.query_params
    group = asked.get("status", "all") if asked.get("status") in _GROUPS else "all"
    page = int(asked["page"]) if asked.get("page", "").isdecimal() else 1
    text = asked.get("q", "").strip()[:200]
    wanted = BatchFilter(_GROUPS[group], None, text or None, owner_of(visit))
    async with visit.gateway.database.transaction() as conn:
        found = await list_lines(conn, wanted, PAGE_LINES + 1, (min(page, 10_000) - 1) * PAGE_LINES)
    now = datetime.now(UTC)
    return {
        "lines": [ShownBatch(one, now) for one in found[:PAGE_LINES]],
        "has_more": len(found) > PAGE_LINES,
        "page": page,
        "group": group,
        "groups": list(_GROUPS),
        "text": text,
        "is_live": any(not one.status.is_over for one in found[:PAGE_LINES]),
    }


def owner_of(visit: Visit) -> UUID | None:
    """Return the key whose batches a person sees; None for all."""
    return None if visit.is_admin else visit.session.caller.key_id


async def load_batch(visit: Visit, batch_id: UUID) -> BatchRecord:
    """Return a batch that a person may see.

    Raises:
        NotFoundError: There is no such batch, or it belongs to another key.
    """
    async with visit.gateway.database.transaction() as conn:
        record = await batches.get(conn, batch_id)
        if not visit.is_admin and await budget.key_of(conn, batch_id) != owner_of(visit):
            raise NotFoundError("there is no such batch", value=str(batch_id))
    return record


async def load_view(visit: Visit, batch_id: UUID) -> "BatchView":
    """Return the batch that a person may see, as it is now."""
    record = await load_batch(visit, batch_id)
    async with visit.gateway.database.transaction() as conn:
        return BatchView(await take_snapshot(conn, record))


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One model of a batch: what was planned for it, and what it did."""

    name: str
    planned: int | None
    planned_share: float
    answered: int
    share: float
    calls: int
    cost_usd: Any
    absence: str | None
    """Why it takes no calls now."""

    @property
    def drawn(self) -> str:
        """Share of the answers, with a line at the planned one."""
        label = f"{self.share:.0%} of the answers, {self.planned_share:.0%} planned"
        mark = None if self.planned is None else self.planned_share
        return bar([(self.share, "fill")], label, mark)


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch at one moment, with what its page derives of it."""

    now: Snapshot

    @property
    def batch(self) -> BatchRecord:
        """The batch."""
        return self.now.batch

    @property
    def plan(self) -> dict[str, Any]:
        """What the selection expected; empty before it has run."""
        return self.batch.plan or {}

    @property
    def status_kind(self) -> str:
        """Class of its status."""
        return _STATUS_KINDS[self.now.progress.status]

    @property
    def is_plan(self) -> bool:
        """Whether nothing was called yet, and nothing will be before a person says so."""
        return self.now.progress.status in {BatchStatus.PLANNING, BatchStatus.PLANNED}

    @property
    def may(self) -> set[str]:
        """Actions that its status allows."""
        status, failed = self.now.progress.status, self.now.unsuccessful > 0
        allowed = {
            BatchStatus.PLANNING: {"cancel"},
            BatchStatus.PLANNED: {"cancel", "run", "plan"},
            BatchStatus.IN_PROGRESS: {"pause", "cancel", "budget"},
            BatchStatus.PAUSED: {"resume", "cancel", "budget"},
            BatchStatus.COMPLETED: {"plan"},
            BatchStatus.FAILED: {"cancel", "retry"},
            BatchStatus.CANCELLED: {"retry"},
        }.get(status, set())
        retries = status in {BatchStatus.IN_PROGRESS, BatchStatus.COMPLETED} and failed
        never_ran = self.batch.plan_only and self.batch.submitted_at is None
        allowed = allowed | ({"retry", "budget"} if retries else set())
        return allowed - ({"retry"} if never_ran else set())

    @property
    def stages(self) -> Iterator[tuple[str, str, str]]:
        """Each stage with its bar and its figures."""
        progress, jobs = self.now.progress, max(self.now.progress.jobs, 1)
        for name, done in (("Scored", progress.scored), ("Selected", self.now.selected)):
            label = f"{done:,} of {progress.jobs:,}"
            yield name, bar([(done / jobs, "fill2")], f"{name}: {label}"), label
        answered, without = self.now.succeeded, self.now.unsuccessful
        label = f"{answered:,} of {progress.jobs:,}"
        parts = [(answered / jobs, "fill"), (without / jobs, "fillbad")]
        drawn = bar(parts, f"Answered: {label}, {without:,} without an answer")
        if not self.is_plan:
            yield "Answered", drawn, label

    @property
    def pace(self) -> list[str]:
        """How fast it goes, and how long it takes."""
        now, facts = self.now, []
        if now.stage:
            facts.append(now.stage)
        if now.jobs_per_s is not None and not self.is_plan:
            facts.append(formatting.rate(now.jobs_per_s))
        if now.left_s is not None:
            facts.append(f"about {about(now.left_s)} left")
        if now.progress.at_providers:
            facts.append(f"{now.progress.at_providers:,} in providers' batches")
        if now.is_over or self.is_plan:
            return facts
        return [*facts, f"running for {about(now.elapsed_s)}"]

    @property
    def finish(self) -> str:
        """The tile of the finish time."""
        if self.batch.completed_at is not None:
            return about(self.now.elapsed_s)
        if self.is_plan:
            finish = self.plan.get("forecast", {}).get("finish")
            return "\N{EN DASH}" if finish is None else about(finish["p95_s"])
        return "\N{EN DASH}" if self.now.left_s is None else about(self.now.left_s)

    @property
    def finish_under(self) -> str:
        """What that tile says below."""
        if self.batch.completed_at is not None:
            return f"ended {ago(self.batch.completed_at)}"
        if self.is_plan:
            return "for 95 % of the answers, as planned"
        return "not known yet" if self.now.left_s is None else "left, at the rate of late"

    @property
    def money_bar(self) -> str:
        """Spent and set aside of the budget, or of what was expected, with a line at the plan."""
        balance, spent = self.now.progress.balance, float(self.now.spent_usd)
        expected = float(self.plan.get("expected_cost_usd") or 0.0)
        limit = float(balance.limit_usd or 0) or max(expected * 1.25, spent, 1e-9)
        parts = [(spent / limit, "fill"), (float(balance.reserved_usd) / limit, "fill2")]
        label = f"{usd(spent)} spent, {usd(expected)} planned, {usd(balance.limit_usd)} budget"
        return bar(parts, label, expected / limit if expected else None)

    @property
    def models(self) -> list[ModelLine]:
        """Every model of the pool, those first that answer most."""
        shares = {one.model: one for one in self.now.progress.models}
        planned = {one["model"]: one for one in self.plan.get("models", ())}
        lines = []
        for name in self.batch.pool.names:
            plan, done = planned.get(name), shares.get(name)
            absence = self.now.absences.get(name)
            lines.append(
                ModelLine(
                    name,
                    None if plan is None else plan["jobs"],
                    0.0 if plan is None else plan["share"],
                    done.results if done else 0,
                    done.results / self.now.succeeded if done and self.now.succeeded else 0.0,
                    done.attempts if done else 0,
                    done.cost_usd if done else None,
                    None if absence is None else str(absence.reason),
                )
            )
        return sorted(lines, key=lambda line: (-line.answered, -(line.planned or 0)))

    @property
    def alerts(self) -> list[tuple[str, str]]:
        """What needs a look: a class and a sentence each."""
        now, found = self.now, []
        if now.progress.error:
            found.append(("bad", now.progress.error))
        wait = wait_line(now)
        if wait is not None and now.wait is not None and not now.wait.is_served:
            found.append(("", f"This batch {wait}."))
        if now.budget_warning is not None:
            text = f"{now.budget_warning} % of the budget is used, and the open jobs may need more."
            found.append(("", text))
        return found + [("", text) for text in warnings(now)]

    @property
    def notes(self) -> list[str]:
        """What is worth knowing of the plan beside its figures."""
        return plan_notes(self.now)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the plan promises."""
        return list(plan_facts(self.batch, self.plan)) if self.plan else []

    @property
    def aim(self) -> str:
        """What it aims at."""
        limit_usd = self.now.progress.balance.limit_usd
        within = "" if limit_usd is None else f" within {usd(limit_usd)}"
        return f"{self.batch.objective.goal}{within}"

    @property
    def frontier(self) -> dict[str, Any] | None:
        """The chart of quality over dollars; None before there is a plan."""
        spent = None if self.is_plan else float(self.now.spent_usd)
        picture = frontier_picture(self.plan, spent)
        if picture is None:
            return None
        points = self.plan.get("forecast", {}).get("frontier") or []
        return {"svg": picture.svg, "legend": frontier_legend(self.plan), "points": points}

    def parts(self, visit: Visit) -> dict[str, str]:
        """Return the parts of the page that change while the batch runs, by name."""
        names = ("overview", "money", "models", "failures")
        return {name: visit.part(f"batch_{name}.html", view=self) for name in names}
