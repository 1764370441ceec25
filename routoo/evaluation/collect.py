"""Asks every candidate model every question, within a budget, for a predictor to learn from."""

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from routoo.client.failures import call_with_retries
from routoo.domain.items import Item
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import bound_cost_usd, estimate_prompt_tokens
from routoo.errors import BudgetExhaustedError, EndpointError
from routoo.evaluation.answer_log import AnswerLog, CollectedAnswer, request_sha256
from routoo.evaluation.call_budget import BudgetedClient
from routoo.judge.token_probabilities import token_probabilities_of
from routoo.ports import ChatClient

MAX_ATTEMPTS = 4
"""Calls for one answer before it counts as failed."""
GIVE_UP_AFTER = 10
"""After so many failures in a row a model is not asked any more."""
ROUND_ITEMS = 25
"""Items that all models are asked before the budget is looked at again."""


@dataclass(frozen=True, slots=True)
class RequestForm:
    """How an item becomes a request, the same for every model."""

    system: str | None = None
    """System message."""
    instruction: str | None = None
    """Put after the prompt, for example "Answer with the letter only."."""
    max_tokens: int | None = None
    """Limit of completion tokens for items that name none; the model's own where unset."""

    def body(self, item: Item) -> dict[str, Any]:
        """Return the chat request for an item, with temperature 0 so that runs can be compared."""
        parts = [item.prompt, *([self.instruction] if self.instruction else [])]
        messages = [{"role": "user", "content": "\n\n".join(parts)}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        body: dict[str, Any] = {"messages": messages, "temperature": 0}
        limit = item.max_tokens or self.max_tokens
        return body | ({"max_tokens": limit} if limit else {})


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that a model did not answer, and why."""

    item_id: str
    model: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """What calls will cost, before any is made; how long answers will be is not known."""

    calls: int
    prompts_usd: Decimal
    """Of their prompts alone, in USD."""
    worst_usd: Decimal
    """At worst: a token a byte of each request, and answers as long as their limits."""


@dataclass(slots=True)
class _Queue:
    """The items that one model is still to be asked, shared by the tasks that ask it."""

    model: CandidateModel
    items: Iterator[Item]
    failures: list[Failure] = field(default_factory=list)
    failed_in_a_row: int = 0

    @property
    def given_up(self) -> bool:
        return self.failed_in_a_row >= GIVE_UP_AFTER


class Collection:
    """Asks models items and logs their answers.

    Args:
        client: Makes the calls.
        log: Where answers are kept; items it already answers are not asked again.
        form: How items become requests.
        on_answer: Called with the model's name after each answer or failure.
    """

    def __init__(
        self,
        client: ChatClient,
        log: AnswerLog,
        form: RequestForm,
        *,
        on_answer: Callable[[str], None] = lambda _model: None,
    ) -> None:
        self._client, self._log, self._form = client, log, form
        self._on_answer = on_answer
        self._rng = random.SystemRandom()

    def estimate(self, items: Sequence[Item], models: Sequence[CandidateModel]) -> CallEstimate:
        """Return what the calls that are still to be made will cost."""
        calls, prompts_usd, worst_usd = 0, Decimal(0), Decimal(0)
        for model in models:
            for item in self._unanswered(items, model):
                body = self._form.body(item)
                calls += 1
                prompts_usd += model.cost_usd(estimate_prompt_tokens(body, model), 0)
                worst_usd += bound_cost_usd(body, model)
        return CallEstimate(calls, prompts_usd, worst_usd)

    def answered(self, item: Item, model: CandidateModel) -> CollectedAnswer | None:
        """Return the answer that the log holds, None where it holds none."""
        found = self._log.find(item.item_id, model.name, self._request(item, model))
        return found if found is not None and found.is_usable else None

    async def run(self, items: Sequence[Item], models: Sequence[CandidateModel]) -> list[Failure]:
        """Ask what is not answered yet, each endpoint at its own concurrency.

        Returns:
            What failed, after retries.

        Raises:
            ConfigError: An API key is missing.
        """
        queues = [_Queue(model, self._unanswered(items, model)) for model in models]
        async with asyncio.TaskGroup() as group:
            for queue in queues:
                slots = sum(one.max_concurrency for one in queue.model.all_endpoints)
                for _ in range(min(slots, len(items))):
                    group.create_task(self._work(queue))
        return [failure for queue in queues for failure in queue.failures]

    def _unanswered(self, items: Sequence[Item], model: CandidateModel) -> Iterator[Item]:
        return (item for item in items if self.answered(item, model) is None)

    async def _work(self, queue: _Queue) -> None:
        for item in queue.items:
            if queue.given_up:
                name = queue.model.name
                queue.failures.append(Failure(item.item_id, name, "given_up", "not asked"))
            else:
                await self._ask(queue, item)
            self._on_answer(queue.model.name)

    async def _ask(self, queue: _Queue, item: Item) -> None:
        model = queue.model
        try:
            completion = await call_with_retries(
                self._client,
                model,
                self._form.body(item),
                max_attempts=MAX_ATTEMPTS,
                sleep=asyncio.sleep,
                rng=self._rng,
            )
        except EndpointError as error:
            queue.failed_in_a_row += error.retryable
            queue.failures.append(Failure(item.item_id, model.name, error.code, str(error)))
            return
        queue.failed_in_a_row = 0
        usage = completion.usage
        summary = token_probabilities_of(item.prompt, completion.body)
        self._log.add(
            CollectedAnswer(
                item.item_id,
                model.name,
                self._request(item, model),
                completion.answer,
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.estimated,
                completion.latency_s,
                completion.finish_reason,
                None if summary is None else summary.figures(),
                usage.cached_prompt_tokens,
                usage.cache_write_tokens,
            )
        )

    def _request(self, item: Item, model: CandidateModel) -> str:
        limit: Mapping[str, Any] = {"limit": model.max_completion_tokens}
        if model.logprobs:
            limit = {**limit, "logprobs": True}
        return request_sha256({**limit, **self._form.body(item), "model": model.model_at_endpoint})


async def ask_evenly(
    collection: Collection,
    client: BudgetedClient,
    items: Sequence[Item],
    models: Sequence[CandidateModel],
    budget_usd: Decimal,
) -> list[Failure]:
    """Ask all models the same items, as many as the budget covers, a few at a time.

    Args:
        collection: Asks, through the client, and keeps answers.
        client: Knows what was spent.
        items: In the order in which they are asked.
        models: The pool's models.
        budget_usd: Most that the calls of all runs may cost together, in USD.

    Returns:
        What failed, after retries; what the budget did not cover is no failure.
    """
    failures: list[Failure] = []
    spent_before, asked, start = client.spent_usd, 0, 0
    while start < len(items):
        ahead = items[start : start + ROUND_ITEMS]
        if collection.estimate(ahead, models).calls:
            spent = client.spent_usd - spent_before
            mean_usd = spent / asked if asked else None
            count = _affordable(collection, ahead, models, budget_usd - client.spent_usd, mean_usd)
            if not count:
                break
            ahead = ahead[:count]
            asked += count
        failures += await collection.run(ahead, models)
        start += len(ahead)
        if any(failure.code == BudgetExhaustedError.code for failure in failures):
            break
    return [failure for failure in failures if failure.code != BudgetExhaustedError.code]


def _affordable(
    collection: Collection,
    items: Sequence[Item],
    models: Sequence[CandidateModel],
    left_usd: Decimal,
    mean_usd: Decimal | None,
) -> int:
    """Return how many items can be asked: at their mean cost so far, the last one at its worst."""
    worst_usd = max(collection.estimate([item], models).worst_usd for item in items)
    if left_usd < worst_usd:
        return 0
    if mean_usd is None:
        mean_usd = worst_usd
    more = int((left_usd - worst_usd) / mean_usd) if mean_usd else len(items)
    return min(len(items), 1 + more)


def asking_order(items: Sequence[Item]) -> list[Item]:
    """Return items in a fixed random order: whatever part is asked, it is a fair sample."""
    return sorted(items, key=lambda item: hashlib.sha256(item.item_id.encode()).hexdigest())
