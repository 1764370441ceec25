"""The line of the jobs of a shard whose call the money that is left does not cover now."""

import asyncio
from collections import defaultdict


class MoneyQueue:
    """Lets one job of each model try again at a time, in the order in which they came.

    Calls in flight free money as they end. If every waiting job asked for it again and again, the
    ledger would have work to do for all of them; so only the first in line does, and the others
    wait behind it, without a slot of an endpoint.
    """

    def __init__(self) -> None:
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._first: dict[int, str] = {}

    async def wait(self, job_no: int, model: str) -> bool:
        """Wait until a job is the first in its model's line.

        Returns:
            Whether it was already: then its last try failed, and money has to come back first.
        """
        if self._first.get(job_no) == model:
            return True
        self.leave(job_no)
        await self._turns[model].acquire()
        self._first[job_no] = model
        return False

    def leave(self, job_no: int) -> None:
        """Let the next job in line try, if this one was the first."""
        model = self._first.pop(job_no, None)
        if model is not None:
            self._turns[model].release()
