"""The default backbone, from text to checkpoint and back, through the command line's functions."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from routoo.cli.main import app, main
from routoo.domain.items import Item
from routoo.domain.tables import Outcomes, read_items, read_outcomes, write_items, write_outcomes
from routoo.errors import CheckpointError, InputError
from routoo.predictor.backbone.encoder import EncodedPrompts, Encoder, Progress
from routoo.predictor.backbone.language_model import find_backbone
from routoo.predictor.checkpoint import (
    pack,
    read_checkpoint,
    weights_sha256,
    write_checkpoint,
)
from routoo.predictor.manifest import checkpoint_models, manifest_text, read_manifest
from routoo.predictor.options import DEFAULT_BACKBONE, Precision, Reading
from routoo.predictor.predictor import CheckpointPredictor, load_predictor
from routoo.predictor.prompt_features import EmbeddingCache

EXAMPLE = Path(__file__).parents[2] / "examples"
ODD_PROMPTS = (
    "",
    " ",
    "\x00\x01\x1b[0m",
    "\ud83d lone",
    "\N{GRINNING FACE}" * 50,
    "\u0645\u0631\u062d\u0628\u0627 \u200f\u05e9\u05dc\u05d5\u05dd",
    "word " * 20_000,
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(find_backbone(DEFAULT_BACKBONE), Reading((2, 4, 6)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("predictor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROUTOO_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    _write_tables(folder)
    _run("train", "--out", str(folder / "ck"), *_tables(folder))
    return folder / "ck"


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> CheckpointPredictor:
    return load_predictor(checkpoint, device="cpu")


def _write_tables(folder: Path) -> None:
    """Write sums, which the weak model gets wrong, and capitals, which both get right."""
    items, rows = [], []
    for n in range(60):
        prompt = f"What is {n * 37} + {n * 11}?" if n % 2 else f"What is the capital of land {n}?"
        items.append(Item(str(n), prompt, subject="sums" if n % 2 else "places"))
        rows += [(str(n), "weak", float(n % 2 == 0), 5.0), (str(n), "strong", 1.0, 50.0)]
    count = len(rows)
    ids, models, scores, tokens = zip(*rows, strict=True)
    number = np.float32
    write_items(folder / "i.parquet", items)
    write_outcomes(
        folder / "o.parquet",
        Outcomes(
            list(ids),
            list(models),
            np.array(scores, number),
            np.full(count, 9, number),
            np.array(tokens, number),
            np.where(np.array(models) == "weak", 0.001, 0.01),
            np.full(count, np.nan, number),
        ),
    )


def _tables(folder: Path) -> tuple[str, ...]:
    return ("--items", str(folder / "i.parquet"), "--outcomes", str(folder / "o.parquet"))


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.BFLOAT16])
def test_a_score_does_not_depend_on_its_batch_mates(precision: Precision) -> None:
    reading = Reading((2, 4, 6), precision=precision)
    encoder = Encoder(find_backbone(DEFAULT_BACKBONE), reading)
    generator = np.random.default_rng(0)
    prompts = ["word " * int(n) for n in generator.integers(1, 200, 8)] + list(ODD_PROMPTS[:6])
    alone = np.concatenate([encoder.encode([prompt]).features for prompt in prompts])
    for _ in range(3):
        order = generator.permutation(len(prompts))
        together = encoder.encode([prompts[row] for row in order]).features
        assert np.abs(together - alone[order]).max() < 1e-5


@pytest.mark.parametrize("count", [0, 1, 50])
def test_several_threads_read_prompts_as_one_does(count: int) -> None:
    prompts = [f"{'word ' * (n % 9)}{n}?" for n in range(count)]
    encoder, before = Encoder(find_backbone(DEFAULT_BACKBONE)), torch.get_num_threads()
    features = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        features.append(encoder.encode(prompts).features)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    np.testing.assert_allclose(*features, atol=1e-5)


def test_estimates_in_bfloat16_are_near_those_in_single_precision() -> None:
    checkpoint, backbone = read_checkpoint(EXAMPLE / "checkpoint"), find_backbone(DEFAULT_BACKBONE)
    prompts = [item.prompt for item in read_items(EXAMPLE / "training_questions.jsonl")][:64]
    layers, models = checkpoint.manifest.layers, checkpoint.manifest.models
    exact, rounded = (
        CheckpointPredictor(checkpoint, Encoder(backbone, Reading(layers, precision=precision)))
        for precision in (Precision.FLOAT32, Precision.BFLOAT16)
    )
    single, half = exact.predict(prompts, models), rounded.predict(prompts, models)
    assert 0 < np.abs(half.quality - single.quality).max() < 0.01
    np.testing.assert_allclose(half.completion_tokens, single.completion_tokens, rtol=0.02)
    assert exact.remembers(prompts).all()
    assert rounded.remembers(prompts).all()


def test_odd_prompts_get_finite_scores_and_only_overlong_ones_are_flagged(
    predictor: CheckpointPredictor,
) -> None:
    estimates = predictor.predict(ODD_PROMPTS, ("weak", "strong"))
    assert np.isfinite(estimates.quality).all()
    assert ((estimates.quality > 0) & (estimates.quality < 1)).all()
    assert (estimates.completion_tokens >= 1).all()
    assert estimates.truncated.tolist() == [False] * 6 + [True]


def test_no_prompts_are_no_predictions(predictor: CheckpointPredictor) -> None:
    assert predictor.predict([], ("weak",)).quality.shape == (0, 1)


def test_models_may_be_any_part_of_the_checkpoints_in_any_order(
    predictor: CheckpointPredictor,
) -> None:
    both = predictor.predict(["What is 3 + 4?"], ("strong", "weak"))
    one = predictor.predict(["What is 3 + 4?"], ("weak",))
    np.testing.assert_array_equal(both.quality[:, 1:], one.quality)
    assert both.quality[0, 0] > both.quality[0, 1]
    assert both.completion_tokens[0, 0] > both.completion_tokens[0, 1]


def test_a_model_the_checkpoint_does_not_know_is_refused_with_a_remedy(
    predictor: CheckpointPredictor,
) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint knows strong, weak"):
        predictor.predict(["Why?"], ("unknown",))


def test_predict_writes_a_row_for_every_item_and_model(checkpoint: Path, folder: Path) -> None:
    out = folder / "p.parquet"
    items = str(folder / "i.parquet")
    _run("predict", "--checkpoint", str(checkpoint), "--items", items, "--out", str(out))
    table = pq.read_table(out)
    assert table.num_rows == 120
    assert {"item_id", "model", "quality", "completion_tokens"} <= set(table.column_names)
    with pytest.raises(InputError, match=r"\.csv.* End the file's name in \.parquet, \.jsonl"):
        _run("predict", "--checkpoint", str(checkpoint), "--items", items, "--out", "p.csv")


def test_a_bad_row_does_not_block_the_others(checkpoint: Path, tmp_path: Path) -> None:
    items, out = tmp_path / "i.jsonl", tmp_path / "p.jsonl"
    items.write_text('{"prompt": "What is 2 + 2?"}\n{"prompt": 5}\n{"prompt": "Who?"}\n')
    files = ("--checkpoint", str(checkpoint), "--items", str(items), "--out", str(out))
    result = CliRunner().invoke(app, ("predict", *files, "--json"))
    assert result.exit_code == 5
    facts = json.loads(result.stdout)
    assert (facts["items"], facts["models"], facts["truncated"]) == (2, ["strong", "weak"], 0)
    assert facts["bad_rows"] == [f"{items}:2: the row has no prompt. Give prompt or body."]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["item_id"], row["model"]) for row in rows] == [
        ("1", "strong"), ("1", "weak"), ("3", "strong"), ("3", "weak"),
    ]  # fmt: skip


def test_train_tells_its_figures_as_json(checkpoint: Path, folder: Path) -> None:
    del checkpoint  # it wrote the tables
    told = _run("train", "--json", "--no-curve", "--out", str(folder / "json"), *_tables(folder))
    facts = json.loads(told)
    assert facts["items"] == 60
    assert facts["held_out"]["models"]["strong"]["auc"] is None  # always right


def test_what_can_not_be_written_is_told_before_the_work(checkpoint: Path, folder: Path) -> None:
    del checkpoint  # it wrote the tables
    train = ("train", "--out", str(folder / "never"), *_tables(folder))
    with pytest.raises(InputError, match=r"no such format to draw in.*\.png, \.svg, \.pdf"):
        _run(*train, "--plot", str(folder / "curve.xyz"))
    with pytest.raises(NotADirectoryError):
        _run(*train, "--cache", str(folder / "i.parquet" / "cache"))
    assert not (folder / "never" / "manifest.json").exists()


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cpu:1"])
def test_a_device_that_is_not_there_is_refused(checkpoint: Path, device: str) -> None:
    with pytest.raises(InputError, match="no such device here"):
        load_predictor(checkpoint, device=device)


def test_an_output_that_can_not_be_written_is_a_message(
    checkpoint: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted = ["--items", folder / "i.parquet", "--out", folder / "i.parquet" / "p.parquet"]
    command = ["routoo", "predict", "--checkpoint", checkpoint, *wanted]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 4
    assert said.startswith(f"error: {folder / 'i.parquet'}")
    assert "Traceback" not in said


def test_evaluate_prints_figures_with_intervals(checkpoint: Path, folder: Path) -> None:
    report = json.loads(
        _run("evaluate", "--json", "--checkpoint", str(checkpoint), *_tables(folder))
    )
    assert {row["model"]: row for row in report["reliability"]}["weak"]["auc"] > 0.9
    assert set(report["mean"]["brier"]) == {"value", "low", "high"}
    assert report["pool"]["frontiers"]["predictor"]["gain"]["value"] > 0
    assert report["pool"]["reference"] == "strong"
    with pytest.raises(InputError, match="no such model to compare with"):
        _run("evaluate", "--checkpoint", str(checkpoint), *_tables(folder), "--reference", "no")


def test_prompts_it_was_trained_on_are_told_from_new_ones(
    predictor: CheckpointPredictor,
) -> None:
    asked = ["What is 37 + 11?", "Why do cats purr?"]
    assert predictor.remembers(asked).tolist() == [True, False]


def test_evaluate_fits_anew_by_a_protocol(folder: Path, checkpoint: Path) -> None:
    del checkpoint  # it wrote the tables
    report = json.loads(_run("evaluate", "--json", "--protocol", "random", *_tables(folder)))
    assert report["mean"]["auc"]["value"] > 0.9
    with pytest.raises(InputError, match="Give --checkpoint, or --protocol"):
        _run("evaluate", *_tables(folder))


def test_a_checkpoint_is_evaluated_only_as_it_was_fitted(checkpoint: Path, folder: Path) -> None:
    odd = ("--protocol", "random", "--layer", "2", "--class-weight", "balanced")
    with pytest.raises(InputError, match=r"--protocol, --layer, --class-weight.* Leave these"):
        _run("evaluate", "--checkpoint", str(checkpoint), *odd, *_tables(folder))


def test_checkpoint_show_prints_the_manifest(checkpoint: Path) -> None:
    shown = json.loads(_run("checkpoint", "show", str(checkpoint), "--json"))
    assert shown["models"] == ["strong", "weak"]
    assert (checkpoint / "learning_curve.png").stat().st_size > 0


def test_class_weights_are_kept_in_the_checkpoints_settings(checkpoint: Path, folder: Path) -> None:
    assert read_manifest(checkpoint).settings["class_weight"] == "none"
    out = ("--class-weight", "balanced", "--no-curve", "--out", str(folder / "balanced"))
    _run("train", *out, *_tables(folder))
    assert read_manifest(folder / "balanced").settings["class_weight"] == "balanced"
    estimates = load_predictor(folder / "balanced").predict(["What is 3 + 4?"], ("strong", "weak"))
    assert estimates.quality[0, 0] > estimates.quality[0, 1]


def test_a_model_is_added_from_a_few_graded_answers(checkpoint: Path, folder: Path) -> None:
    before = read_manifest(checkpoint)
    outcomes = read_outcomes(folder / "o.parquet")
    alike = outcomes.select(np.array([name == "weak" for name in outcomes.models]))
    write_outcomes(folder / "new.parquet", replace(alike, models=["new"] * len(alike.models)))
    tables = ("--items", str(folder / "i.parquet"), "--outcomes", str(folder / "new.parquet"))
    more = (str(checkpoint), "--model", "new", *tables, "--out", str(folder / "more"))
    added = json.loads(_run("checkpoint", "add-model", *more, "--json"))
    assert added["held_out"]["auc"] > 0.9
    old, new = load_predictor(checkpoint), load_predictor(folder / "more")
    prompts = ["What is 3 + 4?", "What is the capital of land 7?"]
    estimates = new.predict(prompts, ("strong", "weak", "new"))
    np.testing.assert_array_equal(
        estimates.quality[:, :2], old.predict(prompts, ("strong", "weak")).quality
    )
    assert estimates.quality[0, 2] + 0.1 < estimates.quality[1, 2]
    assert read_manifest(folder / "more").models == (*before.models, "new")
    with pytest.raises(InputError, match="knows this model already"):
        _run("checkpoint", "add-model", str(folder / "more"), *more[1:])


def test_embeddings_are_read_back_from_the_cache_as_they_were(
    encoder: Encoder, tmp_path: Path
) -> None:
    prompts = ["one", "two", "one", "\ud800"]
    first = EmbeddingCache(tmp_path, encoder).encode(prompts)
    told: list[int] = []
    again = EmbeddingCache(tmp_path, encoder).encode([*prompts[::-1], "new"], told.append)
    np.testing.assert_array_equal(again.features[:4], first.features[::-1])
    assert sum(told) == 5


def test_a_damaged_file_of_embeddings_is_computed_again(encoder: Encoder, tmp_path: Path) -> None:
    first = EmbeddingCache(tmp_path, encoder).encode(["one", "two"])
    (kept,) = tmp_path.rglob("*.npz")
    for damaged in (b"", kept.read_bytes()[:-100], b"nothing"):
        kept.write_bytes(damaged)
        again = EmbeddingCache(tmp_path, encoder).encode(["one", "two"])
        np.testing.assert_array_equal(again.features, first.features)
    assert EmbeddingCache(tmp_path, encoder).encode(["two"]).features.shape == (1, encoder.width)


def test_equal_prompts_are_read_once(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    encode = Encoder.encode

    def counted(
        self: Encoder, prompts: Sequence[str], progress: Progress | None = None
    ) -> EncodedPrompts:
        read.extend(prompts)
        return encode(self, prompts, progress)

    monkeypatch.setattr(Encoder, "encode", counted)
    features = EmbeddingCache(tmp_path, encoder).encode(["one", "two", "one", "one"]).features
    assert read == ["one", "two"]
    np.testing.assert_array_equal(features[[0, 2, 3]], features[[0, 0, 0]])


def test_the_manifest_can_be_read_without_torch(checkpoint: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from routoo.predictor.manifest import checkpoint_models;"
        f"print(*checkpoint_models(Path({str(checkpoint)!r})));"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["strong", "weak"]


def test_a_checkpoint_that_does_not_fit_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    manifest = read_manifest(checkpoint)
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    for change, complaint in (
        ({"backbone_sha256": "0" * 64}, "backbone's weights are not those"),
        ({"reader_sha256": "0" * 64}, "configuration or tokenizer is not that"),
        ({"weights_sha256": "0" * 64}, "not those that the manifest describes"),
        ({"models": ("strong", "weak", "more")}, "another number of models"),
        ({"models": ("strong", "strong")}, "not as `routoo train` writes it"),
        ({"layers": ("a",)}, "not as `routoo train` writes it"),
        ({"pooling": "sum"}, "unknown way to read prompts"),
        ({"format_version": 99}, "routoo train"),
    ):
        wrong = json.loads(manifest_text(manifest)) | change
        (tmp_path / "manifest.json").write_text(json.dumps(wrong))
        with pytest.raises(CheckpointError, match=complaint):
            load_predictor(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="manifest can't be read"):
        checkpoint_models(tmp_path)


@pytest.mark.parametrize("cut_off_at", ["model.safetensors", "manifest.json", ""])
def test_writing_over_a_checkpoint_leaves_the_old_one_or_the_new_one(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_off_at: str
) -> None:
    old, folder = read_checkpoint(checkpoint), tmp_path / "ck"
    weights = (checkpoint / "model.safetensors").read_bytes()
    write_checkpoint(folder, weights, old.manifest)
    other = pack(old.estimator, {"layer": np.zeros(1, np.float32)})
    new = replace(old.manifest, weights_sha256=weights_sha256(other))
    rename = Path.replace

    def cut_off(path: Path, target: Path) -> Path:
        if target.name == cut_off_at:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", cut_off)
    with suppress(KeyboardInterrupt):
        write_checkpoint(folder, other, new)
    monkeypatch.undo()
    assert read_checkpoint(folder).manifest == (old.manifest if cut_off_at else new)
    write_checkpoint(folder, other, new)
    assert read_checkpoint(folder).manifest == new
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "manifest.json"}


def test_a_manifest_is_json_where_figures_are_missing_too(checkpoint: Path) -> None:
    manifest = replace(read_manifest(checkpoint), metrics={"mean": {"auc": math.nan, "ece": 0.1}})
    text = manifest_text(manifest)
    assert json.loads(text, parse_constant=pytest.fail)["metrics"]["mean"]["auc"] is None


def test_a_backbone_that_is_not_there_is_refused_with_a_remedy() -> None:
    with pytest.raises(CheckpointError, match="install the package"):
        find_backbone("no_such_backbone")
