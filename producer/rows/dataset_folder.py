"""Reads folders of Hugging Face datasets: as `save_to_disk` leaves them, and as on the hub.

`save_to_disk` writes Arrow files with a `state.json`, a folder a split below a `dataset_dict.json`.
The hub has Parquet files whose names tell the split, and a README whose first lines may list them.

Source: the `datasets` library, "Process: Save" and "Structure your repository" in its guides.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from producer.rows.formats import CHUNK_ROWS, RawRow, WantedColumns, in_chunks
from producer.rows.parquet_rows import raw_rows
from routoo.errors import InputError

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_ONLY_SPLIT = "train"
"""What the library calls the one split of files that name none."""
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_SHARD = re.compile(r"(?P<split>[\w.-]+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
_WORD = re.compile(r"[^a-zA-Z]+")
_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """The files of one split."""

    folder: Path
    paths: tuple[Path, ...]
    """In the order of their rows."""

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(path.stat().st_size for path in self.paths)

    def chunks(self, columns: WantedColumns) -> Iterator[list[RawRow]]:
        """Yield the rows of all files in chunks, numbered from 1 over all of them.

        Raises:
            InputError: A file can't be read, or lacks a wanted column.
        """
        yield from in_chunks(raw_rows(self._batches(columns)))

    def _batches(self, columns: WantedColumns) -> Iterator[pa.RecordBatch]:
        for path in self.paths:
            try:
                read = _arrow if path.suffix == ".arrow" else _parquet
                yield from read(path, columns)
            except (OSError, pa.ArrowException) as error:
                raise InputError(
                    "the file of the dataset can't be read", value=str(error)[:200], where=str(path)
                ) from error


def _arrow(path: Path, columns: WantedColumns) -> Iterator[pa.RecordBatch]:
    # The library writes the stream form; other writers of .arrow files write the file form.
    with pa.memory_map(str(path)) as mapped:
        try:
            reader = pa.ipc.open_stream(mapped)
        except pa.ArrowInvalid:
            mapped.seek(0)
            found = pa.ipc.open_file(mapped)
            batches = (found.get_batch(number) for number in range(found.num_record_batches))
            schema = found.schema
        else:
            batches, schema = iter(reader), reader.schema
        columns.check(schema.names, str(path))
        wanted = [name for name in schema.names if columns.takes(name)]
        for batch in batches:
            chosen = batch.select(wanted)
            for first in range(0, chosen.num_rows, CHUNK_ROWS):
                yield chosen.slice(first, CHUNK_ROWS)


def _parquet(path: Path, columns: WantedColumns) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        names = file.schema_arrow.names
        columns.check(names, str(path))
        wanted = [name for name in names if columns.takes(name)]
        yield from file.iter_batches(batch_size=CHUNK_ROWS, columns=wanted)


def find_files(
    folder: Path, *, subset: str | None = None, split: str | None = None
) -> DatasetFiles:
    """Return the files of a split of the dataset in a folder.

    Args:
        folder: What `save_to_disk` wrote, or a copy of a repository of the hub.
        subset: Name of a part with columns of its own ("config"); the only one, or `default`, where
            unset.
        split: Its name; the only one where unset.

    Raises:
        InputError: It is no dataset, or which split or subset is meant doesn't follow, or there is
            none of that name.
    """
    where = str(folder)
    if (folder / _SPLITS).is_file():
        names = _json(folder / _SPLITS).get("splits") or _folders_with_state(folder)
        name = _chosen("split", [str(one) for one in names], split, where)
        return DatasetFiles(folder, _saved(folder / name))
    if (folder / _STATE).is_file():
        kept = str(_json(folder / _STATE).get("_split") or _ONLY_SPLIT)
        _chosen("split", [kept], split, where)
        return DatasetFiles(folder, _saved(folder))
    subsets = _listed(folder) or _told_by_names(folder)
    if not subsets:
        raise InputError(
            "this folder holds no dataset: neither Parquet files nor what save_to_disk writes",
            where=where,
            remedy="Name a file, or a folder with a state.json or with *.parquet",
        )
    of_subset = subsets[_chosen("subset", list(subsets), subset, where, default=_DEFAULT)]
    return DatasetFiles(folder, of_subset[_chosen("split", list(of_subset), split, where)])


def _chosen(
    what: str, names: Sequence[str], wanted: str | None, where: str, *, default: str | None = None
) -> str:
    """Return the name that is wanted, or the only one."""
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None and default in names:
        return str(default)
    if wanted in names:
        return str(wanted)
    listed = ", ".join(names)
    asked = f"there is no {what} of this name" if wanted else f"the dataset has several {what}s"
    raise InputError(
        asked, value=wanted or listed, where=where, remedy=f"Choose by --{what}: {listed}"
    )


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError("the file can't be read", value=str(error), where=str(path)) from error
    return found if isinstance(found, dict) else {}


def _folders_with_state(folder: Path) -> list[str]:
    return sorted(state.parent.name for state in folder.glob(f"*/{_STATE}"))


def _saved(folder: Path) -> tuple[Path, ...]:
    """Return the Arrow files that a folder's state lists; they lie in it."""
    state = folder / _STATE
    named = _json(state).get("_data_files") or ()
    paths = tuple(folder / Path(str(one.get("filename"))).name for one in named)
    lost = next((path for path in paths if not path.is_file()), None)
    if lost is not None:
        raise InputError("a file of the dataset is not there", value=lost.name, where=str(state))
    if _json(state).get("_indices_data_files"):
        raise InputError(
            "the dataset was saved with a selection of its rows beside them",
            where=str(state),
            remedy="Save it with flatten_indices().save_to_disk(...)",
        )
    return paths


_Subsets = dict[str, dict[str, tuple[Path, ...]]]
"""Files by split by subset."""


def _listed(folder: Path) -> _Subsets:
    """Return the files that the first lines of the README list, as the hub reads them."""
    readme = folder / "README.md"
    text = readme.read_text(errors="replace") if readme.is_file() else ""
    head = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    try:
        facts = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        facts = None
    configs = facts.get("configs") if isinstance(facts, dict) else None
    found: _Subsets = {}
    for config in configs if isinstance(configs, list) else ():
        splits = _listed_splits(folder, config.get("data_files"))
        if splits:
            found[str(config.get("config_name", _DEFAULT))] = splits
    return found


def _listed_splits(folder: Path, listed: object) -> dict[str, tuple[Path, ...]]:
    if isinstance(listed, str):
        listed = [{"split": _ONLY_SPLIT, "path": listed}]
    found: dict[str, tuple[Path, ...]] = {}
    for one in listed if isinstance(listed, list) else ():
        facts = one if isinstance(one, dict) else {"path": one}
        named = facts.get("path")
        globs: list[object] = named if isinstance(named, list) else [named]
        files = [path for path in _parquet_files(folder) if _fits(folder, path, globs)]
        if files:
            split = str(facts.get("split", _ONLY_SPLIT))
            found[split] = (*found.get(split, ()), *files)
    return found


def _fits(folder: Path, path: Path, globs: Sequence[object]) -> bool:
    return any(fnmatch(path.relative_to(folder).as_posix(), str(pattern)) for pattern in globs)


def _parquet_files(folder: Path) -> list[Path]:
    found = (path for kind in ("*.parquet", "*.pq") for path in folder.rglob(kind))

    def is_hidden(path: Path) -> bool:
        return any(part[0] in "._" for part in path.relative_to(folder).parts)

    return sorted(path for path in found if not is_hidden(path))


def _told_by_names(folder: Path) -> _Subsets:
    """Return the files by what their names and folders tell."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in _parquet_files(folder):
        parts = path.relative_to(folder).parts
        folders = [part for part in parts[:-1] if part != "data"]
        split = _split_of(path.stem)
        if split is None and folders and (split := _split_of(folders[-1])) is not None:
            folders.pop()
        subset = "/".join(folders) or _DEFAULT
        found.setdefault(subset, {}).setdefault(split or _ONLY_SPLIT, []).append(path)
    return {
        subset: {split: tuple(paths) for split, paths in splits.items()}
        for subset, splits in found.items()
    }


def _split_of(name: str) -> str | None:
    """Return the split that a name tells: `test-00000-of-00002`, `val`, `my_train_part`."""
    shard = _SHARD.fullmatch(name)
    if shard is not None:
        return shard["split"]
    words = (_SPLIT_WORDS.get(word.lower()) for word in _WORD.split(name))
    return next(filter(None, words), None)
