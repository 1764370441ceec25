"""Hashes of model files, computed once and remembered by size and modification time."""

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


class VerifiedFiles:
    """Remembers which files of a folder had which hash, in `verified.json` beside them.

    A file whose size or modification time changed is hashed again. The memory spares a second
    of hashing a gigabyte at every start; it is no defence against someone who may write there.

    Args:
        folder: Folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._memory = folder / "verified.json"

    def matches(self, file_name: str, sha256: str) -> bool:
        """Return whether the file exists and has this hash."""
        path = self._folder / file_name
        if not path.is_file():
            return False
        if self._recall().get(file_name) == _stamp(path, sha256):
            return True
        if hash_file(path) != sha256:
            return False
        self.remember(file_name, sha256)
        return True

    def remember(self, file_name: str, sha256: str) -> None:
        """Note that the file, as it is now, has this hash."""
        memory = self._recall() | {file_name: _stamp(self._folder / file_name, sha256)}
        draft = self._memory.with_suffix(".tmp")
        draft.write_text(json.dumps(memory, indent=1), encoding="utf-8")
        draft.replace(self._memory)

    def _recall(self) -> dict[str, Any]:
        try:
            memory = json.loads(self._memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # Without a readable memory every file is simply hashed again.
            return {}
        return memory if isinstance(memory, dict) else {}


def hash_file(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _stamp(path: Path, sha256: str) -> dict[str, Any]:
    status = path.stat()
    return {"sha256": sha256, "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
