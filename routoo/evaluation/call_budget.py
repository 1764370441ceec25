"""Keeps calls within a budget, over all runs of a command that goes on where it stopped."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from routoo.domain.absence import Absence
from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.completion import Completion
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import bound_cost_usd
from routoo.errors import BudgetExhaustedError, EndpointError
from routoo.ports import ChatClient, Permit


class BudgetedClient:
    """Implements `routoo.ports.ChatClient`: another client's calls within a budget.

    What was spent and what the calls in flight may cost at worst never exceed the limit together.
    Only an endpoint that bills more than a call's bound can break it, by the excess of the calls
    that are in flight when that is first seen.

    Args:
        client: Makes the calls.
        limit_usd: Most that they may cost together, in USD; None for no limit.
        spending: Keeps what is spent for runs that go on later: the limit is of all of them.

    Attributes:
        spent_usd: What the calls so far cost; one that may have been billed counts at its worst.
    """

    def __init__(
        self,
        client: ChatClient,
        limit_usd: Decimal | None,
        spending: "SpendingLog | None" = None,
    ) -> None:
        self._client, self._limit_usd, self._spending = client, limit_usd, spending
        self._reserved_usd = Decimal(0)
        self.spent_usd = Decimal(0) if spending is None else spending.spent_usd
        self._settled = asyncio.Condition()

    @property
    def behaviour(self) -> KnownBehaviour:
        """What is known of endpoints beside their pools."""
        return self._client.behaviour

    def admit(
        self, model: CandidateModel, tokens: int, *, retry: bool = False
    ) -> AbstractAsyncContextManager[Permit]:
        """Wait until an endpoint of the model admits a call, and hold the permit to make it."""
        return self._client.admit(model, tokens, retry=retry)

    def absence(self, model: CandidateModel) -> Absence | None:
        """Return why all endpoints of a model take no calls for now; None where one works."""
        return self._client.absence(model)

    def queue_s(self, model: CandidateModel) -> float:
        """Return how long a call that comes now waits for limits per minute, in seconds."""
        return self._client.queue_s(model)

    async def look_again(self) -> None:
        """Find out whether endpoints that denied every request still do."""
        await self._client.look_again()

    async def complete(
        self, model: CandidateModel, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Completion:
        """Make one call once its worst case fits what is left.

        Raises:
            BudgetExhaustedError: It does not, whatever the calls in flight come to.
            EndpointError: The call failed.
        """
        worst_usd = bound_cost_usd(body, self.behaviour.apply(model))
        await self._reserve(model, worst_usd)
        number = 0 if self._spending is None else self._spending.reserve(worst_usd)
        cost_usd = worst_usd
        try:
            completion = await self._client.complete(model, body, timeout_s=timeout_s)
            cost_usd = completion.usage.cost_usd(model)
        except EndpointError as error:
            cost_usd = worst_usd if error.maybe_billed else Decimal(0)
            raise
        finally:
            if self._spending is not None:
                self._spending.settle(number, cost_usd)
            await asyncio.shield(self._settle(worst_usd, cost_usd))
        return completion

    async def _reserve(self, model: CandidateModel, worst_usd: Decimal) -> None:
        async with self._settled:
            while self._limit_usd is not None:
                if self.spent_usd + worst_usd > self._limit_usd:
                    raise BudgetExhaustedError(
                        f"the budget does not cover a call to {model.name}: it costs "
                        f"${worst_usd:f} at worst, and ${self.spent_usd:f} of "
                        f"${self._limit_usd:f} are spent",
                        remedy="Raise --budget-usd, or lower --max-tokens",
                    )
                if self.spent_usd + self._reserved_usd + worst_usd <= self._limit_usd:
                    break
                await self._settled.wait()
            self._reserved_usd += worst_usd

    async def _settle(self, worst_usd: Decimal, cost_usd: Decimal) -> None:
        async with self._settled:
            self._reserved_usd -= worst_usd
            self.spent_usd += cost_usd
            self._settled.notify_all()


class SpendingLog:
    """Keeps what calls may cost before they are sent, and what they cost, in a JSONL file.

    A call that was in flight when its process was killed may have been billed: it counts at its
    worst.

    Args:
        path: The file; created where there is none. Its user keeps others from writing to it.

    Attributes:
        spent_usd: What the calls of earlier runs cost.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        costs: dict[int, Decimal] = {}
        kept = 0
        for line in self._file:
            try:
                row = orjson.loads(line)
                costs[int(row["call"])] = Decimal(row["usd"])
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                break  # the last write was cut off by a crash
            kept += len(line)
        self._file.truncate(kept)
        self._calls = max(costs, default=0)
        self.spent_usd = sum(costs.values(), Decimal(0))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def reserve(self, worst_usd: Decimal) -> int:
        """Note what a call may cost at worst, and return its number."""
        self._calls += 1
        self.settle(self._calls, worst_usd)
        return self._calls

    def settle(self, call: int, cost_usd: Decimal) -> None:
        """Note what a call cost."""
        self._file.write(orjson.dumps({"call": call, "usd": str(cost_usd)}) + b"\n")
        self._file.flush()
