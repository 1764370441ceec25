"""Keeps the calls of one process within a budget: worst cases are reserved before they are sent."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from typing import Any

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

    Attributes:
        spent_usd: What the calls so far cost; one that may have been billed counts at its worst.
    """

    def __init__(self, client: ChatClient, limit_usd: Decimal | None) -> None:
        self._client, self._limit_usd = client, limit_usd
        self._reserved_usd = self.spent_usd = Decimal(0)
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

    def outage_s(self, model: CandidateModel) -> float:
        """Return how long all endpoints of a model have kept failing, in seconds."""
        return self._client.outage_s(model)

    def absence(self, model: CandidateModel) -> Absence | None:
        """Return why all endpoints of a model take no calls for now; None where one works."""
        return self._client.absence(model)

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
        cost_usd = worst_usd
        try:
            completion = await self._client.complete(model, body, timeout_s=timeout_s)
            usage = completion.usage
            cost_usd = model.cost_usd(
                usage.prompt_tokens, usage.completion_tokens, usage.cached_prompt_tokens
            )
        except EndpointError as error:
            cost_usd = worst_usd if error.maybe_billed else Decimal(0)
            raise
        finally:
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
