"""Finds the duplicates of a batch: jobs with the same request and the same limits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from jaxtyping import Float32, Int32

from routoo.pipeline.request_facts import RequestDigests
from routoo.selector.solution import Solution


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Which jobs have the same request and the same limits."""

    original: Int32[np.ndarray, " jobs"]
    """Number of each job's original; an original's own number."""

    @classmethod
    def of(cls, digests: RequestDigests, *, merge_samples: bool) -> Self:
        """Return which jobs are identical.

        Args:
            digests: Of all jobs of a batch.
            merge_samples: Requests whose answers are random, or that ask for several, are identical
                too. Otherwise each of them is like no other.
        """
        original = np.arange(len(digests.values), dtype=np.int32)
        alike = original if merge_samples else np.flatnonzero(~digests.is_sample)
        _, first, group = np.unique(digests.values[alike], return_index=True, return_inverse=True)
        original[alike] = alike[first[group]]
        return cls(original)

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
