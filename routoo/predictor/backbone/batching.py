"""Micro-batches: how token sequences are packed, moved to the device, and their results back.

A GPU works off a queue. As long as the next batch is in it before the last one is done, it never
idles: so batches are padded into pinned memory, which it can fetch by itself, and a result is only
waited for when a few later batches are queued behind it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

Tokens = Sequence[Sequence[int]]
"""The tokens of each prompt of a batch."""
Padded = tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]
"""Token ids and a mask: 1 where there is a token, 0 for padding at the end."""
PendingResult = Callable[[], Float32[np.ndarray, "batch features"]]
"""Waits until a result is here, and returns it."""


def micro_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Pack sequences of similar length into batches of at most `token_budget` padded tokens.

    Args:
        lengths: Tokens of each sequence.
        token_budget: Most tokens of a batch, padding included; a longer sequence goes alone.

    Yields:
        Positions of the sequences of one batch, longest last.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batch: list[int] = []
    for position in order:
        if batch and lengths[position] * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


@runtime_checkable
class Transfer(Protocol):
    """Moves batches to a device and results back."""

    @property
    def in_flight(self) -> int:
        """Batches that may be queued behind the one whose result is waited for."""
        ...

    def upload(self, batch: Tokens) -> Padded:
        """Pad a batch and return it on the device."""
        ...

    def download(self, result: Float[Tensor, "batch features"]) -> PendingResult:
        """Ask for a result that is being computed."""
        ...


class DirectTransfer:
    """Moves one batch at a time, which is enough for a CPU: nothing is waited for.

    Args:
        device: Where batches go.
    """

    in_flight = 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def upload(self, batch: Tokens) -> Padded:
        """Pad a batch and return it on the device."""
        ids, mask = _padded(batch, pinned=False)
        return ids.to(self._device), mask.to(self._device)

    def download(self, result: Float[Tensor, "batch features"]) -> PendingResult:
        """Return the result at once."""
        vectors = result.float().cpu().numpy()
        return lambda: vectors


class PinnedTransfer:
    """Copies through pinned memory while the device computes.

    torch gives a pinned block away again only when the copies from and to it are done.

    Args:
        device: A CUDA device.
    """

    in_flight = 2

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def upload(self, batch: Tokens) -> Padded:
        """Pad a batch into pinned memory and queue its copy to the device."""
        ids, mask = _padded(batch, pinned=True)
        return ids.to(self._device, non_blocking=True), mask.to(self._device, non_blocking=True)

    def download(self, result: Float[Tensor, "batch features"]) -> PendingResult:
        """Queue a copy of the result behind its computation."""
        host = torch.empty(result.shape, dtype=torch.float32, pin_memory=True)
        host.copy_(result.float(), non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(self._device))

        def wait() -> Float32[np.ndarray, "batch features"]:
            copied.synchronize()
            return host.numpy()

        return wait


def choose_transfer(device: torch.device) -> Transfer:
    """Return the transfer that suits a device."""
    return PinnedTransfer(device) if device.type == "cuda" else DirectTransfer(device)


def compute_batches(
    batches: Iterable[tuple[list[int], Tokens]],
    compute: Callable[[Tokens], Float[Tensor, "batch features"]],
    transfer: Transfer,
) -> Iterator[tuple[list[int], Float32[np.ndarray, "batch features"]]]:
    """Compute batches, queueing a few more before a result is waited for.

    Args:
        batches: The rows that a batch's results belong to, and its tokens.
        compute: Queues a batch's computation and returns its result on the device.
        transfer: Of that device.

    Yields:
        Rows and results, in the order of the batches.
    """
    waiting: deque[tuple[list[int], PendingResult]] = deque()
    for rows, batch in batches:
        waiting.append((rows, transfer.download(compute(batch))))
        if len(waiting) > transfer.in_flight:
            yield _wait_for_first(waiting)
    while waiting:
        yield _wait_for_first(waiting)


def _wait_for_first(
    waiting: deque[tuple[list[int], PendingResult]],
) -> tuple[list[int], Float32[np.ndarray, "batch features"]]:
    rows, result = waiting.popleft()
    return rows, result()


def _padded(batch: Tokens, *, pinned: bool) -> Padded:
    shape = (len(batch), max(len(ids) for ids in batch))
    ids = torch.zeros(shape, dtype=torch.long, pin_memory=pinned)
    mask = torch.zeros(shape, dtype=torch.long, pin_memory=pinned)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return ids, mask
