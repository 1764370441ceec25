"""Predicts for single requests: those that come at the same time share a pass of the model."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from routoo.domain.prediction import Predictions
from routoo.pipeline.score import PredictorCache, ScoringCheckpoint

_MOST_AT_ONCE = 32
_CHECKED_EVERY_S = 5.0
"""How long a promotion of another checkpoint may take to be noticed, in seconds."""


class Predicted(NamedTuple):
    """What is expected of the models for one request."""

    predictions: Predictions
    """Of one job."""
    prompt_factors: Sequence[float]
    """Prompt tokens that each model bills for one that is estimated."""
    took_s: float
    """How long the predictor computed, in seconds, for all requests that shared the pass."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    prompt: str
    models: tuple[str, ...]
    turn: "asyncio.Future[Predicted]"


@dataclass(slots=True)
class LivePredictor:
    """Loads the checkpoint in use when it is first needed, and computes in a thread of its own."""

    checkpoints: PredictorCache
    _queue: deque[_Waiting] = field(default_factory=deque)
    _thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="predictor")
    )
    _working: "asyncio.Task[None] | None" = None
    _checkpoint: ScoringCheckpoint | None = None
    _checked_at_s: float = 0.0

    async def predict(self, prompt: str, models: Sequence[str]) -> Predicted:
        """Return the estimates for one prompt.

        Args:
            prompt: The request's text.
            models: Names of the models, as the checkpoint knows them.

        Raises:
            CheckpointError: The checkpoint can't be used, or doesn't know a model.
        """
        turn: asyncio.Future[Predicted] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(prompt, tuple(models), turn))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await turn

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while self._queue:
            waiting = self._take()
            try:
                found = await self._predict(waiting)
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                for one in waiting:
                    if not one.turn.done():
                        one.turn.set_exception(error)
                continue
            for one, predicted in zip(waiting, found, strict=True):
                if not one.turn.done():
                    one.turn.set_result(predicted)

    def _take(self) -> list[_Waiting]:
        """Remove the requests of one pass: those behind the first that name the same models."""
        models = self._queue[0].models
        taken = [self._queue.popleft()]
        while self._queue and self._queue[0].models == models and len(taken) < _MOST_AT_ONCE:
            taken.append(self._queue.popleft())
        return taken

    async def _predict(self, waiting: Sequence[_Waiting]) -> list[Predicted]:
        predictor = (await self._in_use()).predictor
        prompts, models = [one.prompt for one in waiting], waiting[0].models
        loop, begun_s = asyncio.get_running_loop(), time.perf_counter()
        found = await loop.run_in_executor(self._thread, predictor.predict, prompts, models)
        took_s = time.perf_counter() - begun_s
        factors = predictor.prompt_factors(models)
        return [Predicted(_row(found, row), factors, took_s) for row in range(len(waiting))]

    async def _in_use(self) -> ScoringCheckpoint:
        now_s = asyncio.get_running_loop().time()
        if self._checkpoint is None or now_s - self._checked_at_s > _CHECKED_EVERY_S:
            self._checkpoint = await self.checkpoints.current()
            self._checked_at_s = now_s
        return self._checkpoint


def _row(all_: Predictions, row: int) -> Predictions:
    one = slice(row, row + 1)
    return Predictions(
        all_.quality[one],
        all_.quality_std[one],
        all_.completion_tokens[one],
        all_.novelty[one],
        all_.truncated[one],
    )
