"""Scores the words of an answer: hashed one- and two-word features with linear weights."""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Float, Float32, Int64

WIDTH = 1 << 15
"""Buckets that words are hashed into."""
_TOKEN = re.compile(r"[^\W\d_]+|\d|[^\w\s]")
_MOST_TOKENS = 1200
_BEGIN = 1 << 14
"""Characters in which nearly every long text has that many tokens."""
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class HashedTexts:
    """Texts as rows of a sparse matrix of buckets."""

    bucket: Int64[np.ndarray, " entries"]
    value: Float32[np.ndarray, " entries"]
    """Logarithm of one more than how often the bucket occurs, the row's length scaled to 1."""
    start: Int64[np.ndarray, " rows_and_one"]
    """Where each row's entries begin; last, how many there are."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> "HashedTexts":
        """Hash the words of texts."""
        hashes = [_hashes(text) for text in texts]
        row = np.repeat(np.arange(len(texts)), [len(one) for one in hashes])
        each = np.fromiter(chain.from_iterable(hashes), np.int64, len(row)) % WIDTH
        place, count = np.unique(row * WIDTH + each, return_counts=True)
        start = np.searchsorted(place, np.arange(len(texts) + 1) * WIDTH)
        value = _with_length_1(np.log1p(count), place // WIDTH, len(texts))
        return cls(place % WIDTH, value, start)

    def scaled(self, scale: Float32[np.ndarray, " buckets"]) -> "HashedTexts":
        """Return the texts with each bucket's values scaled, and each row's length 1 again."""
        value = _with_length_1(self.value * scale[self.bucket], self.row, self.count)
        return HashedTexts(self.bucket, value, self.start)

    @property
    def count(self) -> int:
        """How many texts there are."""
        return len(self.start) - 1

    @property
    def row(self) -> Int64[np.ndarray, " entries"]:
        """The row of each entry."""
        return np.repeat(np.arange(self.count), np.diff(self.start))


@dataclass(frozen=True, slots=True)
class TextWeights:
    """Linear weights of buckets, for several targets."""

    weight: Float32[np.ndarray, "buckets targets"]
    intercept: Float32[np.ndarray, " targets"]

    def __call__(self, texts: HashedTexts) -> Float32[np.ndarray, "rows targets"]:
        """Return each text's value for each target; it doesn't depend on the other texts."""
        terms, row = self.weight[texts.bucket] * texts.value[:, None], texts.row
        sums = [np.bincount(row, column, texts.count) for column in terms.T]
        return np.asarray(np.stack(sums, axis=1) + self.intercept, np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that a checkpoint keeps."""
        return {"weight": self.weight.astype(np.float16), "intercept": self.intercept}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "TextWeights":
        """Read the arrays back."""
        return cls(tensors["weight"].astype(np.float32), tensors["intercept"])


def inverse_frequency(texts: Sequence[HashedTexts]) -> Float32[np.ndarray, " buckets"]:
    """Return the weight of each bucket, which is higher the fewer texts have it."""
    rows = sum(len(part.start) - 1 for part in texts)
    found = np.sum([np.bincount(part.bucket, minlength=WIDTH) for part in texts], axis=0)
    return np.asarray(np.log((1 + rows) / (1 + found)) + 1, np.float32)


def _with_length_1(
    value: Float[np.ndarray, " entries"], row: Int64[np.ndarray, " entries"], rows: int
) -> Float32[np.ndarray, " entries"]:
    """Return the values with each row's length scaled to 1."""
    length = np.sqrt(np.bincount(row, value**2, rows))
    return np.asarray(value / np.maximum(length, _TINY)[row], np.float32)


def _hashes(text: str) -> list[int]:
    """Return the hash of each word, then of each with the word before it and a space."""
    words = [token.encode(errors="replace") for token in _tokens(text)]
    alone = list(map(zlib.crc32, words))
    # A hash goes on from that of what stands before.
    before = [zlib.crc32(b" "), *(zlib.crc32(b" ", hashed) for hashed in alone)]
    return [*alone, *map(zlib.crc32, words, before)]


def _tokens(text: str) -> list[str]:
    """Return the first tokens of a text; of megabytes most are not looked at."""
    if len(text) > _BEGIN:
        found = _TOKEN.findall(text[:_BEGIN].lower())
        if len(found) > _MOST_TOKENS:  # the last one may be cut off
            return found[:_MOST_TOKENS]
    return _TOKEN.findall(text.lower())[:_MOST_TOKENS]
