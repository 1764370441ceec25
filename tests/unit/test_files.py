"""A file is written whole or not at all."""

from pathlib import Path

import pytest

from routoo.files import replacing


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    with replacing(path) as stream:
        stream.write(b"whole")
    assert path.read_text() == "whole"
    assert [found.name for found in tmp_path.iterdir()] == ["out.jsonl"]
