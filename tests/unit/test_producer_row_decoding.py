"""Compressed input, other encodings and JSON arrays bring the same rows as plain JSON Lines."""

import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.rows import csv_rows, jsonl_rows
from producer.rows.formats import RawRow
from producer.rows.source import Format, Source, decoded
from routoo.errors import InputError

ODD = '\u00e9\u4e16\U0001f600 [{,}] \\" \n'
ROWS = [{"prompt": f"How many is {number}? {ODD}"} for number in range(3000)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(data: bytes) -> bytes:
    half = len(data) // 2
    codec = pa.Codec("zstd")
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00meta"
    halves = (data[:half], data[half:])
    return skippable + b"".join(codec.compress(part, asbytes=True) for part in halves)


def gzip_members(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:])


ENCODERS: list[Callable[[bytes], bytes]] = [
    lambda data: data,
    gzip_members,
    zstd,
    lambda data: zstd(gzip.compress(data.decode().encode("utf-16"))),
    lambda data: b"\xff\xfe" + data.decode().encode("utf-16-le"),
    lambda data: b"\xfe\xff" + data.decode().encode("utf-16-be"),
    lambda data: data.decode().encode("utf-32"),
    lambda data: b"\xef\xbb\xbf" + data,
]


def read_rows(data: bytes) -> list[RawRow]:
    stream = decoded(io.BytesIO(data), "in")
    return [row for chunk in jsonl_rows.read(stream, "in") for row in chunk]


@pytest.mark.parametrize("encode", ENCODERS)
def test_however_it_is_packed_an_input_has_the_same_rows(encode: Callable[[bytes], bytes]) -> None:
    assert [row.fields for row in read_rows(encode(LINES))] == ROWS
    array = json.dumps(ROWS, ensure_ascii=False, indent=1).encode()
    assert [row.fields for row in read_rows(encode(array))] == ROWS


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.jsonl", "rows.json.GZ"])
def test_the_bytes_and_not_the_name_say_how_a_file_is_packed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for data in (LINES, gzip.compress(LINES), zstd(LINES)):
        path.write_bytes(data)
        source = Source.of(str(path))
        with source.rows() as (chunks, bytes_read):
            assert sum(map(len, chunks)) == len(ROWS)
            assert bytes_read() == len(data)
        assert source.stem == "rows"


def test_csv_may_be_packed_too() -> None:
    table = "prompt,max_tokens\nWhy?,5\n".encode("utf-16")
    ((row,),) = csv_rows.read(decoded(io.BytesIO(gzip.compress(table)), "in"), "in")
    assert row.fields == {"prompt": "Why?", "max_tokens": "5"}


@pytest.mark.parametrize(
    "data", [gzip.compress(LINES)[:-20], zstd(LINES)[:-20], "x".encode("utf-16") + b"\x00"]
)
def test_an_input_that_is_cut_off_is_refused_whole(data: bytes) -> None:
    with pytest.raises(InputError, match="damaged or cut off"):
        read_rows(data)


def test_half_a_character_of_utf16_costs_its_row_alone() -> None:
    text = '{"prompt": "a"}\n{"prompt": "\ud800"}\n{"prompt": "b"}\n'
    rows = read_rows(b"\xff\xfe" + text.encode("utf-16-le", "surrogatepass"))
    assert [isinstance(row.fields, dict) for row in rows] == [True, False, True]


def test_compressed_parquet_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet.gz"
    path.write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(InputError, match="Unpack it"), Source(path, Format.PARQUET).rows():
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


class Dripping(io.BytesIO):
    """Gives few bytes at a time."""

    step = 1

    def read(self, _size: int | None = -1, /) -> bytes:
        return super().read(self.step)


@given(
    values=st.lists(JSON, max_size=6),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    step=st.integers(1, 9),
)
def test_the_elements_of_any_array_are_found(
    *, values: list[Any], indent: int | None, ascii_only: bool, step: int
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    stream = Dripping(text.encode() + b" \n")
    stream.step = step
    found = list(jsonl_rows.elements(stream, "in"))
    assert all(element.is_whole for element in found)
    assert [json.loads(element.text) for element in found] == values
    lines = text.encode().split(b"\n")
    for element in found:
        assert element.text.split(b"\n")[0] in lines[element.line - 1]


@given(st.binary(max_size=80))
def test_any_bytes_behind_a_bracket_end_in_elements_or_a_refusal(data: bytes) -> None:
    try:
        found = list(jsonl_rows.elements(io.BytesIO(b"[" + data), "in"))
    except InputError as error:
        assert "behind the end" in str(error)  # noqa: PT017 - most inputs raise nothing
    else:
        assert all(element.text.strip() == element.text for element in found)


def test_rows_of_an_array_on_one_line_have_names_and_lines_of_their_own() -> None:
    rows = read_rows(b'[{"prompt": "a"}, {"prompt": "b"},\n\n {"prompt": "c"},]\n')
    assert [(row.line, row.position) for row in rows] == [(1, 1), (1, 2), (3, 3)]


def test_an_array_that_is_cut_off_loses_its_last_row_alone() -> None:
    rows = read_rows(b'[{"prompt": "a"},\n {"prompt": "b')
    assert [isinstance(row.fields, dict) for row in rows] == [True, False]
    assert rows[1].line == 2
    assert rows[1].raw == b'{"prompt": "b'


def test_more_behind_an_array_is_refused_with_its_line() -> None:
    with pytest.raises(InputError, match=r"in:3.*behind the end"):
        read_rows(b'[{"prompt": "a"}]\n\n{"prompt": "b"}\n')


@given(row=st.dictionaries(st.text(max_size=5), JSON, max_size=4), ascii_only=st.booleans())
def test_a_row_is_read_as_it_stands_or_refused(*, row: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(row, ensure_ascii=ascii_only)
    read = jsonl_rows.raw_row(1, text.encode())
    if isinstance(read.fields, dict):
        assert read.fields == row
        assert read.compact == orjson.dumps(row).decode()
    repeated = text[:-1] + (", " if row else "") + '"k": 1, "k" : 2}'
    assert not isinstance(jsonl_rows.raw_row(1, repeated.encode()).fields, dict)


def test_memory_does_not_grow_with_the_input() -> None:
    array = b"[" + b",\n".join([b'{"prompt": "' + b"x" * 1000 + b'"}'] * 20_000) + b"]"
    packed = gzip.compress(array)
    tracemalloc.start()
    count = sum(len(chunk) for chunk in jsonl_rows.read(decoded(io.BytesIO(packed), "in"), "in"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < len(array) / 5
