"""Keeps embeddings on disk, by the hash of the prompt and of what embeds it."""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from routoo.files import replacing
from routoo.predictor.backbone.encoder import EncodedPrompts, Encoder, Progress

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
