"""Encoders and decoders by path: loading, pooling and tuning by the same code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from routoo.domain.tables import Item
from routoo.errors import CheckpointError
from routoo.predictor.backbone import DEFAULT_BACKBONE, Pooling, find_backbone
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.encoder import Encoder
from routoo.predictor.tuning import TuneOptions, tune

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "vocab_size": 30522,
}
PROMPTS = ["What is 3 + 4?", "Who?", "Name the capital of a land far away, please."]


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random small model of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param == "encoder":
        BertModel(BertConfig(**SMALL)).save_pretrained(folder)
    else:
        LlamaForCausalLM(LlamaConfig(**SMALL)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_backbone(DEFAULT_BACKBONE).path).save_pretrained(folder)
    return folder


def _matrix(items: int = 120) -> OutcomeMatrix:
    """Return outcomes that follow from one word of the prompt."""
    rows = tuple(
        Item(str(n), f"Is the {'red' if n % 2 else 'blue'} one of {n} good?") for n in range(items)
    )
    score = np.array([[n % 2, 1 - n % 2] for n in range(items)], np.float32)
    score[::7, 0] = np.nan
    return OutcomeMatrix(rows, ("m", "n"), score, np.full_like(score, 9))


def _tune(folder: Path, state: Path, epochs: int) -> tuple[Encoder, tuple[float, ...]]:
    encoder, matrix = Encoder(find_backbone(str(folder))), _matrix()
    options = TuneOptions(rank=4, epochs=epochs, patience=9, learning_rate=0.01)
    inside = np.arange(len(matrix.items)) < 100
    tuned = tune(encoder, matrix, inside, options, state, lambda _: None)
    return encoder, tuned.losses


def test_each_third_of_the_depth_is_pooled_whatever_the_batch(folder: Path) -> None:
    encoder = Encoder(find_backbone(str(folder)))
    assert encoder.layers == (1, 2, 3)
    together = encoder.encode(PROMPTS).features
    alone = np.concatenate([encoder.encode([prompt]).features for prompt in PROMPTS])
    assert together.shape == (3, 48)
    assert np.abs(together - alone).max() < 1e-5


def test_a_decoder_is_read_at_its_last_token_unless_told_otherwise(folder: Path) -> None:
    backbone = find_backbone(str(folder))
    usual = Encoder(backbone)
    decodes = "decoder" in folder.name
    assert usual.pooling is (Pooling.LAST if decodes else Pooling.MEAN)
    other = Encoder(backbone, pooling=Pooling.MEAN if decodes else Pooling.LAST)
    assert np.abs(usual.encode(PROMPTS).features - other.encode(PROMPTS).features).max() > 1e-3
    assert usual.identity != other.identity


def test_tuning_learns_and_its_adapters_make_the_same_encoder_again(
    folder: Path, tmp_path: Path
) -> None:
    encoder, losses = _tune(folder, tmp_path / "state", epochs=3)
    assert min(losses) < losses[0]
    again = Encoder(find_backbone(str(folder)))
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


def test_a_hidden_state_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"from 0 .* to 3"):
        Encoder(find_backbone(str(folder)), (4,))


def test_a_file_that_is_no_model_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="can't be loaded"):
        Encoder(find_backbone(str(tmp_path)))
