"""The real `routoo-worker`, which ends itself at a crash point if the environment names one.

With `CHAOS_SCORING=guess` a scorer loads no checkpoint and expects the same of each prompt. With
`CHAOS_POISON=WORD` a prompt that holds the word ends the process that scores it (`score WORD`) or
calls a model for it (`dispatch WORD`) with SIGKILL, as the kernel does when memory runs out.
"""

import os
import signal
from collections.abc import Sequence
from typing import Any

import worker.runtime
from routoo.client.endpoints import ChatEndpoints
from routoo.domain.prediction import Predictions
from routoo.pipeline.score import ScoringCheckpoint
from tests.chaos.crash_points import install_from_environment
from tests.chaos.lone_worker import Guess
from worker.cli import main


class PoisonedGuess(Guess):
    """Guesses; a prompt that holds a word ends the process."""

    def __init__(self, word: str) -> None:
        self._word = word

    def predict(self, prompts: Sequence[str], models: Sequence[str]) -> Predictions:
        if any(self._word in prompt for prompt in prompts):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(prompts, models)


class GuessingCache:
    """Stands for the cache of predictors."""

    def __init__(self, *_: object, **__: object) -> None:
        """Load nothing."""

    async def warm_up(self) -> None:
        """Load nothing."""

    async def of(self, _batch: Any) -> ScoringCheckpoint:
        """Return the same for every batch."""
        stage, word = _poison()
        return ScoringCheckpoint("", PoisonedGuess(word) if stage == "score" else Guess())


def _poison() -> tuple[str, str]:
    stage, _, word = os.environ.get("CHAOS_POISON", "").partition(" ")
    return stage, word


def _poison_calls(word: str) -> None:
    complete = ChatEndpoints.complete

    async def poisoned(endpoints: ChatEndpoints, model: Any, body: Any, **options: Any) -> Any:
        if word in str(body):
            os.kill(os.getpid(), signal.SIGKILL)
        return await complete(endpoints, model, body, **options)

    ChatEndpoints.complete = poisoned  # type: ignore[method-assign]


if __name__ == "__main__":
    install_from_environment()
    if os.environ.get("CHAOS_SCORING") == "guess":
        worker.runtime.PredictorCache = GuessingCache  # type: ignore[misc,assignment]
    if _poison()[0] == "dispatch":
        _poison_calls(_poison()[1])
    main()
