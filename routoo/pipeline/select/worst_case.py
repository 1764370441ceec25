"""The worst case of a plan: its cost if every answer is as long as its limit allows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float64, Int32

from routoo.domain.job import Job
from routoo.domain.pool import TOKENS_PER_MTOK, Pool
from routoo.domain.prompt import (
    bound_text_tokens,
    choice_count,
    image_count,
    requested_completion_tokens,
)


@dataclass(frozen=True, slots=True)
class CallBounds:
    """What bounds the tokens of each job's call, whichever model answers it."""

    text_tokens: Float64[np.ndarray, " jobs"]
    """Upper bound of the prompt tokens without images."""
    images: Float64[np.ndarray, " jobs"]
    choices: Float64[np.ndarray, " jobs"]
    """Number of answers that the request asks for."""
    limit_tokens: Float64[np.ndarray, " jobs"]
    """The request's own limit of tokens an answer; NaN where it has none."""

    @classmethod
    def empty(cls, jobs: int) -> Self:
        """Return bounds for a number of jobs, to be filled in."""
        return cls(*(np.zeros(jobs) for _ in range(4)))

    def fill(self, rows: slice, jobs: Sequence[Job]) -> None:
        """Set the bounds of the jobs in some rows."""
        bodies = [job.body for job in jobs]
        limits = [requested_completion_tokens(body) for body in bodies]
        self.text_tokens[rows] = [bound_text_tokens(body) for body in bodies]
        self.images[rows] = [image_count(body) for body in bodies]
        self.choices[rows] = [choice_count(body) for body in bodies]
        self.limit_tokens[rows] = [np.nan if limit is None else limit for limit in limits]

    def worst_case_usd(self, pool: Pool, choice: Int32[np.ndarray, " jobs"]) -> float:
        """Return the most that the calls of all served jobs can cost together, in USD.

        Args:
            pool: The candidate models.
            choice: Column of each job's model, -1 where it has none.
        """
        total = 0.0
        for column, model in enumerate(pool.models):
            rows = np.flatnonzero(choice == column)
            prompt = self.text_tokens[rows] + self.images[rows] * (model.image_prompt_tokens or 0)
            own = self.limit_tokens[rows]
            answer = np.where(np.isnan(own), model.max_completion_tokens, own) * self.choices[rows]
            price = model.price_usd_per_mtok
            total += float(prompt.sum()) * float(price.prompt)
            total += float(answer.sum()) * float(price.completion)
        return total / float(TOKENS_PER_MTOK)
