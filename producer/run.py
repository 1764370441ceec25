"""Finds the batch of a file that is run again: the same file, name and options are one batch."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from psycopg import AsyncConnection

from producer.submit import BatchRequest
from routoo.console.formatting import describe_objective, usd
from routoo.domain.job import BatchStatus
from routoo.domain.pool import Pool
from routoo.errors import InputError
from routoo.files import files_sha256
from routoo.store import batches
from routoo.store.batches import BatchRecord

_HASH_LENGTH = 32
_OPTIONS_LENGTH = 16
_DEAD = frozenset({BatchStatus.FAILED, BatchStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class RunKey:
    """What makes runs one batch."""

    prefix: str
    """The same for every run of a file under a name."""
    options: str
    """The same for equal options."""

    @classmethod
    def of(
        cls, files: Iterable[Path], request: BatchRequest, options: Mapping[str, object]
    ) -> "RunKey":
        """Return the key of an input that is run with some options.

        Args:
            files: Those of the input; their content counts, wherever they are.
            request: The batch; its own key stands for the file where it has one.
            options: Everything that was asked for, as it was typed: a deadline of `2h` is the same
                in every run.

        Raises:
            InputError: The file can't be read.
        """
        named = request.idempotency_key or f"{files_sha256(files)} {request.name}"
        pool = _without_newer(request.pool.model_dump(mode="json"))
        asked = orjson.dumps([pool, options], default=str, option=orjson.OPT_SORT_KEYS)
        prefix = f"run:{hashlib.sha256(named.encode()).hexdigest()[:_HASH_LENGTH]}:"
        return cls(prefix, hashlib.sha256(asked).hexdigest()[:_OPTIONS_LENGTH])

    def text(self, earlier: int) -> str:
        """Return the idempotency key of a batch after so many with these options that are dead."""
        return f"{self.prefix}{self.options}:{earlier}"


_NEWER = {"cache_write": None, "prior": None, "format": "openai"}
"""Fields of a pool that came later, with what stands for their absence."""


def _without_newer(value: object) -> object:
    """Leave newer fields out where they say nothing: runs that began without them go on."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _NEWER or v != _NEWER[k]}
        return {k: _without_newer(v) for k, v in kept.items()}
    return [_without_newer(one) for one in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class EarlierRuns:
    """What was run before under a key."""

    batch: BatchRecord | None
    """The batch that this run goes on with; None where a new one is to be made."""
    idempotency_key: str
    """The key of the new one."""


async def find_earlier(conn: AsyncConnection, key: RunKey, request: BatchRequest) -> EarlierRuns:
    """Find the batch that a run goes on with.

    A plan that failed or was cancelled before it was submitted cost nothing: it is made anew. So is
    a plan whose options have changed.

    Args:
        conn: A transaction.
        key: The file, the name and the options.
        request: The batch that would be made.

    Raises:
        InputError: The same file was run and paid for under the same name with other options.
    """
    found = await batches.with_key_prefix(conn, key.prefix)
    own_prefix = f"{key.prefix}{key.options}:"
    own = [one for one in found if (one.idempotency_key or "").startswith(own_prefix)]
    alive = [one for one in own if not _is_dead_plan(one)]
    if not alive:
        _refuse_changes([one for one in found if one not in own], request)
    return EarlierRuns(alive[0] if alive else None, key.text(len(own)))


def _is_dead_plan(batch: BatchRecord) -> bool:
    return batch.submitted_at is None and batch.status in _DEAD


def _refuse_changes(others: list[BatchRecord], request: BatchRequest) -> None:
    """Refuse to pay twice for a file because an option was changed."""
    paid = next((one for one in others if one.submitted_at is not None), None)
    if paid is None:
        return
    raise InputError(
        f"this file was run before with other options ({'; '.join(changes(paid, request))}): "
        "nothing was started",
        where=f"batch {paid.id}",
        remedy="Give the options of that run to go on with it, or --name NEW for another batch; "
        f"`routoo-producer results {paid.id}` has its answers, `resume --budget-usd` raises its "
        "budget",
    )


def changes(before: BatchRecord, request: BatchRequest) -> list[str]:
    """Return in words what a request asks otherwise than a batch was asked; never empty."""
    pairs: list[tuple[str, Any, Any, Callable[[Any], str]]] = [
        ("budget", before.budget_usd, request.budget_usd, usd),
        ("aim", before.objective, request.objective, lambda aim: describe_objective(aim, None)),
        ("--min-quality", before.min_quality, request.sla.min_quality, str),
        ("--max-cost-usd", before.max_cost_usd, request.sla.max_cost_usd, usd),
    ]
    found = [
        f"{name}: {show(old)} then, {show(new)} now" for name, old, new, show in pairs if old != new
    ]
    found += _pool_changes(before.pool, request.pool)
    found += _call_changes(before, request)
    return found or ["limits of the rows, rules for answers, or how the rows are read"]


def _pool_changes(before: Pool, now: Pool) -> Iterator[str]:
    if before == now:
        return
    old, new = ({model.name: model for model in pool.models} for pool in (before, now))
    parts = {
        "new": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and new[name] != old[name]],
    }
    said = [f"{', '.join(names)} {what}" for what, names in parts.items() if names]
    yield f"pool: {', '.join(said) or 'another order of models'}"


def _call_changes(before: BatchRecord, request: BatchRequest) -> Iterator[str]:
    old, new = before.call_options.as_json(), request.call_options.as_json()
    for name, value in new.items():
        if old[name] != value:
            yield f"{name}: {old[name]} then, {value} now"
