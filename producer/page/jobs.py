"""Shows jobs: a list, and one with why it got its model and what became of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from producer.page.batches import load_batch
from producer.page.charts import bar
from producer.page.rendering import Visit
from producer.screen.explanation import (
    candidate_facts,
    explanation_sentences,
    judged_sentences,
)
from routoo.domain.job import Job
from routoo.errors import InputError, NotFoundError
from routoo.pipeline.explanation import JobExplanation, explain_job
from routoo.store import jobs, predictions
from routoo.store.batches import BatchRecord
from routoo.store.database import Database
from routoo.store.job_history import JobHistory, list_jobs, load_job_history

PAGE_LINES = 50
EXPLAINED_AT_ONCE = 20_000
"""Jobs of a batch up to which a job is explained without being asked to: all of them are read."""
_SHOWN = ("all", "unanswered", "deviated")


async def jobs_page(visit: Visit, batch_id: UUID) -> dict[str, Any]:
    """Return what the list of a batch's jobs shows, as the page's address asks."""
    batch = await load_batch(visit, batch_id)
    asked = visit.request.query_params
    show = asked.get("show", "all") if asked.get("show") in _SHOWN else "all"
    first = int(asked["from"]) if asked.get("from", "").isdecimal() else 0
    cause = asked.get("cause") or None
    async with visit.gateway.database.transaction() as conn:
        only, least = cause if show == "unanswered" else None, min(first, 2**31 - 1)
        lines = await list_jobs(
            conn, batch_id, show=show, cause=only, first=least, limit=PAGE_LINES + 1
        )
    return {
        "batch": batch,
        "lines": lines[:PAGE_LINES],
        "next": lines[PAGE_LINES].job_no if len(lines) > PAGE_LINES else None,
        "first": first,
        "show": show,
        "shown": _SHOWN,
        "cause": cause,
    }


@dataclass(frozen=True, slots=True)
class JobView:
    """One job with what is known of it."""

    batch: BatchRecord
    job: Job
    history: JobHistory
    answer: str | None
    predicted: tuple[float, ...]
    """Expected quality of every model of the pool; empty before the job is scored."""
    explanation: JobExplanation | None

    @property
    def messages(self) -> Iterator[tuple[str, str]]:
        """Who says what in the request."""
        for message in self.job.body.get("messages") or []:
            content = message.get("content") if isinstance(message, dict) else message
            role = message.get("role", "") if isinstance(message, dict) else ""
            yield str(role), _text_of(content)

    @property
    def options(self) -> dict[str, Any]:
        """What else the request asks for."""
        return {name: value for name, value in self.job.body.items() if name != "messages"}

    @property
    def planned_model(self) -> str | None:
        """The model of the latest plan; None before there is one."""
        return self.history.decisions[-1].model if self.history.decisions else None

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Every model and probe that could answer, the chosen one first."""
        if self.explanation is None:
            names = self.batch.pool.names
            pairs = sorted(zip(self.predicted, names, strict=False), reverse=True)
            return [_predicted(name, quality, self.planned_model) for quality, name in pairs]
        found = candidate_facts(self.explanation)
        return [
            one | {"drawn": _quality_bar(one["quality"])}
            for one in sorted(found, key=lambda one: (one["standing"] != "chosen", one["regret"]))
        ]

    @property
    def sentences(self) -> list[str]:
        """Why the model was chosen, and what would change that."""
        if self.explanation is None:
            return []
        told = len(self.history.decisions) + len(self.history.calls) + len(self.history.judgements)
        return list(explanation_sentences(self.batch, self.explanation))[: -(told + 1)]

    @property
    def judgements(self) -> list[str]:
        """What was decided about its answers, a sentence each."""
        return list(judged_sentences(self.history))


def _predicted(name: str, quality: float, chosen: str | None) -> dict[str, Any]:
    standing = "chosen" if name == chosen else ""
    return {
        "model": name,
        "quality": quality,
        "quality_std": None,
        "cost_usd": None,
        "latency_s": None,
        "regret": None,
        "standing": standing,
        "reasons": [],
        "drawn": _quality_bar(quality),
    }


def _quality_bar(quality: float) -> str:
    return bar([(quality, "fill")], f"expected quality {quality:.1%}")


def _text_of(content: object) -> str:
    """Return the text of a message, other parts of it by their kind."""
    if not isinstance(content, list):
        return "" if content is None else str(content)
    parts = [part if isinstance(part, dict) else {"text": str(part)} for part in content]
    return "\n".join(str(part.get("text") or f"[{part.get('type')}]") for part in parts)


async def load_job(visit: Visit, batch_id: UUID, job_no: int) -> JobView:
    """Return a job, explained where its batch is small or the address asks for it.

    Raises:
        NotFoundError: There is no such batch or job.
    """
    batch = await load_batch(visit, batch_id)
    async with visit.gateway.database.transaction() as conn:
        found = await jobs.load_slice(conn, batch_id, min(job_no, 2**31 - 2), 1)
        if not found:
            raise NotFoundError("the batch has no such job", value=str(job_no))
        history = await load_job_history(conn, batch_id, job_no)
        cursor = await conn.execute(
            "SELECT answer FROM results WHERE batch_id = %s AND job_no = %s", [batch_id, job_no]
        )
        row = await cursor.fetchone()
        predicted = await predictions.load_quality(conn, batch_id, job_no)
    is_asked = batch.job_count <= EXPLAINED_AT_ONCE or "explain" in visit.request.query_params
    explained = await _explained(visit, batch, found[0].custom_id) if is_asked else None
    answer = row[0] if row else None
    return JobView(batch, found[0], history, answer, predicted, explained)


async def _explained(visit: Visit, batch: BatchRecord, custom_id: str) -> JobExplanation | None:
    """Return why a job got its model; None before it has one."""

    async def explain(database: Database) -> JobExplanation:
        async with database.transaction() as conn:
            return await explain_job(conn, batch, custom_id)

    try:
        return await visit.gateway.database.apart(explain)
    except InputError:
        return None
