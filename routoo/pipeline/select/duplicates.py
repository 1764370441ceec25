"""Finds the duplicates of a batch: jobs with the same request and the same limits."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from jaxtyping import Float32, Int32

from routoo.domain.job import Job
from routoo.domain.prompt import choice_count, is_repeatable
from routoo.selector.solution import Solution

_HALVES = np.dtype([("high", "<u8"), ("low", "<u8")])
"""Two halves of a digest of 128 bits: a billion different requests have no two alike by chance."""


class RequestDigests:
    """Digests of all jobs of a batch, filled in slice by slice.

    Args:
        jobs: Number of jobs.
        merge_samples: Requests whose answers are random, or that ask for several, are identical
            too. Otherwise each of them is like no other.
    """

    def __init__(self, jobs: int, *, merge_samples: bool) -> None:
        self._found, self._merge_samples = np.zeros(jobs, _HALVES), merge_samples

    def fill(self, rows: slice, slice_: Sequence[Job]) -> None:
        """Set the digests of the jobs in some rows."""
        self._found[rows] = np.frombuffer(b"".join(map(self._digest, slice_)), _HALVES)

    def duplicates(self) -> "Duplicates":
        """Return which jobs are identical."""
        _, first, group = np.unique(self._found, return_index=True, return_inverse=True)
        return Duplicates(first[group].astype(np.int32))

    def _digest(self, job: Job) -> bytes:
        # The limits count: an answer that is in time for one job may be late for another.
        asked = orjson.dumps(job.body, option=orjson.OPT_SORT_KEYS) + repr(job.sla).encode()
        if not self._merge_samples and _is_sample(job.body):
            asked += b"#%d" % job.job_no
        return hashlib.blake2b(asked, digest_size=_HALVES.itemsize).digest()


def _is_sample(body: Mapping[str, Any]) -> bool:
    return not is_repeatable(body) or choice_count(body) > 1


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Which jobs have the same request and the same limits."""

    original: Int32[np.ndarray, " jobs"]
    """Number of each job's original; an original's own number."""

    @property
    def weight(self) -> Float32[np.ndarray, " jobs"]:
        """Number of jobs that a job's answer serves; 0 for a duplicate."""
        return np.bincount(self.original, minlength=len(self.original)).astype(np.float32)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield the number of each duplicate with its original's."""
        for job_no in np.flatnonzero(self.original != np.arange(len(self.original))).tolist():
            yield job_no, int(self.original[job_no])

    def spread(self, solution: Solution) -> Solution:
        """Return a solution in which each duplicate has the model of its original, or none."""
        choice = solution.choice[self.original]
        left = int(np.count_nonzero(choice < 0) - np.count_nonzero(solution.choice < 0))
        return replace(solution, choice=choice, unaffordable=solution.unaffordable + left)
