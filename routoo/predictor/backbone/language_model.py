"""Finds a backbone's files on this disk, hashes them, and loads the language model."""

import ctypes
import hashlib
import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from routoo.errors import CheckpointError
from routoo.predictor.options import Precision

_READER_FILES = ("config.json", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt")
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Numbers of mallopt's options, as in malloc.h."""
_KEPT_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Backbone:
    """A language model on this disk."""

    name: str
    """Package name, or the whole path."""
    path: Path
    """Folder in Hugging Face layout, or a GGUF file."""
    weights_sha256: str
    """Hash over the weight files, by which a checkpoint recognises its backbone."""
    reader_sha256: str
    """Hash over configuration and tokenizer: the same weights may come with other ones."""


def find_backbone(name: str) -> Backbone:
    """Find a backbone by local path or by the name of an installed package.

    Args:
        name: A folder with config.json and safetensors, a GGUF file, or a package that holds such
            a folder as `model`.

    Returns:
        The backbone, its weights hashed.

    Raises:
        CheckpointError: There is no such backbone.
    """
    path = Path(name)
    if path.exists():
        path = path.resolve()
        name = str(path)
    else:
        path = _package_folder(name)
    weights = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(
            "the backbone has no weights",
            where=str(path),
            remedy="Name a folder with *.safetensors, or a .gguf file",
        )
    reader = [] if path.is_file() else sorted(set().union(*map(path.glob, _READER_FILES)))
    return Backbone(name, path, _sha256(weights), _sha256(reader))


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            "no such backbone",
            value=name,
            remedy="Give the path of a model folder, or install the package that carries it",
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def load_language_model(
    backbone: Backbone, device: torch.device, precision: Precision = Precision.AUTO
) -> tuple[Any, Any]:
    """Return a backbone's tokenizer and its model, in evaluation mode.

    Attention is PyTorch's fused one where the model has it (transformers' default).

    Raises:
        CheckpointError: The files are damaged, or reading GGUF needs packages that aren't there.
    """
    if device.type == "cpu":
        keep_freed_memory()
    # Its bar would draw over our own.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    where, options = backbone.path, {}
    if backbone.path.is_file():
        where, options = backbone.path.parent, {"gguf_file": backbone.path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        dtype = choose_dtype(precision, device, torch.cpu.get_capabilities())
        model = AutoModel.from_pretrained(where, dtype=dtype, **options)
    except (ImportError, OSError, ValueError) as error:
        raise CheckpointError(
            "the backbone can't be loaded",
            where=str(backbone.path),
            value=str(error),
            remedy="Check its files; a GGUF file needs `pip install gguf accelerate`",
        ) from error
    return tokenizer, model.to(device).eval()


def choose_dtype(
    precision: Precision, device: torch.device, cpu: Mapping[str, object]
) -> torch.dtype:
    """Return the type of numbers that a backbone computes in.

    By default that is bfloat16 where the device multiplies such matrices in hardware, several times
    as fast as single precision: a GPU, and a CPU with AMX or AVX-512's instructions for it.

    Args:
        precision: What was asked for.
        device: Where the backbone computes.
        cpu: What the processor can do, as `torch.cpu.get_capabilities` says.
    """
    if precision is not Precision.AUTO:
        return torch.float32 if precision is Precision.FLOAT32 else torch.bfloat16
    fast = device.type == "cuda" or cpu.get("amx_bf16") or cpu.get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32


def drop_layers(model: Any, above: int) -> None:
    """Leave out the layers above a hidden state, which then cost no time and no memory.

    The hidden states below stay what they were: a model's last state has passed its last norm,
    states in the middle have not.

    Args:
        model: As transformers loads it.
        above: The deepest hidden state that is read; 0, the token embeddings, keeps one layer.
    """
    depth, kept = model.config.num_hidden_layers, max(above, 1)
    if kept >= depth:
        return
    for stack in _layer_stacks(model):
        del stack[kept:]
    model.config.num_hidden_layers = kept
    model.config.tie_last_hidden_states = False


def compile_layers(model: Any) -> None:
    """Let torch.compile fuse what a layer does between its matrix products, for any shape.

    Layers share their code, so that one is compiled for all. Without a compiler nothing is done.
    """
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return
    for stack in _layer_stacks(model):
        for layer in stack:
            layer.compile(dynamic=True)


def _layer_stacks(model: Any) -> list[torch.nn.ModuleList]:
    depth = model.config.num_hidden_layers
    stacks = (part for part in model.modules() if isinstance(part, torch.nn.ModuleList))
    return [stack for stack in stacks if len(stack) == depth]


def is_decoder(config: Any) -> bool:
    """Return whether a model continues text, so that only its last token attends to all others.

    Kinds that also fill gaps (BERT, RoBERTa) are encoders: as decoders they need another
    configuration, and other weights. A GGUF file names no architecture, but its kind.
    """
    kind = config.model_type
    continues = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return continues and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def keep_freed_memory() -> None:
    """Make the C library keep up to 1 GiB of freed memory for later allocations.

    A layer's intermediate results are tens of megabytes. By default glibc gives such blocks back to
    the kernel at once, and every layer waits for fresh pages: a fifth to a third of the time of a
    decoder on a CPU. Another C library is left as it is.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_MMAP_THRESHOLD, _KEPT_BYTES)
        tune(_TRIM_THRESHOLD, _KEPT_BYTES)
