"""Turns prompts into micro-batches, cut to a window of tokens, and has a device compute them.

A GPU works through a queue of batches, and never idles if the next one is queued before the last
one is done. So batches are padded into pinned memory, which the GPU can read by itself, and a
result is only waited for when a few later batches are queued behind it. A CPU's threads have a
batch each, so that none waits for another.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

MAX_CHARACTERS = 16_384
"""Longer prompts are cut to their head and tail of half this many characters before tokenising.

Far more than any window of the backbones in use, so it bounds time without changing a score that
the window would not have cut as well.
"""

_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

Tokens = Sequence[Sequence[int]]
"""The tokens of each prompt of a batch."""
Padded = tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]
"""Token ids and a mask: 1 where there is a token, 0 for padding at the end."""
PendingResult = Callable[[], Float32[np.ndarray, "batch features"]]
"""Waits until a result is here, and returns it."""


def clean(prompt: str) -> str:
    """Return the prompt with lone surrogates replaced: they have no UTF-8 form to tokenise."""
    return _SURROGATE.sub(_REPLACEMENT, prompt)


def bounded(prompt: str) -> tuple[str, bool]:
    """Return the prompt, and whether it had to be cut to head and tail.

    The two parts are joined by a line break, so that no word arises that was not there.
    """
    if len(prompt) <= MAX_CHARACTERS:
        return prompt, False
    half = MAX_CHARACTERS // 2
    return f"{prompt[:half]}\n{prompt[-half:]}", True


def string_sha256(text: str) -> str:
    """Return a hash of a text as it is, not normalised; lone surrogates have one too."""
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class TokenWindow:
    """The most tokens a backbone sees of one prompt."""

    tokens: int
    """Longest sequence, special tokens included."""
    prefix: tuple[int, ...] = ()
    """Special tokens before the text."""
    suffix: tuple[int, ...] = ()
    """Special tokens after the text."""

    @property
    def room(self) -> int:
        """Most tokens of a prompt."""
        return self.tokens - len(self.prefix) - len(self.suffix)

    def enclose(self, ids: Sequence[int]) -> tuple[list[int], bool]:
        """Wrap a prompt's tokens in the special ones; where too long, keep its head and tail.

        The question of a long prompt is at its beginning or, after a document, at its end: half of
        the room goes to each.

        Args:
            ids: Tokens of the text alone.

        Returns:
            The sequence, never empty for a backbone with special tokens, and whether it was cut.
        """
        room = self.room
        if len(ids) <= room:
            return [*self.prefix, *ids, *self.suffix], False
        head = room // 2
        return [*self.prefix, *ids[:head], *ids[head - room :], *self.suffix], True


def micro_batches(
    lengths: Sequence[int], token_budget: int, *, padded: bool = True
) -> Iterator[list[int]]:
    """Pack sequences of similar length into batches of at most `token_budget` padded tokens.

    Args:
        lengths: Tokens of each sequence.
        token_budget: Most tokens of a batch, padding included; a longer sequence goes alone.
        padded: Whether shorter sequences may be padded; else those of a batch are equally long.

    Yields:
        Positions of the sequences of one batch, longest last.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    batch: list[int] = []
    for position in order:
        full = lengths[position] * (len(batch) + 1) > token_budget
        if batch and (full or not (padded or lengths[position] == lengths[batch[0]])):
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
    """Moves one batch at a time, which is enough for a CPU.

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


def compute_in_threads(
    batches: Iterable[tuple[list[int], Tokens]],
    compute: Callable[[Tokens], Float[Tensor, "batch features"]],
    threads: int,
) -> Iterator[tuple[list[int], Float32[np.ndarray, "batch features"]]]:
    """Compute batches side by side on a CPU, each by a thread of its own; yield rows and results.

    Threads that share a batch wait for each other after every product: where a core also has other
    work to do, most of the time.
    """
    transfer = DirectTransfer(torch.device("cpu"))
    waiting: deque[tuple[list[int], PendingResult]] = deque()
    with _single_threads(threads) as pool:
        for rows, batch in batches:
            result = pool.submit(lambda batch: transfer.download(compute(batch))(), batch)
            waiting.append((rows, result.result))
            if len(waiting) > 2 * threads:
                yield _wait_for_first(waiting)
        while waiting:
            yield _wait_for_first(waiting)


@contextmanager
def _single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that compute each by itself; at the end work that waits for them is dropped."""
    pool, all_started = ThreadPoolExecutor(count), Barrier(count)
    try:
        _start(pool, count, all_started)
        yield pool
    finally:
        all_started.abort()
        pool.shutdown(cancel_futures=True)


def _start(pool: ThreadPoolExecutor, count: int, all_started: Barrier) -> None:
    """Start a pool's threads, and have torch use no further ones in them; elsewhere as before."""

    def compute_alone() -> None:
        torch.get_num_threads()  # the first call in a thread would undo the next line later
        torch.set_num_threads(1)
        all_started.wait()

    usual = torch.get_num_threads()
    try:
        for started in [pool.submit(compute_alone) for _ in range(count)]:
            started.result()
    finally:
        # torch keeps a number for each thread, but the last one set counts for threads to come.
        torch.set_num_threads(usual)


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
