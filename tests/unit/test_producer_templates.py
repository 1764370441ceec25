"""Templates make prompts of a row's columns, and folders of datasets have rows like files."""

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.commands.batch_options import BatchOptions
from producer.rows.templates import Template
from routoo.errors import InputError
from routoo.store.jobs import JobInput
from tests.unit.test_producer_rows import take


def submitted(path: Path, **options: Any) -> tuple[list[JobInput], list[str]]:
    source = BatchOptions(**options).source(str(path))
    with source.rows() as (rows, _):
        jobs, problems = take(list(rows))
    return jobs, problems.listed


def messages(job: JobInput) -> list[str]:
    return [message["content"] for message in orjson.loads(job.body_json)["messages"]]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Translate: {text}", "Translate: hi {x}"),
        ("{{{text}}} {{}}", "{hi {x}} {}"),
        ("{n}, {share}, {ok}, {tags}", '7, 0.5, true, ["a","b"]'),
        ("{none?}[{void?}]{text?}", "[]hi {x}"),
        ("{a name with spaces}", "there"),
    ],
)
def test_a_template_takes_columns_of_every_type(template: str, text: str) -> None:
    fields = {
        "text": "hi {x}",
        "n": 7,
        "share": 0.5,
        "ok": True,
        "tags": ["a", "b"],
        "void": None,
        "a name with spaces": "there",
    }
    if "{void?}" in template:
        del fields["void"]
    assert Template.parse(template, "--template").fill(fields) == text


@pytest.mark.parametrize("template", ["{", "}", "{}", "{?}", "a {b", "{a{b}}", "}}{"])
def test_a_brace_without_a_column_is_refused(template: str) -> None:
    with pytest.raises(InputError, match="belongs to no column"):
        Template.parse(template, "--template")


def test_rows_of_every_format_fill_a_template(tmp_path: Path) -> None:
    rows = [{"key": 1, "text": "eins", "model": None}, {"key": 2, "text": "zwei", "model": None}]
    (tmp_path / "r.csv").write_text("key,text,model\n1,eins,\n2,zwei,\n")
    (tmp_path / "r.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    for name in ("r.csv", "r.jsonl", "r.parquet"):
        jobs, listed = submitted(
            tmp_path / name,
            template="Say {text}",
            system_template="You count from {key}.",
            id_column="key",
        )
        assert not listed
        assert [job.custom_id for job in jobs] == ["1", "2"]
        assert messages(jobs[1]) == ["You count from 2.", "Say zwei"]


def test_a_row_without_a_column_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"text": "a"}\n{"txt": "b"}\n{"text": "  "}\n')
    jobs, listed = submitted(path, template="{text}")
    assert len(jobs) == 1
    assert (
        "in:2: the row has no value for 'text', which the template needs; it has values for: txt"
        in listed[0]
    )
    assert "in:3: the template's column 'text' is empty" in listed[1]
    assert "{text?}" in listed[1]


def test_a_table_without_a_column_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"r\.csv:1: the table has no column c") as refused:
        submitted(tmp_path / "r.csv", template="{a} {c}")
    assert "Its columns are: a, b." in str(refused.value)


def test_a_long_prompt_of_a_template_is_measured_as_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"t": "x"}\n')
    _, listed = submitted(path, template="word " * 5_000 + "{t}")
    assert "tokens" in listed[0]


def write_arrow(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def save_to_disk(folder: Path, split: str, *parts: list[dict[str, Any]]) -> None:
    """Write a split as `Dataset.save_to_disk` does."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{len(parts):05}.arrow" for n in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        write_arrow(folder / name, rows)
    state = {"_data_files": [{"filename": name} for name in names], "_split": split}
    (folder / "state.json").write_bytes(orjson.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_a_dataset_that_was_saved_to_disk_is_read_part_by_part(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "one", "train", [{"q": n} for n in range(5)], [{"q": 5}])
    jobs, _ = submitted(tmp_path / "one", template="Q{q}")
    assert [messages(job) for job in jobs] == [[f"Q{n}"] for n in range(6)]
    assert jobs[5].custom_id == "row-6"


def test_a_dataset_with_splits_asks_which(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "d" / "train", "train", [{"prompt": "a"}])
    save_to_disk(tmp_path / "d" / "test", "test", [{"prompt": "b"}])
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InputError, match="Choose by --split: train, test"):
        submitted(tmp_path / "d")
    jobs, _ = submitted(tmp_path / "d", split="test")
    assert messages(jobs[0]) == ["b"]
    with pytest.raises(InputError, match="no split of this name"):
        submitted(tmp_path / "d", split="dev")


def parquet(path: Path, prompt: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"prompt": [prompt]}), path)


def test_a_copy_of_a_hub_repository_tells_splits_by_names(tmp_path: Path) -> None:
    parquet(tmp_path / "data" / "train-00000-of-00002.parquet", "a")
    parquet(tmp_path / "data" / "train-00001-of-00002.parquet", "b")
    parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", "c")
    parquet(tmp_path / ".cache" / "test-00000-of-00001.parquet", "hidden")
    jobs, _ = submitted(tmp_path, split="train")
    assert [messages(job) for job in jobs] == [["a"], ["b"]]
    with pytest.raises(InputError, match="Choose by --split: train, validation"):
        submitted(tmp_path)


def test_a_hub_repository_with_subsets_asks_which(tmp_path: Path) -> None:
    parquet(tmp_path / "main" / "test.parquet", "a")
    parquet(tmp_path / "socratic" / "test.parquet", "b")
    with pytest.raises(InputError, match="Choose by --subset: main, socratic"):
        submitted(tmp_path)
    jobs, _ = submitted(tmp_path, subset="socratic")
    assert messages(jobs[0]) == ["b"]


def test_the_readme_of_a_hub_repository_has_the_last_word(tmp_path: Path) -> None:
    parquet(tmp_path / "x" / "part-1.parquet", "a")
    parquet(tmp_path / "y" / "part-2.parquet", "b")
    head = "configs:\n- config_name: default\n  data_files:\n  - split: gold\n    path: y/*\n"
    (tmp_path / "README.md").write_text(f"---\n{head}---\n# A dataset\n")
    jobs, _ = submitted(tmp_path)
    assert [messages(job) for job in jobs] == [["b"]]


def test_a_folder_without_a_dataset_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither Parquet files"):
        submitted(tmp_path)
    (tmp_path / "rows.csv").write_text("prompt\nx\n")
    with pytest.raises(InputError, match=r"^--split: only a dataset's folder has parts"):
        submitted(tmp_path / "rows.csv", split="train")
