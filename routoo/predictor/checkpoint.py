"""Reads and writes checkpoints: weights as safetensors, facts as a manifest."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from routoo.errors import CheckpointError
from routoo.files import replacing
from routoo.predictor.estimator import Estimator
from routoo.predictor.manifest import (
    MANIFEST_FILE,
    PREVIOUS_WEIGHTS_FILE,
    WEIGHTS_FILE,
    Manifest,
    manifest_text,
    read_manifest,
)

ADAPTER = "adapter."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint folder that `routoo train` wrote."""

    manifest: Manifest
    estimator: Estimator
    adapters: dict[str, np.ndarray]
    """Of the backbone, by the layers' names; none where it is as it was."""


def pack(estimator: Estimator, adapters: Mapping[str, np.ndarray]) -> bytes:
    """Return all arrays as safetensors; the same arrays give the same bytes."""
    named = {f"{ADAPTER}{name}": array for name, array in adapters.items()}
    arrays = estimator.tensors() | named
    return save({name: _contiguous(array) for name, array in arrays.items()})


def write_checkpoint(folder: Path, weights: bytes, manifest: Manifest) -> None:
    """Write a checkpoint, whole or not at all.

    The manifest comes last: until then the folder holds the checkpoint that it held before, whose
    weights are kept beside the new ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, previous = folder / WEIGHTS_FILE, folder / PREVIOUS_WEIGHTS_FILE
    if path.exists():
        shutil.copyfile(path, previous)
    _put(path, weights)
    _put(folder / MANIFEST_FILE, manifest_text(manifest).encode())
    previous.unlink(missing_ok=True)


def _put(path: Path, content: bytes) -> None:
    with replacing(path) as stream:
        stream.write(content)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: It is absent, damaged, or its weights are not those of its manifest.
    """
    manifest = read_manifest(folder)
    path = folder / WEIGHTS_FILE
    try:
        tensors: Mapping[str, np.ndarray] = load(_weights(folder, manifest.weights_sha256))
        estimator = Estimator.from_tensors(tensors)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "the checkpoint's weights can't be read",
            where=str(path),
            value=str(error),
            remedy="Copy the whole folder again, or train it again",
        ) from error
    except KeyError as error:
        raise CheckpointError(
            f"the checkpoint's weights have no {error}",
            where=str(path),
            remedy="Another release wrote it: train it again with `routoo train`",
        ) from error
    if len(manifest.models) != estimator.count:
        raise CheckpointError(
            "the manifest names another number of models than the weights hold",
            where=str(folder),
            value=f"{len(manifest.models)} for {estimator.count}",
            remedy="Restore the manifest, or train the checkpoint again",
        )
    adapters = {k.removeprefix(ADAPTER): a for k, a in tensors.items() if k.startswith(ADAPTER)}
    return Checkpoint(manifest, estimator, adapters)


def _weights(folder: Path, sha256: str) -> bytes:
    """Return the weights that the manifest describes."""
    path, previous = folder / WEIGHTS_FILE, folder / PREVIOUS_WEIGHTS_FILE
    weights = path.read_bytes()
    if weights_sha256(weights) != sha256 and previous.exists():
        # Another checkpoint was being written here, and did not get as far as its manifest.
        weights = previous.read_bytes()
    if weights_sha256(weights) != sha256:
        raise CheckpointError(
            "the weights are not those that the manifest describes",
            where=str(path),
            remedy="Copy both files of the checkpoint together",
        )
    return weights


def weights_sha256(weights: bytes) -> str:
    """Return the hash that the manifest keeps of its weights."""
    return hashlib.sha256(weights).hexdigest()


def _contiguous(array: np.ndarray) -> np.ndarray:
    # safetensors writes the buffer as it lies in memory, whatever the strides say.
    return np.ascontiguousarray(array)
