"""Adapts linear layers by low-rank matrices: LoRA (Hu et al. 2021, arXiv 2106.09685)."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from routoo.errors import CheckpointError

ADAPTED = ("query", "value", "q_proj", "v_proj")
"""Projections that are adapted, by the names encoders and decoders give them (section 4.2)."""
SCALE = 2.0
"""alpha / rank."""


class LoRALinear(nn.Module):
    """`W x + b + SCALE * up(down(x))` with W and b frozen (section 4.1, equation 3).

    Args:
        base: The layer to adapt.
        rank: Width between `down` and `up`.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        device = base.weight.device
        # Random down and zero up: it starts as the frozen layer.
        start = torch.randn(rank, base.in_features, device=device) / base.in_features**0.5
        self.down = nn.Parameter(start)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=device))

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """Return the frozen layer's output and the adapter's."""
        change = (x.to(self.down.dtype) @ self.down.T) @ self.up.T
        return torch.add(self.base(x), SCALE * change.to(x.dtype))


def add_adapters(model: nn.Module, rank: int) -> list[nn.Parameter]:
    """Freeze a model and put adapters on its attention's projections.

    Returns:
        The parameters to train.

    Raises:
        CheckpointError: The model has no layer of a known name.
    """
    model.requires_grad_(requires_grad=False)
    layers = list(_adaptable(model))
    if not layers:
        raise CheckpointError(
            "the backbone has no layer that can be adapted",
            remedy=f"Use a model with layers named {', '.join(ADAPTED)}, or train without --tune",
        )
    trained: list[nn.Parameter] = []
    for parent, name, base in layers:
        adapted = LoRALinear(base, rank)
        setattr(parent, name, adapted)
        trained += [adapted.down, adapted.up]
    return trained


def adapter_tensors(model: nn.Module) -> dict[str, np.ndarray]:
    """Return the adapters' arrays by the layers' names."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            found[f"{name}.down"] = module.down.detach().cpu().numpy().copy()
            found[f"{name}.up"] = module.up.detach().cpu().numpy().copy()
    return found


def merge_adapters(model: nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Add adapters to the weights they were trained on, so that inference costs nothing more.

    An adapter that learned nothing, as of a layer above those that are read, is left out.

    Raises:
        CheckpointError: The model has no such layer.
    """
    layers = dict(model.named_modules())
    for name in sorted({key.rpartition(".")[0] for key in tensors}):
        layer = layers.get(name)
        down, up = (
            torch.from_numpy(tensors[f"{name}.down"]),
            torch.from_numpy(tensors[f"{name}.up"]),
        )
        if not up.any():
            continue
        if not isinstance(layer, nn.Linear):
            raise CheckpointError(
                "the backbone has no layer of the checkpoint's adapter",
                value=name,
                remedy="Use the backbone that the checkpoint was trained on",
            )
        with torch.no_grad():
            layer.weight += (SCALE * up @ down).to(layer.weight)


def arrays_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """Return a hash over names and numbers."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def drop_adapters(model: nn.Module) -> None:
    """Put the frozen layers back."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoRALinear):
                setattr(parent, name, child.base)


def _adaptable(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name in ADAPTED and isinstance(child, nn.Linear):
                yield parent, name, child
