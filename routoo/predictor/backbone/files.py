"""Backbones: where a language model's weights lie, and the hash that names them. No torch."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from routoo.errors import CheckpointError

_READER_FILES = ("config.json", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt")


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
