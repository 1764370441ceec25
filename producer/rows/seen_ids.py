"""Finds custom_ids that repeat, in 12 bytes a row."""

from collections.abc import Sequence
from mmap import mmap

import numpy as np
from jaxtyping import Int32, Int64

_LARGEST_MERGED_RUN = 1 << 17
"""Longer runs are not merged any more: it bounds the memory that a merge takes for a moment."""

_Hashes = Int64[np.ndarray, " rows"]
_Lines = Int32[np.ndarray, " rows"]


class SeenIds:
    """The custom_ids of the rows so far, with the line where each was first seen."""

    def __init__(self) -> None:
        self._runs: list[tuple[_Hashes, _Lines]] = []

    def add(self, custom_ids: Sequence[str], lines: Sequence[int]) -> _Lines:
        """Remember ids and return which of them are repeats.

        Args:
            custom_ids: The ids of some rows, in input order.
            lines: Their line numbers, ascending.

        Returns:
            For each id the line where it was seen before, or 0 where it is new.
        """
        count = len(custom_ids)
        hashes = np.fromiter(map(hash, custom_ids), np.int64, count)
        order = np.argsort(hashes, kind="stable")
        hashes, sorted_lines = hashes[order], np.asarray(lines, np.int32)[order]
        earlier = self._look_up(hashes)
        _mark_repeats_within(hashes, sorted_lines, earlier)
        new = earlier == 0
        self._insert(hashes[new], sorted_lines[new])
        found = np.empty(count, np.int32)
        found[order] = earlier
        return found

    def _look_up(self, hashes: _Hashes) -> _Lines:
        earlier = np.zeros(len(hashes), np.int32)
        for run_hashes, run_lines in self._runs:
            at = np.searchsorted(run_hashes, hashes)
            at[at == len(run_hashes)] = 0
            hit = run_hashes[at] == hashes
            earlier[hit] = run_lines[at[hit]]
        return earlier

    def _insert(self, hashes: _Hashes, lines: _Lines) -> None:
        if not len(hashes):
            return
        run, runs = (hashes, lines), self._runs
        while runs and len(runs[-1][0]) <= min(2 * len(run[0]), _LARGEST_MERGED_RUN):
            run = _merged(runs.pop(), run)
        runs.append(run)


def _merged(older: tuple[_Hashes, _Lines], newer: tuple[_Hashes, _Lines]) -> tuple[_Hashes, _Lines]:
    count = len(older[0]) + len(newer[0])
    at = np.searchsorted(older[0], newer[0]) + np.arange(len(newer[0]))
    is_older = np.ones(count, np.bool_)
    is_older[at] = False
    merged = _empty(count, np.int64), _empty(count, np.int32)
    for target, old, new in zip(merged, older, newer, strict=True):
        target[is_older] = old
        target[at] = new
    return merged


def _empty(count: int, kind: type[np.integer]) -> np.ndarray:
    """Return an array in memory pages of its own.

    The allocator keeps the memory of a large array for others of its size; pages of its own go back
    to the system with the array.
    """
    return np.frombuffer(mmap(-1, count * np.dtype(kind).itemsize), kind)


def _mark_repeats_within(hashes: _Hashes, lines: _Lines, earlier: _Lines) -> None:
    """Point repeats inside one sorted chunk at the first of their kind, in place."""
    repeat = np.concatenate([[False], hashes[1:] == hashes[:-1]])
    if not repeat.any():
        return
    first = np.maximum.accumulate(np.where(repeat, 0, np.arange(len(hashes))))
    again = repeat & (earlier == 0)
    earlier[again] = lines[first[again]]
