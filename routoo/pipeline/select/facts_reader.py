"""Reads what is known of a batch's requests: as scorers left it, else from the requests."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self
from uuid import UUID

import numpy as np
from jaxtyping import Int, Int32
from psycopg import AsyncConnection

from routoo.domain.job import Job
from routoo.pipeline.request_facts import FORMAT, RequestDigests, RequestFacts, unpack
from routoo.store import jobs, request_facts

_JOBS_PER_READ = 5000
"""Number of jobs whose request bodies are in memory at once."""
_FACTS_PER_READ = 20_000
"""Number of jobs whose facts are."""


@dataclass(frozen=True, slots=True)
class FoundFacts:
    """What is known of some jobs' requests."""

    requests: RequestFacts
    digests: RequestDigests | None
    """None where they are not needed."""

    @classmethod
    def of(cls, some: Sequence[Job], reads_options: bool, has_digests: bool) -> Self:  # noqa: FBT001
        """Take it from the requests."""
        requests = RequestFacts.of(some, reads_options=reads_options)
        return cls(requests, RequestDigests.of(some) if has_digests else None)


@dataclass(frozen=True, slots=True)
class FactsReader:
    """Reads the facts of a batch's requests, slice by slice."""

    conn: AsyncConnection
    batch_id: UUID
    reads_options: bool
    """Whether it must be known which prompts offer options."""
    has_digests: bool
    """Whether digests are needed."""

    async def read(self, numbers: Int32[np.ndarray, " jobs"]) -> AsyncIterator[FoundFacts]:
        """Yield the facts of some jobs, slice by slice.

        Args:
            numbers: Of the jobs, ascending.
        """
        kept = await request_facts.list_slices(self.conn, self.batch_id, FORMAT)
        # One more, before all jobs, so that each job comes after some slice.
        starts = np.array([-1, *(one.start for one in kept)])
        ends = np.array([-1, *(one.stop for one in kept)])
        slice_ = np.searchsorted(starts, numbers, side="right") - 1
        is_kept = numbers < ends[slice_]
        borders = [0, *(np.flatnonzero(np.diff(is_kept)) + 1).tolist(), len(numbers)]
        for first, end in pairwise(borders):
            for low in range(first, end, _FACTS_PER_READ):
                rows = slice(low, min(low + _FACTS_PER_READ, end))
                found = None
                if is_kept[low]:
                    found = await self._kept(starts[np.unique(slice_[rows])], numbers[rows])
                if found is not None:
                    yield found
                    continue
                for one in range(rows.start, rows.stop, _JOBS_PER_READ):
                    some = numbers[one : min(one + _JOBS_PER_READ, rows.stop)]
                    yield await self._from_requests(some.tolist())

    async def _kept(
        self, first_jobs: Int[np.ndarray, " slices"], numbers: Int32[np.ndarray, " some"]
    ) -> FoundFacts | None:
        """Return what scorers left of some jobs; None where any of it can't be used."""
        stored = await request_facts.load(
            self.conn, self.batch_id, first_jobs.tolist(), digests=self.has_digests
        )
        requests, digests = list[RequestFacts](), list[RequestDigests]()
        for one in stored:
            unpacked = unpack(one)
            if unpacked is None or (self.reads_options and unpacked[0].open_prompt is None):
                return None
            low, high = np.searchsorted(numbers, [one.first_job, one.first_job + one.job_count])
            rows = numbers[low:high] - one.first_job
            requests.append(unpacked[0].rows(rows))
            if unpacked[1] is not None:
                digests.append(unpacked[1].rows(rows))
        if sum(map(len, requests)) != len(numbers):
            return None
        found = RequestDigests.joined(digests) if self.has_digests else None
        return FoundFacts(RequestFacts.joined(requests), found)

    async def _from_requests(self, numbers: Sequence[int]) -> FoundFacts:
        first, count = numbers[0], len(numbers)
        if numbers[-1] - first + 1 == count:
            some = await jobs.load_slice(self.conn, self.batch_id, first, count)
        else:
            some = await jobs.load_some(self.conn, self.batch_id, numbers)
        return FoundFacts.of(some, self.reads_options, self.has_digests)
