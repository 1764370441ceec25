"""Low-rank adapters, on a small stack of linear layers."""

import pytest
import torch
from torch import nn

from routoo.errors import CheckpointError
from routoo.predictor.backbone.lora import (
    SCALE,
    LoRALinear,
    adapter_tensors,
    add_adapters,
    drop_adapters,
    merge_adapters,
)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(6, 4)
        self.other = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.query(x) + self.other(x)


def _trained() -> tuple[_Attention, torch.Tensor]:
    """Return an adapted model whose adapter says something, and inputs."""
    torch.manual_seed(0)
    model, x = _Attention(), torch.randn(5, 6)
    for parameter in add_adapters(model, rank=2):
        parameter.data.normal_()
    return model, x


def test_an_adapter_adds_its_scaled_product_to_the_frozen_layer() -> None:
    torch.manual_seed(0)
    layer, x = LoRALinear(nn.Linear(6, 4), rank=2), torch.randn(5, 6)
    layer.up.data.normal_()
    weight = layer.base.weight + SCALE * layer.up @ layer.down
    torch.testing.assert_close(layer(x), x @ weight.T + layer.base.bias)


def test_an_untrained_adapter_changes_nothing_and_only_adapters_learn() -> None:
    model, x = _Attention(), torch.randn(5, 6)
    before = model(x)
    trained = add_adapters(model, rank=2)
    torch.testing.assert_close(model(x), before)
    assert [p for p in model.parameters() if p.requires_grad] == trained
    assert sum(p.numel() for p in trained) == 2 * (6 + 4)


def test_merged_weights_answer_as_the_adapters_did() -> None:
    model, x = _trained()
    with torch.no_grad():
        adapted, tensors = model(x), adapter_tensors(model)
        drop_adapters(model)
        assert not torch.allclose(model(x), adapted)
        merge_adapters(model, tensors)
        torch.testing.assert_close(model(x), adapted)
    assert isinstance(model.query, nn.Linear)


def test_an_adapter_of_another_model_is_refused() -> None:
    model, _ = _trained()
    with pytest.raises(CheckpointError, match="no layer of the checkpoint's adapter"):
        merge_adapters(nn.Sequential(nn.Linear(6, 4)), adapter_tensors(model))


def test_an_adapter_that_learned_nothing_needs_no_layer() -> None:
    model = _Attention()
    add_adapters(model, rank=2)
    rest = nn.Sequential(nn.Linear(6, 4))
    before = rest[0].weight.clone()
    merge_adapters(rest, adapter_tensors(model))
    torch.testing.assert_close(rest[0].weight, before, rtol=0, atol=0)


def test_a_model_without_attention_can_not_be_adapted() -> None:
    with pytest.raises(CheckpointError, match="without --tune"):
        add_adapters(nn.Sequential(nn.Linear(6, 4)), rank=2)
