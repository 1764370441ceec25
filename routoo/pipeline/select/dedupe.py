"""Identical requests of a batch: one of them is called, the others share its answer."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import orjson
from jaxtyping import Float32, Int32

from routoo.domain.job import Job
from routoo.selector.solution import Solution

_HALVES = np.dtype([("high", "<u8"), ("low", "<u8")])
"""A digest of 128 bits: no two requests of a batch of a billion share one by chance."""


class Digests:
    """Collects a digest of each job, a slice at a time."""

    def __init__(self, jobs: int) -> None:
        self._found = np.zeros(jobs, _HALVES)

    def fill(self, rows: slice, slice_: Sequence[Job]) -> None:
        """Take the jobs of some rows."""
        self._found[rows] = np.frombuffer(b"".join(map(_digest, slice_)), _HALVES)

    def twins(self) -> "Twins":
        """Return which of the jobs are the same."""
        _, first, group = np.unique(self._found, return_index=True, return_inverse=True)
        return Twins(first[group].astype(np.int32))


def _digest(job: Job) -> bytes:
    # Limits belong to it: an answer that came in time for one may be late for another.
    asked = orjson.dumps(job.body, option=orjson.OPT_SORT_KEYS) + repr(job.sla).encode()
    return hashlib.blake2b(asked, digest_size=_HALVES.itemsize).digest()


@dataclass(frozen=True, slots=True)
class Twins:
    """Jobs that ask the same under the same limits: the first leads, the others follow."""

    leader: Int32[np.ndarray, " jobs"]
    """Number of the first job that asks the same; a job's own where it is the first."""

    @property
    def weight(self) -> Float32[np.ndarray, " jobs"]:
        """Jobs that a job's answer serves: 0 for a follower."""
        return np.bincount(self.leader, minlength=len(self.leader)).astype(np.float32)

    def followers(self) -> Iterator[tuple[int, int]]:
        """Yield each follower with its leader, by their numbers."""
        for job_no in np.flatnonzero(self.leader != np.arange(len(self.leader))).tolist():
            yield job_no, int(self.leader[job_no])

    def spread(self, solution: Solution) -> Solution:
        """Return a solution in which each follower has its leader's model, or none like it."""
        choice = solution.choice[self.leader]
        left = int(np.count_nonzero(choice < 0) - np.count_nonzero(solution.choice < 0))
        return replace(solution, choice=choice, unaffordable=solution.unaffordable + left)
