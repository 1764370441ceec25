"""Windows and micro-batches: nothing lost, nothing too long, results back in order."""

import queue
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routoo.predictor.backbone.batching import (
    MAX_CHARACTERS,
    DirectTransfer,
    Padded,
    PendingResult,
    PinnedTransfer,
    Tokens,
    TokenWindow,
    bounded,
    choose_transfer,
    clean,
    compute_batches,
    compute_in_threads,
    micro_batches,
)

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 2000), st.booleans())
def test_every_sequence_is_in_one_batch_and_batches_keep_the_budget(
    lengths: list[int], budget: int, padded: bool
) -> None:
    batches = list(micro_batches(lengths, budget, padded=padded))
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        tokens = max(lengths[position] for position in batch) * len(batch)
        assert tokens <= budget or len(batch) == 1


def test_without_padding_sequences_of_one_length_share_a_batch_as_far_as_the_budget() -> None:
    lengths = [3, 5, 3, 5, 3, 3]
    assert list(micro_batches(lengths, 10, padded=False)) == [[0, 2, 4], [5], [1, 3]]
    assert list(micro_batches(lengths, 15)) == [[0, 2, 4, 5], [1, 3]]


def test_a_prompt_that_fits_is_scored_whole() -> None:
    window = TokenWindow(10, prefix=(1,), suffix=(2,))
    assert window.enclose(range(100, 108)) == ([1, *range(100, 108), 2], False)


def test_a_longer_prompt_keeps_its_head_and_its_tail() -> None:
    window = TokenWindow(6, prefix=(1,), suffix=(2,))
    assert window.enclose(range(100, 200)) == ([1, 100, 101, 198, 199, 2], True)


def test_an_odd_window_gives_the_tail_the_token_more() -> None:
    assert TokenWindow(5, prefix=(1,), suffix=(2,)).enclose(range(10)) == ([1, 0, 8, 9, 2], True)


def test_a_lone_surrogate_becomes_the_replacement_character() -> None:
    assert clean("a\ud800b") == "a\N{REPLACEMENT CHARACTER}b"


def test_a_pair_of_code_points_beyond_the_first_plane_stays() -> None:
    assert clean("\N{GRINNING FACE}") == "\N{GRINNING FACE}"


def test_a_huge_prompt_is_cut_to_its_ends_before_it_is_tokenised() -> None:
    text, cut = bounded("a" * 100_000 + "b" * 100_000)
    assert cut
    assert len(text) == MAX_CHARACTERS + 1
    assert (text[0], text[-1]) == ("a", "b")


class Queue:
    """Stands for a GPU: a result is there once it is waited for; notes what was done when."""

    in_flight = 2

    def __init__(self) -> None:
        self.log: list[str] = []

    def upload(self, batch: Tokens) -> Padded:
        return DirectTransfer(CPU).upload(batch)

    def download(self, result: torch.Tensor) -> PendingResult:
        name = int(result[0, 0])
        self.log.append(f"queued {name}")

        def wait() -> np.ndarray:
            self.log.append(f"waited {name}")
            return result.numpy()

        return wait

    def compute(self, batch: Tokens) -> torch.Tensor:
        return self.upload(batch)[0].float()


def _batches(count: int) -> Iterator[tuple[list[int], Tokens]]:
    yield from (([n, count + n], [[n, 7], [n]]) for n in range(count))


def _noted_batches(count: int, taken: list[int]) -> Iterator[tuple[list[int], Tokens]]:
    """Yield batches, and note the first row of each as it is taken."""
    for rows, batch in _batches(count):
        taken.append(rows[0])
        yield rows, batch


def test_a_result_is_waited_for_when_two_later_batches_are_queued() -> None:
    queue = Queue()
    results = list(compute_batches(_batches(4), queue.compute, queue))
    assert [rows for rows, _ in results] == [[n, 4 + n] for n in range(4)]
    assert [vectors[:, 0].tolist() for _, vectors in results] == [[n, n] for n in range(4)]
    assert queue.log == [
        *("queued 0", "queued 1", "queued 2", "waited 0"),
        *("queued 3", "waited 1", "waited 2", "waited 3"),
    ]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_batches_than_may_be_in_flight_all_come_back(count: int) -> None:
    queue = Queue()
    assert len(list(compute_batches(_batches(count), queue.compute, queue))) == count


def test_on_a_cpu_each_batch_comes_back_before_the_next_is_made() -> None:
    taken: list[int] = []
    transfer = choose_transfer(CPU)
    for rows, _ in compute_batches(
        _noted_batches(3, taken), lambda batch: transfer.upload(batch)[0].float(), transfer
    ):
        assert taken[-1] == rows[0]


def test_padding_stands_at_the_end_and_is_masked() -> None:
    ids, mask = choose_transfer(CPU).upload([[5], [6, 7, 8]])
    assert ids.tolist() == [[5, 0, 0], [6, 7, 8]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_copies_bring_back_what_was_computed() -> None:
    transfer = choose_transfer(torch.device("cuda"))
    assert isinstance(transfer, PinnedTransfer)
    batches = [([n], [[n] * 512] * 64) for n in range(50)]
    results = compute_batches(
        batches, lambda batch: transfer.upload(batch)[0].double() * 2, transfer
    )
    for rows, vectors in results:
        assert vectors.dtype == np.float32
        assert (vectors == 2 * rows[0]).all()


def _number_and_threads(tokens: Tokens) -> torch.Tensor:
    return torch.tensor([[float(tokens[0][0]), torch.get_num_threads()]])


def _threads_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as one:
        return one.submit(torch.get_num_threads).result()


def _close(computed: Iterator[object]) -> None:
    assert isinstance(computed, Generator)
    computed.close()


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 3, 40])
@pytest.mark.usefixtures("three_threads")
def test_a_cpu_computes_batches_side_by_side_each_by_one_thread(count: int) -> None:
    results = list(compute_in_threads(_batches(count), _number_and_threads, 2))
    assert [(rows, vectors.tolist()) for rows, vectors in results] == [
        (rows, [[batch[0][0], 1]]) for rows, batch in _batches(count)
    ]


@pytest.mark.usefixtures("three_threads")
def test_other_threads_count_as_before_while_batches_are_computed_and_after() -> None:
    computed = compute_in_threads(_batches(9), _number_and_threads, 2)
    next(computed)
    assert (torch.get_num_threads(), _threads_of_a_new_thread()) == (3, 3)
    _close(computed)
    assert (torch.get_num_threads(), _threads_of_a_new_thread()) == (3, 3)


@pytest.mark.usefixtures("three_threads")
def test_a_batch_that_fails_in_its_thread_is_told_and_threads_count_as_before() -> None:
    def fail(tokens: Tokens) -> torch.Tensor:
        raise ValueError(tokens)

    with pytest.raises(ValueError, match="0"):
        list(compute_in_threads(_batches(9), fail, 2))
    assert (torch.get_num_threads(), _threads_of_a_new_thread()) == (3, 3)


def test_batches_that_wait_for_a_thread_are_not_computed_once_nobody_wants_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on = queue.Queue[float](), threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, *given: bool, **named: bool) -> None:
            super().shutdown(**{**named, "wait": False})
            go_on.set()
            super().shutdown(*given)

    def compute(tokens: Tokens) -> torch.Tensor:
        begun.put(tokens[0][0])
        if tokens[0][0]:
            go_on.wait(30)
        return torch.tensor([[1.0]])

    monkeypatch.setattr("routoo.predictor.backbone.batching.ThreadPoolExecutor", Pool)
    computed = compute_in_threads(_batches(9), compute, 1)
    next(computed)
    assert [begun.get(timeout=30) for _ in range(2)] == [0, 1]
    _close(computed)
    assert begun.empty()


def test_only_a_few_batches_wait_for_a_thread() -> None:
    taken: list[int] = []
    computed = compute_in_threads(_noted_batches(40, taken), _number_and_threads, 2)
    next(computed)
    assert len(taken) == 5
    assert len(list(computed)) == 39
