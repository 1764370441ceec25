"""Takes answers of a shard's jobs from the response cache, and chooses which ones to keep there."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from routoo.domain.answer_checks import find_fault_aside
from routoo.domain.batch_options import CallOptions
from routoo.domain.completion import Completion, DeviationReason, Result, ResultSource
from routoo.domain.job import Lease, PendingJob, ResultStatus
from routoo.domain.pool import CandidateModel, Pool
from routoo.domain.prompt import is_repeatable
from routoo.domain.validators import validators_of
from routoo.store import response_cache, results
from routoo.store.database import Database
from routoo.store.response_cache import CachedAnswer


@dataclass(frozen=True, slots=True)
class ShardCache:
    """The response cache as one shard of a batch uses it."""

    pool: Pool
    ttl_s: float
    """Maximum age of an answer, and how long new ones are kept, in seconds."""
    bodies: Mapping[int, dict[str, Any]]
    """Requests that may be cached, by job_no."""

    @classmethod
    def of(
        cls, pool: Pool, options: CallOptions, pending: Sequence[PendingJob]
    ) -> "ShardCache | None":
        """Return the cache of a shard's jobs; None where the batch uses none."""
        if options.cache_ttl_s is None:
            return None
        jobs = [one.job for one in pending]
        if not options.cache_all:
            jobs = [job for job in jobs if is_repeatable(job.body)]
        wanted = {job.job_no: job.body for job in jobs}
        return cls(pool, options.cache_ttl_s, wanted)

    def answers(self, ended: Sequence[Result]) -> list[CachedAnswer]:
        """Return the answers worth keeping: those that came with the endpoint's own usage."""
        kept = []
        for result in ended:
            body, completion = self.bodies.get(result.job_no), result.completion
            if body is None or completion is None or result.status is not ResultStatus.SUCCEEDED:
                continue
            if result.source is ResultSource.CALL and not completion.usage.estimated:
                model = self.pool.models[self.pool.index(str(result.model))]
                kept.append(CachedAnswer(key_of(model, body), model.name, completion))
        return kept


async def take_cached(
    db: Database, lease: Lease, cache: ShardCache | None, pending: list[PendingJob]
) -> list[PendingJob]:
    """Give jobs the answers that their chosen models gave to the same requests before.

    Returns:
        The jobs that have no result yet.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    if cache is None:
        return pending
    keys = {
        job.job.job_no: key_of(cache.pool.models[cache.pool.index(job.model)], job.job.body)
        for job in pending
        if job.job.job_no in cache.bodies and not job.probe  # that is judged
    }
    async with db.transaction() as conn:
        found = await response_cache.look_up(conn, list(set(keys.values())), cache.ttl_s)
    ended = {
        job.job.job_no: _result(job, answer)
        for job in pending
        if (answer := found.get(keys.get(job.job.job_no, b""))) and await _keeps_rules(job, answer)
    }
    if ended:
        async with db.transaction() as conn:
            await results.save(conn, lease, list(ended.values()))
    return [job for job in pending if job.job.job_no not in ended]


def _result(job: PendingJob, answer: Completion) -> Result:
    return Result(
        job.job.job_no,
        ResultStatus.SUCCEEDED,
        job.cost_usd,  # of earlier calls, if there were any
        job.attempts,
        job.model,
        answer,
        source=ResultSource.CACHE,
        reason=None if job.model == job.planned else DeviationReason.REPLAN,
    )


async def _keeps_rules(job: PendingJob, answer: Completion) -> bool:
    """Return whether an answer that was given to another job keeps the rules of this one."""
    rules = validators_of(job.job.body, job.job.sla.validators)
    return await find_fault_aside(rules, answer.answer, answer.finish_reason) is None


def key_of(model: CandidateModel, body: Mapping[str, Any]) -> bytes:
    """Return the digest of a request to a model: its endpoint, and everything that is sent."""
    asked = {
        "model": [model.name, model.endpoint.base_url, model.model_at_endpoint],
        "most_tokens": model.max_completion_tokens,
        "body": {k: value for k, value in model.with_parameters(body).items() if k != "model"},
    }
    return hashlib.blake2b(
        orjson.dumps(asked, option=orjson.OPT_SORT_KEYS), digest_size=32
    ).digest()
