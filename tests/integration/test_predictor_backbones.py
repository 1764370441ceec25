"""Encoders and decoders by path: loading, pooling and tuning by the same code."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

from routoo.cli.main import app
from routoo.domain.items import Item
from routoo.domain.tables import Outcomes, read_items, read_outcomes, write_items, write_outcomes
from routoo.errors import CheckpointError, InputError
from routoo.evaluation.cross_fitting import PromptFeatures, cross_fit, split_items
from routoo.evaluation.quality_metrics import metrics_by_model
from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.backbone.language_model import find_backbone, is_decoder
from routoo.predictor.checkpoint import read_checkpoint
from routoo.predictor.dataset import OutcomeMatrix, outcome_matrix
from routoo.predictor.fitting import FitOptions
from routoo.predictor.manifest import read_manifest
from routoo.predictor.options import (
    DEFAULT_BACKBONE,
    ClassWeight,
    Pooling,
    Precision,
    Protocol,
    Reading,
    TuneOptions,
)
from routoo.predictor.predictor import CheckpointPredictor, load_predictor
from routoo.predictor.prompt_features import prompt_features
from routoo.training.tune import _TuningRun, tune

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "vocab_size": 30522,
}
EXACT = Reading(precision=Precision.FLOAT32)
PROMPTS = ["What is 3 + 4?", "Who?", "Name the capital of a land far away, please."]


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random small model of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    _save_model(request.param, folder)
    return folder


def _save_model(kind: str, folder: Path) -> None:
    torch.manual_seed(0)
    if kind == "encoder":
        transformers.BertModel(transformers.BertConfig(**SMALL)).save_pretrained(folder)
    else:
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(
        find_backbone(DEFAULT_BACKBONE).path
    ).save_pretrained(folder)


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _write_tables(folder: Path, matrix: OutcomeMatrix) -> None:
    """Write what is known of the outcomes as `routoo train` takes it."""
    write_items(folder / "i.parquet", list(matrix.items))
    known = ~np.isnan(matrix.score)
    rows, columns = np.nonzero(known)
    unknown = np.full(len(rows), np.nan, np.float32)
    outcomes = Outcomes(
        [matrix.items[row].item_id for row in rows],
        [matrix.models[column] for column in columns],
        matrix.score[known],
        *(unknown, matrix.completion_tokens[known], unknown.astype(np.float64), unknown),
    )
    write_outcomes(folder / "o.parquet", outcomes)


def _matrix(items: int = 120) -> OutcomeMatrix:
    """Return outcomes that follow from one word of the prompt."""
    rows = tuple(
        Item(str(n), f"Is the {'red' if n % 2 else 'blue'} one of {n} good?") for n in range(items)
    )
    score = np.array([[n % 2, 1 - n % 2] for n in range(items)], np.float32)
    score[::7, 0] = np.nan
    return OutcomeMatrix(rows, ("m", "n"), score, np.full_like(score, 9))


def _tune(folder: Path, state: Path, epochs: int) -> tuple[Encoder, tuple[float, ...]]:
    encoder, matrix = Encoder(find_backbone(str(folder)), EXACT), _matrix()
    options = TuneOptions(rank=4, epochs=epochs, patience=9, learning_rate=0.01)
    inside = np.arange(len(matrix.items)) < 100
    tuned = tune(encoder, matrix, inside, options, state, lambda _: None)
    return encoder, tuned.losses


def test_each_third_of_the_depth_is_pooled_whatever_the_batch(folder: Path) -> None:
    encoder = Encoder(find_backbone(str(folder)), EXACT)
    assert encoder.layers == (1, 2, 3)
    together = encoder.encode(PROMPTS).features
    alone = np.concatenate([encoder.encode([prompt]).features for prompt in PROMPTS])
    assert together.shape == (3, 48)
    assert np.abs(together - alone).max() < 1e-5


@pytest.mark.parametrize("layers", [(0,), (1,), (0, 2)])
def test_layers_above_those_that_are_read_are_left_out_and_change_nothing(
    folder: Path, layers: tuple[int, ...]
) -> None:
    backbone = find_backbone(str(folder))
    whole = Encoder(backbone, replace(EXACT, layers=(0, 1, 2, 3))).encode(PROMPTS).features
    shallow = Encoder(backbone, replace(EXACT, layers=layers))
    stacks = [len(m) for m in shallow.model.modules() if isinstance(m, torch.nn.ModuleList)]
    assert stacks == [max(*layers, 1)]
    width = SMALL["hidden_size"]
    expected = [whole[:, width * layer : width * (layer + 1)] for layer in layers]
    np.testing.assert_array_equal(
        shallow.encode(PROMPTS).features, np.concatenate(expected, axis=1)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_reads_prompts_as_a_cpu_does(folder: Path) -> None:
    backbone, prompts = find_backbone(str(folder)), [f"{'word ' * n}{n}?" for n in range(300)]
    by_cpu, by_gpu = (
        Encoder(backbone, EXACT, device=device).encode(prompts).features
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(by_gpu, by_cpu, atol=1e-4)


def test_a_decoder_is_read_at_its_last_token_unless_told_otherwise(folder: Path) -> None:
    backbone = find_backbone(str(folder))
    usual = Encoder(backbone)
    decodes = "decoder" in folder.name
    assert usual.pooling is (Pooling.LAST if decodes else Pooling.MEAN)
    other = Encoder(backbone, Reading(pooling=Pooling.MEAN if decodes else Pooling.LAST))
    assert np.abs(usual.encode(PROMPTS).features - other.encode(PROMPTS).features).max() > 1e-3
    assert usual.identity != other.identity


def test_a_decoder_is_known_by_its_kind_where_its_architecture_is_not_named() -> None:
    assert is_decoder(transformers.LlamaConfig())
    assert not is_decoder(transformers.BertConfig())
    assert not is_decoder(transformers.RobertaConfig())
    assert is_decoder(transformers.GPT2Config(architectures=["GPT2LMHeadModel"]))


def test_both_poolings_stand_side_by_side(folder: Path) -> None:
    backbone = find_backbone(str(folder))
    encode = {
        pooling: Encoder(backbone, Reading((3,), pooling)).encode(PROMPTS).features
        for pooling in Pooling
    }
    sides = np.concatenate([encode[Pooling.MEAN], encode[Pooling.LAST]], axis=1)
    np.testing.assert_array_equal(encode[Pooling.BOTH], sides)


def test_a_suffix_is_read_after_every_prompt_the_overlong_one_too(folder: Path) -> None:
    backbone, end = find_backbone(str(folder)), Pooling.LAST
    plain = Encoder(backbone, Reading(pooling=end, precision=Precision.FLOAT32))
    cued = Encoder(backbone, Reading(pooling=end, suffix=" Answer:", precision=Precision.FLOAT32))
    by_hand = plain.encode([f"{prompt} Answer:" for prompt in PROMPTS]).features
    np.testing.assert_allclose(cued.encode(PROMPTS).features, by_hand, atol=1e-5)
    (tokens,), (cut,) = cued.tokenise(["word " * 2000])
    assert cut
    assert len(tokens) == cued.window.tokens
    assert tokens[-len(cued.window.suffix) :] == list(cued.window.suffix)
    assert cued.identity != plain.identity


def test_half_precision_is_near_and_has_a_name_of_its_own(folder: Path) -> None:
    backbone = find_backbone(str(folder))
    exact = Encoder(backbone, EXACT)
    half = Encoder(backbone, Reading(precision=Precision.BFLOAT16))
    difference = exact.encode(PROMPTS).features - half.encode(PROMPTS).features
    assert 0 < np.abs(difference).max() < 0.1
    assert exact.identity != half.identity


def test_a_backbone_is_read_as_usual_where_there_is_no_compiler(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    backbone = find_backbone(str(folder))
    usual = Encoder(backbone, EXACT).encode(PROMPTS).features
    fused = Encoder(backbone, replace(EXACT, compiled=True)).encode(PROMPTS).features
    np.testing.assert_array_equal(usual, fused)


def test_each_layer_is_compiled_where_there_is_a_compiler(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _, dynamic: told.append(dynamic))
    Encoder(find_backbone(str(folder)), replace(EXACT, compiled=True))
    assert told == [True] * SMALL["num_hidden_layers"]


def test_compiled_layers_are_run_by_one_thread_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []

    def one_thread(*given: object) -> Iterator[object]:
        told.append(given[2])
        return iter(())

    monkeypatch.setattr("routoo.predictor.backbone.encoder.compute_in_threads", one_thread)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    backbone = find_backbone(str(folder))
    assert Encoder(backbone, replace(EXACT, compiled=True)).encode(PROMPTS).features.any()
    assert not told
    Encoder(backbone, EXACT).encode(PROMPTS)
    assert told == [2]


def test_a_checkpoint_reads_prompts_as_it_was_trained_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTOO_HOME", str(tmp_path))
    _save_model("decoder", tmp_path / "model")
    _write_tables(tmp_path, _matrix())
    _run(
        *("train", "--backbone", str(tmp_path / "model"), "--layer", "2", "--layer", "3"),
        *("--pooling", "both", "--suffix", r"\nAnswer:", "--precision", "float32", "--no-curve"),
        *("--items", str(tmp_path / "i.parquet"), "--outcomes", str(tmp_path / "o.parquet")),
        *("--out", str(tmp_path / "ck")),
    )
    manifest = read_manifest(tmp_path / "ck")
    assert (manifest.layers, manifest.pooling) == ((2, 3), "both")
    assert (manifest.suffix, manifest.precision) == ("\nAnswer:", "float32")
    reading = Reading((2, 3), Pooling.BOTH, "\nAnswer:", Precision.FLOAT32)
    embeds = Encoder(find_backbone(str(tmp_path / "model")), reading)
    expected = CheckpointPredictor(read_checkpoint(tmp_path / "ck"), embeds)
    asked = load_predictor(tmp_path / "ck", device="cpu").predict(PROMPTS, ("m", "n"))
    np.testing.assert_array_equal(asked.quality, expected.predict(PROMPTS, ("m", "n")).quality)


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Return how a small decoder is evaluated by a protocol."""
    monkeypatch.setenv("ROUTOO_HOME", str(tmp_path))
    _save_model("decoder", tmp_path / "model")
    _write_tables(tmp_path, _matrix())
    tables = ("--items", str(tmp_path / "i.parquet"), "--outcomes", str(tmp_path / "o.parquet"))
    model = ("--backbone", str(tmp_path / "model"), "--precision", "float32", "--device", "cpu")
    return ("evaluate", "--json", "--protocol", "random", *tables, *model)


def test_a_protocol_reads_prompts_as_it_is_told_to(
    tmp_path: Path, evaluated: tuple[str, ...]
) -> None:
    reading = ("--layer", "2", "--layer", "3", "--pooling", "both", "--suffix", r"\nAnswer:")
    report = json.loads(_run(*evaluated, *reading, "--class-weight", "balanced"))
    embeds = Encoder(
        find_backbone(str(tmp_path / "model")),
        Reading((2, 3), Pooling.BOTH, "\nAnswer:", Precision.FLOAT32),
    )
    matrix = outcome_matrix(
        read_items(tmp_path / "i.parquet"), read_outcomes(tmp_path / "o.parquet")
    )
    readout = PromptFeatures(prompt_features(matrix.prompts, embeds)[0], embeds.width)
    parts = split_items(matrix, Protocol.RANDOM, 0)
    fit = FitOptions(class_weight=ClassWeight.BALANCED)
    quality = cross_fit(matrix, lambda _: readout, parts, fit)["predictor"]
    assert report["models"] == metrics_by_model(matrix.score, quality, matrix.models)


def test_a_protocol_tunes_the_backbone_once_a_part_and_not_again(
    tmp_path: Path, evaluated: tuple[str, ...]
) -> None:
    tuned = (*evaluated, "--tune", "--epochs", "1", "--rank", "2")
    first = json.loads(_run(*tuned))
    states = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache/tuning").iterdir()}
    assert len(states) == 5
    assert json.loads(_run(*tuned)) == first
    assert {path: path.stat().st_mtime_ns for path in states} == states


def test_tuning_learns_and_its_adapters_make_the_same_encoder_again(
    folder: Path, tmp_path: Path
) -> None:
    encoder, losses = _tune(folder, tmp_path / "state", epochs=6)
    assert min(losses) < losses[0]
    again = Encoder(find_backbone(str(folder)), EXACT)
    before = again.encode(PROMPTS).features
    again.adapt(encoder.adapters)
    after = again.encode(PROMPTS).features
    np.testing.assert_allclose(after, encoder.encode(PROMPTS).features, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3
    assert again.identity == encoder.identity


def test_a_tuning_that_was_cut_off_goes_on_to_the_same_end(folder: Path, tmp_path: Path) -> None:
    _, whole = _tune(folder, tmp_path / "whole", epochs=2)
    _, first = _tune(folder, tmp_path / "parts", epochs=1)
    assert first == whole[:1]
    _, rest = _tune(folder, tmp_path / "parts", epochs=2)
    np.testing.assert_allclose(rest, whole, rtol=1e-6)
    (tmp_path / "parts").write_bytes((tmp_path / "parts").read_bytes()[:1000])
    _, anew = _tune(folder, tmp_path / "parts", epochs=1)
    np.testing.assert_allclose(anew, whole[:1], rtol=1e-6)


@pytest.mark.parametrize(
    ("class_weight", "weight"),
    [(ClassWeight.NONE, 1.0), (ClassWeight.BALANCED, (19 / 2 + 10 / 2) / 2)],
)
def test_tuning_counts_rare_outcomes_for_more_where_told_to(
    folder: Path, class_weight: ClassWeight, weight: float
) -> None:
    matrix = _matrix()
    score = np.zeros_like(matrix.score)
    score[::10] = 1
    score[::20, 0] = np.nan  # 5 of 95 known outcomes are right, of the other model 10 of 100
    score[100:] = 1  # not to be learnt from
    inside, options = np.arange(len(score)) < 100, TuneOptions(1, class_weight=class_weight)
    encoder = Encoder(find_backbone(str(folder)), EXACT)
    run = _TuningRun(encoder, replace(matrix, score=score), inside, options)
    torch.nn.init.zeros_(run.head[1].weight)
    torch.nn.init.zeros_(run.head[1].bias)
    assert run._loss([10, 30]).item() == pytest.approx(weight * np.log(2), rel=1e-5)


def test_a_suffix_that_leaves_no_room_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="too little room for prompts"):
        Encoder(find_backbone(str(folder)), Reading(suffix=" word" * 300))


def test_the_same_weights_with_another_tokenizer_are_another_backbone(tmp_path: Path) -> None:
    _save_model("encoder", tmp_path)
    before = Encoder(find_backbone(str(tmp_path)), EXACT)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    after = Encoder(find_backbone(str(tmp_path)), EXACT)
    assert before.backbone.weights_sha256 == after.backbone.weights_sha256
    assert before.identity != after.identity


def test_a_backbone_is_known_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save_model("encoder", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert find_backbone("model").name == str((tmp_path / "model").resolve())


def test_a_hidden_state_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"from 0 .* to 3"):
        Encoder(find_backbone(str(folder)), Reading((4,)))


def test_a_file_that_is_no_model_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="can't be loaded"):
        Encoder(find_backbone(str(tmp_path)))


@pytest.mark.parametrize(("most", "used"), [(None, 6), (3, 3), (8, 6)])
def test_no_more_threads_read_prompts_than_are_allowed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, most: int | None, used: int
) -> None:
    told: list[object] = []

    def threads(*given: object) -> Iterator[object]:
        told.append(given[2])
        return iter(())

    monkeypatch.setattr("routoo.predictor.backbone.encoder.compute_in_threads", threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    encoder = Encoder(find_backbone(str(folder)), EXACT, threads=most)
    encoder.encode(PROMPTS * 8)
    encoder.encode(PROMPTS[:1])
    assert told == [used, 1]
