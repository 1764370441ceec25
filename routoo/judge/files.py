"""Reads and writes the judge in a checkpoint's folder: safetensors, and facts in the manifest."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors import SafetensorError
from safetensors.numpy import load, save

from routoo.errors import CheckpointError
from routoo.files import replacing
from routoo.judge.judge import AnswerJudge
from routoo.judge.pair_judge import PairJudge
from routoo.judge.probe_judge import ProbeJudge
from routoo.predictor.manifest import named_part, read_manifest

_PATTERN = "judge-*.safetensors"
_NAME_LENGTH = 12
_SEPARATOR = b"\n"
"""Between the facts, JSON in one line, and the arrays."""


def write_judge(folder: Path, judge: AnswerJudge) -> dict[str, Any]:
    """Write a judge's arrays beside a checkpoint, and return what the manifest keeps of it.

    The file is named by its content, so that the judge that a manifest names before stays readable
    until the manifest names this one; `remove_old_judges` then clears away.
    """
    if not judge.judges:
        return {}
    arrays = _arrays(judge).items()
    content = save({name: np.ascontiguousarray(array) for name, array in arrays})
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"judge-{sha256[:_NAME_LENGTH]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / name) as stream:
        stream.write(content)
    return {
        "file": name,
        "sha256": sha256,
        "models": list(judge.models),
        "probes": {probe: judge.figures.get(probe, {}) for probe in judge.probes},
        "pairs": [list(names) for names in sorted(judge.pairs)],
    }


def _arrays(judge: AnswerJudge) -> dict[str, np.ndarray]:
    """Return all arrays of a judge by name: judges of probes and of pairs, numbered in order."""
    arrays: dict[str, np.ndarray] = {"scale": judge.scale.astype(np.float16)}
    for number, probe in enumerate(sorted(judge.judges)):
        tensors = judge.judges[probe].tensors()
        arrays |= {f"probe{number}.{key}": array for key, array in tensors.items()}
    for number, names in enumerate(sorted(judge.pairs)):
        tensors = judge.pairs[names].tensors()
        arrays |= {f"pair{number}.{key}": array for key, array in tensors.items()}
    return arrays


def remove_old_judges(folder: Path, facts: Mapping[str, Any]) -> None:
    """Delete judges' files that the manifest doesn't name."""
    for path in folder.glob(_PATTERN):
        if path.name != facts.get("file"):
            path.unlink(missing_ok=True)


def load_judge(folder: Path) -> AnswerJudge:
    """Load a checkpoint's judge; one that can judge no answers where it was trained without any.

    Raises:
        CheckpointError: The folder holds no checkpoint, or the judge's file is absent or damaged.
    """
    manifest = read_manifest(folder)
    facts = manifest.judge
    if not facts:
        return AnswerJudge.none(manifest.models)
    path = folder / str(facts.get("file"))
    try:
        content = path.read_bytes()
        tensors: Mapping[str, np.ndarray] = load(content)
        judge = _parsed(facts, tensors)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if hashlib.sha256(content).hexdigest() != facts.get("sha256"):
        raise _unreadable(path, "its hash is not the manifest's")
    return judge.extended(manifest.models)


def pack_judge(folder: Path) -> bytes | None:
    """Return a checkpoint's judge as one file, for processes that can't see the folder.

    Returns:
        None where the checkpoint can judge no answers.

    Raises:
        CheckpointError: The folder holds no checkpoint, or the judge's file is absent or damaged.
    """
    manifest = read_manifest(folder)
    if not load_judge(folder).judges:
        return None
    facts = {"judge": manifest.judge, "models": list(manifest.models)}
    arrays = (folder / str(manifest.judge["file"])).read_bytes()
    return orjson.dumps(facts) + _SEPARATOR + arrays


def unpack_judge(content: bytes) -> AnswerJudge:
    """Return the judge that `pack_judge` put into one file.

    Raises:
        CheckpointError: It is damaged.
    """
    head, _, arrays = content.partition(_SEPARATOR)
    try:
        facts = orjson.loads(head)
        return _parsed(facts["judge"], load(arrays)).extended(facts["models"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise _unreadable(Path("judges"), str(error)) from error


def _parsed(facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> AnswerJudge:
    probes = facts["probes"]
    judges = {
        name: ProbeJudge.from_tensors(named_part(tensors, f"probe{number}"))
        for number, name in enumerate(sorted(probes))
    }
    pairs = {
        (first, second): PairJudge.from_tensors(named_part(tensors, f"pair{number}"))
        for number, (first, second) in enumerate(facts.get("pairs", ()))
    }
    scale = tensors["scale"].astype(np.float32)
    return AnswerJudge(tuple(facts["models"]), scale, judges, probes, pairs)


def copy_judge(source: Path, target: Path, facts: Mapping[str, Any]) -> None:
    """Copy the judge's file of one checkpoint's folder into another's, if there is one."""
    if facts and source.resolve() != target.resolve():
        target.mkdir(parents=True, exist_ok=True)
        with replacing(target / facts["file"]) as stream:
            stream.write((source / facts["file"]).read_bytes())


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        "the checkpoint's judge of answers can't be read",
        where=str(path),
        value=reason,
        remedy="Copy the whole folder again, or train it again with --answers",
    )
