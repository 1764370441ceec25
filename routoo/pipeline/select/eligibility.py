"""Which models a job's lists and its request's needs leave, before any number is looked at."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
from jaxtyping import Bool, Int

from routoo.domain.job import Job
from routoo.domain.pool import CandidateModel, Pool
from routoo.domain.prompt import required_capabilities


def usable(jobs: Sequence[Job], pool: Pool) -> Bool[np.ndarray, "jobs models"]:
    """Return the pairs that the request's own `model` and the job's lists of models admit."""
    admitted = np.ones((len(jobs), len(pool.models)), np.bool_)
    for row, job in enumerate(jobs):
        pin, sla = job.body.get("model"), job.sla
        if pin is not None:
            admitted[row] &= [name == pin for name in pool.names]
        if sla.allowed_models is not None:
            admitted[row] &= [name in sla.allowed_models for name in pool.names]
        if sla.denied_models is not None:
            admitted[row] &= [name not in sla.denied_models for name in pool.names]
    return admitted


def capable(
    jobs: Sequence[Job], images: Int[np.ndarray, " jobs"], pool: Pool
) -> Bool[np.ndarray, "jobs models"]:
    """Return the pairs whose model can do what the request needs, or does not say what it can.

    Args:
        jobs: The jobs.
        images: How many each shows; a model that has no rule to price them takes none.
        pool: The candidate models.
    """
    takes_images = np.array([model.image_prompt_tokens is not None for model in pool.models])
    able = np.asarray((images == 0)[:, None] | takes_images)
    for row, job in enumerate(jobs):
        needed = required_capabilities(job.body)
        if needed:
            able[row] &= [
                model.capabilities is None or needed <= model.capabilities for model in pool.models
            ]
    return able


def in_time(
    jobs: Sequence[Job], pool: Pool, now: datetime
) -> Bool[np.ndarray, "jobs models"] | None:
    """Return the pairs that are no batch channel, or one whose window the job can wait for.

    Args:
        jobs: The jobs.
        pool: The candidate models.
        now: The present instant.

    Returns:
        None where the pool has no batch channel.
    """
    channels = [column for column, model in enumerate(pool.models) if model.is_batch_channel]
    if not channels:
        return None
    waits = np.ones((len(jobs), len(pool.models)), np.bool_)
    for row, job in enumerate(jobs):
        for column in channels:
            waits[row, column] = can_wait(job, pool.models[column], now)
    return waits


def can_wait(job: Job, model: CandidateModel, now: datetime) -> bool:
    """Return whether a job's limits leave a model's batch channel its whole window."""
    if model.batch_channel is None:
        return True
    window = timedelta(hours=model.batch_channel.window_h)
    latency_s, deadline = job.sla.max_latency_s, job.sla.deadline
    return (latency_s is None or latency_s >= window.total_seconds()) and (
        deadline is None or now + window <= deadline
    )
