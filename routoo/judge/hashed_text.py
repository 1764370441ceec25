"""Scores the words of an answer: hashed one- and two-word features with linear weights."""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

WIDTH = 1 << 15
"""Buckets that words are hashed into."""
_TOKEN = re.compile(r"[^\W\d_]+|\d|[^\w\s]")
_MOST_TOKENS = 1200
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
        rows = [_buckets(text) for text in texts]
        sizes = np.array([len(buckets) for buckets, _ in rows], np.int64)
        return cls(
            np.concatenate([buckets for buckets, _ in rows] or [np.zeros(0, np.int64)]),
            np.concatenate([counts for _, counts in rows] or [np.zeros(0)]).astype(np.float32),
            np.r_[0, np.cumsum(sizes)].astype(np.int64),
        )

    def scaled(self, scale: Float32[np.ndarray, " buckets"]) -> "HashedTexts":
        """Return the texts with each bucket's values scaled, and each row's length 1 again."""
        value = self.value * scale[self.bucket]
        row = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))
        length = np.sqrt(np.bincount(row, value**2, minlength=len(self.start) - 1))
        scaled = value / np.maximum(length, _TINY)[row]
        return HashedTexts(self.bucket, scaled.astype(np.float32), self.start)


@dataclass(frozen=True, slots=True)
class TextWeights:
    """Linear weights of buckets, for several targets."""

    weight: Float32[np.ndarray, "buckets targets"]
    intercept: Float32[np.ndarray, " targets"]

    def __call__(self, texts: HashedTexts) -> Float32[np.ndarray, "rows targets"]:
        """Return each text's value for each target."""
        terms = self.weight[texts.bucket] * texts.value[:, None]
        total = np.r_[np.zeros((1, terms.shape[1])), np.cumsum(terms, axis=0, dtype=np.float64)]
        sums = total[texts.start[1:]] - total[texts.start[:-1]]
        return np.asarray(sums + self.intercept, np.float32)

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


def _buckets(text: str) -> tuple[np.ndarray, np.ndarray]:
    buckets, count = np.unique(_hashes(text), return_counts=True)
    value = np.log1p(count)
    return buckets, value / max(float(np.sqrt(value @ value)), _TINY)


def _hashes(text: str) -> Int64[np.ndarray, " hashes"]:
    """Return the buckets of each word, then of each with the word before it and a space."""
    tokens = _TOKEN.findall(text.lower())[:_MOST_TOKENS]
    words = [token.encode(errors="replace") for token in tokens]
    alone = list(map(zlib.crc32, words))
    # A hash goes on from that of what stands before.
    before = [zlib.crc32(b" "), *(zlib.crc32(b" ", hashed) for hashed in alone)]
    return np.array([*alone, *map(zlib.crc32, words, before)], np.int64) % WIDTH
