"""Makes the features of a prompt: pooled hidden states, and counts of its surface beside them.

The surface is what can be counted without a model: length, digits, code, options, question words.
Hidden states are kept on disk, by the hash of the prompt and of what embeds it.
"""

import hashlib
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32

from routoo.files import replacing
from routoo.predictor.backbone.batching import bounded, clean
from routoo.predictor.backbone.encoder import EncodedPrompts, Encoder, Progress

_OPTION = re.compile(r"^[^\S\n]*\(?([A-P])[.):]\s*(.*)$", re.MULTILINE)
_WORD = re.compile(r"\w+")
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\bnot\b|n't\b|\bexcept\b|\bleast\b|\bfalse\b|\bincorrect\b",
        r"\b(?:NOT|EXCEPT|LEAST)\b",
        r"none of (?:the|these)|all of (?:the|these)|both \w and \w",
        r"^what\b|\bwhat (?:is|are|was|were)\b",
        r"\bwhich (?:of the following|one)\b",
        r"\bwho\b|\bwhom\b",
        r"\bwhen\b|\bwhat year\b|\b1[5-9]\d\d\b|\b20[0-2]\d\b",
        r"\bwhere\b",
        r"\bwhy\b|\bbecause\b|\bexplain\b",
        r"\bhow (?:many|much|long|far|often)\b",
        r"\bcalculate\b|\bcompute\b|\bfind the\b|\bevaluate\b|\bdetermine\b|\bsolve\b",
        r"_{2,}|\.\.\.\s*$",
        r"\b(?:statement|proposition)s?\b|\bI\.|\bII\b",
        r"\b(?:true|false)\b",
        r"\b(?:according to|passage|following information|refers to)\b",
        r"\b(?:suppose|assume|let|given)\b",
        r"\b(?:scenario|case|patient|man|woman|-year-old)\b",
        r"\b(?:def|return|class|import|print|function)\b|[{};]\s*$|```",
        r"\\(?:frac|sqrt|int|sum)|\$|\^",
        r"[=<>\u2264\u2265]",
        r"\d\s*[-+*/\u00d7\u00f7]\s*\d",
        r"%|\bpercent\b|\bprobability\b",
        r"\b(?:kg|m/s|cm|mm|mol|Hz|volts?|amps?|\u00b0C|ft|lb|psi|joules?|watts?)\b",
        r"\b(?:best|most|primarily|likely|main)\b",
        r"\bI\b|\bmy\b|\bme\b",
    )
)


SHAPE_WIDTH, OPTIONS_WIDTH = 14, 12
SURFACE_WIDTH = 2 * SHAPE_WIDTH + OPTIONS_WIDTH + 2 * len(_PATTERNS)
"""Features of a prompt's surface: shape of the text and of its question, options, cues."""
_LONG_WORD = 10
_ASCII_END = 128


@runtime_checkable
class PromptEncoder(Protocol):
    """An encoder, or a cache before one."""

    def encode(self, prompts: Sequence[str], progress: Progress | None = None) -> EncodedPrompts:
        """Return the pooled hidden states of each prompt."""
        ...


def prompt_features(
    prompts: Sequence[str], encoder: PromptEncoder, progress: Progress | None = None
) -> tuple[Float32[np.ndarray, "prompts features"], Bool[np.ndarray, " prompts"]]:
    """Return each prompt's features, and whether it was cut to the backbone's window."""
    encoded = encoder.encode(prompts, progress)
    surface = np.zeros((len(prompts), SURFACE_WIDTH), np.float32)
    for row, prompt in enumerate(prompts):
        surface[row] = surface_features(prompt)
    return np.concatenate([encoded.features, surface], axis=1), encoded.truncated


def surface_features(prompt: str) -> Float32[np.ndarray, " features"]:
    """Return counts and shares of a prompt's surface, roughly within [-3, 10].

    Counts are compressed by log1p: a long prompt must not outweigh a short one by its length alone.
    """
    text, _ = bounded(clean(prompt))
    options = [match.group(2) for match in _OPTION.finditer(text)]
    stem = _stem(text) if options else text
    values = [*_shape(text), *_shape(stem), *_options(options), *_cues(text)]
    return np.asarray(values, np.float32)


def _stem(text: str) -> str:
    """Return the text before the first option, without the blank lines between."""
    found = _OPTION.search(text)
    before = text[: found.start()].rstrip() if found else text
    return before + "\n" if before else before


def _shape(text: str) -> list[float]:
    words = _WORD.findall(text)
    length = max(len(text), 1)
    lowered = [word.lower() for word in words]
    return [
        np.log1p(len(text)),
        np.log1p(len(words)),
        np.log1p(text.count("\n")),
        sum(map(len, words)) / max(len(words), 1) / 5,
        np.log1p(sum(len(word) >= _LONG_WORD for word in words)),
        len(set(lowered)) / max(len(words), 1),
        10 * sum(map(str.isdigit, text)) / length,
        np.log1p(sum(map(str.isdigit, text))),
        10 * sum(map(str.isupper, text)) / length,
        10 * sum(not (c.isalnum() or c.isspace()) for c in text) / length,
        10 * sum(ord(c) >= _ASCII_END for c in text) / length,
        np.log1p(text.count("?")),
        np.log1p(text.count(",")),
        len(zlib.compress(text.encode())) / (len(text.encode()) + 11),
    ]


def _options(options: list[str]) -> list[float]:
    if not options:
        return [0.0] * OPTIONS_WIDTH
    lengths = [len(option) for option in options]
    numeric = [bool(re.search(r"\d", option)) for option in options]
    words = [set(_WORD.findall(option.lower())) for option in options]
    shared = set.intersection(*words)
    union = set.union(*words)
    return [
        1.0,
        np.log1p(len(options)),
        np.log1p(np.mean(lengths)),
        np.log1p(np.std(lengths)),
        np.log1p(max(lengths)),
        np.log1p(min(lengths)),
        float(np.mean(numeric)),
        float(all(numeric)),
        float(all(map(_is_number, options))),
        len(shared) / max(len(union), 1),
        max(lengths) / max(float(np.mean(lengths)), 1.0) - 1,
        float(lengths[-1] == max(lengths)),
    ]


def _is_number(option: str) -> bool:
    """Return whether an option consists of digits and signs alone."""
    return bool(re.search(r"\d", option)) and not re.search(r"[^\W\d]", option)


def _cues(text: str) -> list[float]:
    counts = [len(pattern.findall(text)) for pattern in _PATTERNS]
    return [float(count > 0) for count in counts] + [float(np.log1p(count)) for count in counts]


SAVE_EVERY_PROMPTS = 1024
"""A fit that is interrupted loses at most this many embeddings."""


class EmbeddingCache:
    """Encodes prompts, each only once; several processes may share the folder.

    Args:
        folder: Where the files lie; made where absent.
        encoder: What embeds a prompt that is not there yet.
    """

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self._folder = folder / encoder.identity
        self._folder.mkdir(parents=True, exist_ok=True)
        self._encoder = encoder

    def encode(self, prompts: Sequence[str], progress: Progress | None = None) -> EncodedPrompts:
        """Return the prompts' features as `Encoder.encode` does, from disk where they are there."""
        keys = [_key(prompt) for prompt in prompts]
        features = np.zeros((len(prompts), self._encoder.width), np.float32)
        truncated = np.zeros(len(prompts), np.bool_)
        found = self._read(keys, features, truncated)
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        missing = [row for row, key in enumerate(keys) if first[key] == row and not found[row]]
        if progress and len(missing) < len(keys):
            progress(len(keys) - len(missing))
        for start in range(0, len(missing), SAVE_EVERY_PROMPTS):
            rows = missing[start : start + SAVE_EVERY_PROMPTS]
            part = self._encoder.encode([prompts[row] for row in rows], progress)
            features[rows], truncated[rows] = part.features, part.truncated
            self._write([keys[row] for row in rows], part)
        source = [first[key] for key in keys]
        return EncodedPrompts(features[source], truncated[source])

    def _read(
        self,
        keys: Sequence[bytes],
        features: Float32[np.ndarray, "prompts features"],
        truncated: Bool[np.ndarray, " prompts"],
    ) -> Bool[np.ndarray, " prompts"]:
        rows_of: dict[bytes, list[int]] = {}
        for row, key in enumerate(keys):
            rows_of.setdefault(key, []).append(row)
        found = np.zeros(len(keys), np.bool_)
        for path in sorted(self._folder.glob("*.npz")):
            part = _load(path)
            stored = [bytes(key) for key in part["keys"]] if part else []
            hits = [(n, row) for n, key in enumerate(stored) for row in rows_of.get(key, ())]
            if hits:
                source, rows = map(list, zip(*hits, strict=True))
                features[rows] = part["features"][source]
                truncated[rows] = part["truncated"][source]
                found[rows] = True
        return found

    def _write(self, keys: Sequence[bytes], part: EncodedPrompts) -> None:
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:24]
        with replacing(self._folder / f"{name}.npz") as stream:
            np.savez(
                stream,
                keys=np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1),
                features=part.features,
                truncated=part.truncated,
            )


def _load(path: Path) -> dict[str, np.ndarray]:
    """Read a file of embeddings; a damaged one is removed, and what it held is computed again."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as part:
            return {name: part[name] for name in ("keys", "features", "truncated")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        path.unlink(missing_ok=True)
        return {}


def _key(prompt: str) -> bytes:
    return hashlib.sha256(prompt.encode("utf-8", errors="surrogatepass")).digest()
