"""Runs an asyncio event loop in a thread of its own, for other threads.

In a worker, tasks of Celery's thread pool give their coroutines to this loop and wait: a loop and a
session per task cost half the throughput. The Python client's calls do so too: it works where
another loop runs already.
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import uvloop

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads; a context manager."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for its result; never call it from the loop.

        Where the waiting is interrupted, as by Ctrl-C, the coroutine is cancelled.
        """
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return running.result()
        finally:
            running.cancel()

    def signal(self, event: asyncio.Event) -> None:
        """Set an event of the loop from another thread or a signal handler."""
        self._loop.call_soon_threadsafe(event.set)
