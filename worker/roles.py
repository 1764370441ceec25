"""Defines the three kinds of worker process, and the queues each consumes."""

from enum import StrEnum
from typing import TYPE_CHECKING

from routoo.domain.job import Stage
from routoo.task_queue import CONTROL_QUEUE

if TYPE_CHECKING:
    from routoo.settings import Settings


class Role(StrEnum):
    """What a worker process does."""

    SCORER = "scorer"
    """Predicts quality and tokens; the only one that loads a model."""
    DISPATCHER = "dispatcher"
    """Selects, and calls the endpoints."""
    BEAT = "beat"
    """Runs the periodic tasks: recovery, re-planning, schedules."""


_SLOW_PER_THREAD = 4
_CONNECTIONS_PER_TASK = 3
"""Two for the stage's writes, one for its lease; shards that are urgent share them."""
_CONNECTIONS_PER_PROCESS = 2
"""One for the endpoints' accounts, one to spare."""
_QUEUES = {
    Role.SCORER: (Stage.SCORE.value,),
    Role.DISPATCHER: (Stage.SELECT.value, Stage.DISPATCH.value),
    Role.BEAT: (CONTROL_QUEUE,),
}


def queues(role: Role) -> tuple[str, ...]:
    """Return the queues a role consumes."""
    return _QUEUES[role]


def concurrency(role: Role, settings: "Settings") -> int:
    """Return how many tasks a process of this role works on at once.

    One for a scorer: the predictor uses all cores, or the device, by itself.
    """
    return settings.dispatch_threads if role is Role.DISPATCHER else 1


def connections(role: Role, settings: "Settings") -> int:
    """Return how many database connections a process of this role opens at most."""
    return concurrency(role, settings) * _CONNECTIONS_PER_TASK + _CONNECTIONS_PER_PROCESS


def slow_shards(settings: "Settings") -> int:
    """Return how many slow dispatch shards a dispatcher works on beside its threads."""
    return settings.dispatch_threads * _SLOW_PER_THREAD
