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
