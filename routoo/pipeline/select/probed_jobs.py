"""Jobs that ask a probe first, and what is expected of their calls."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64


@dataclass(frozen=True, slots=True)
class ProbedJobs:
    """Jobs that ask a probe first, and what is expected of them."""

    jobs: Int64[np.ndarray, " probed"]
    quality: Float32[np.ndarray, " probed"]
    """Expected quality of the answer that is kept."""
    cost_usd: Float64[np.ndarray, " probed"]
    """Expected cost of both calls, in USD."""
    second: Float32[np.ndarray, "probed models"]
    """Probability that each model is asked next after the probe."""
    compared: Float32[np.ndarray, "probed models"]
    """The part of it where its answer is compared with the probe's."""
    third: Float32[np.ndarray, "probed models"]
    """Probability that each model is asked after such a comparison."""

    @property
    def later(self) -> Float32[np.ndarray, "probed models"]:
        """Expected calls of each model after the probe's."""
        return np.asarray(self.second + self.third)

    @property
    def escalation_chance(self) -> Float64[np.ndarray, " probed"]:
        """Probability that any is."""
        return np.asarray(np.clip(self.second.sum(axis=1, dtype=np.float64), 0.0, 1.0))

    def some(self, keep: Bool[np.ndarray, " probed"]) -> "ProbedJobs":
        """Return those that are to be kept."""
        return ProbedJobs(
            self.jobs[keep],
            self.quality[keep],
            self.cost_usd[keep],
            self.second[keep],
            self.compared[keep],
            self.third[keep],
        )


def no_probed_jobs(models: int) -> ProbedJobs:
    """Return the record of a choice without probes."""
    none, calls = np.empty(0), np.empty((0, models), np.float32)
    return ProbedJobs(
        none.astype(np.int64), none.astype(np.float32), none, calls, calls.copy(), calls.copy()
    )


def joined(parts: Sequence[ProbedJobs], models: int) -> ProbedJobs:
    """Return several records as one, jobs in order."""
    parts = [part for part in parts if len(part.jobs)]
    if not parts:
        return no_probed_jobs(models)
    jobs = np.concatenate([part.jobs for part in parts])
    order = np.argsort(jobs, kind="stable")
    return ProbedJobs(
        jobs[order],
        np.concatenate([part.quality for part in parts])[order],
        np.concatenate([part.cost_usd for part in parts])[order],
        np.concatenate([part.second for part in parts])[order],
        np.concatenate([part.compared for part in parts])[order],
        np.concatenate([part.third for part in parts])[order],
    )
