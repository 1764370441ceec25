"""The servers' programs in their installed packages."""

import importlib.metadata
import importlib.util
import shutil
import stat
import tempfile
from pathlib import Path

from routoo.embedded.folders import Site
from routoo.embedded.identity import anyone_can_run
from routoo.errors import EmbeddedStackError


def program(site: Site, package: str, path: str, *, beside: tuple[str, ...] = ()) -> Path:
    """Return a program that the server's user can run.

    A virtual environment may stand where `nobody` can't go; its package is copied once then.

    Args:
        site: The server's folders.
        package: Import name of the package.
        path: The program's path in the package.
        beside: Folders beside the package that its programs load libraries from.

    Raises:
        EmbeddedStackError: The package isn't installed.
    """
    installed = _package_folder(package)
    if not site.identity.is_other or anyone_can_run(installed / path):
        return installed / path
    version = importlib.metadata.version(package)
    copy = site.folder / f"programs-{version}"
    if not copy.exists():
        _copy([installed, *(installed.parent / name for name in beside)], copy)
    return copy / package / path


def _package_folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise EmbeddedStackError(
            f"the package {package} is not installed",
            remedy="Run `make install`, or set the server's URL to one that runs elsewhere",
        )
    return Path(found.submodule_search_locations[0]).resolve()


def _copy(folders: list[Path], target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        whole = Path(temporary) / "programs"
        for folder in folders:
            shutil.copytree(folder, whole / folder.name, symlinks=True)
        for path in (whole, *whole.rglob("*")):
            if not path.is_symlink():
                _let_anyone_read(path)
        whole.rename(target)  # whole or not at all


def _let_anyone_read(path: Path) -> None:
    mode = path.stat().st_mode
    may_run = path.is_dir() or mode & stat.S_IXUSR
    path.chmod(mode | (0o555 if may_run else 0o444))
