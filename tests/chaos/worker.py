"""The real `routoo-worker`, which ends itself at a crash point if the environment names one.

With `CHAOS_SCORING=guess` a scorer loads no checkpoint and expects the same of each prompt.
"""

import os
from typing import Any

import worker.runtime
from routoo.pipeline.score import ScoringCheckpoint
from tests.chaos.crash_points import install_from_environment
from tests.chaos.lone_worker import Guess
from worker.cli import main


class GuessingCache:
    """Stands for the cache of predictors."""

    def __init__(self, *_: object) -> None:
        """Load nothing."""

    async def warm_up(self) -> None:
        """Load nothing."""

    async def of(self, _batch: Any) -> ScoringCheckpoint:
        """Return the same for every batch."""
        return ScoringCheckpoint("", Guess())


if __name__ == "__main__":
    install_from_environment()
    if os.environ.get("CHAOS_SCORING") == "guess":
        worker.runtime.PredictorCache = GuessingCache  # type: ignore[misc,assignment]
    main()
