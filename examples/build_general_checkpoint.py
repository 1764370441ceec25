"""Rebuilds `routoo/general_checkpoint`: `python -m examples.build_general_checkpoint`.

Reads the tables of `examples.general_tables` (ROUTOO_DATA_DIR), embeds their prompts once (the
embeddings are cached), fits the general predictor, and writes the checkpoint with its licence
notes. No text of the tables is written: weights, figures, and names of models.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from examples.general_tables import TABLES, GeneralTables, read_general_tables
from routoo.console.output import ConsoleFeedback
from routoo.domain.model_prior import GENERAL_CHECKPOINT
from routoo.evaluation.quality_metrics import mean_metrics, metrics_by_model
from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.checkpoint import pack, write_checkpoint
from routoo.predictor.fitting import FitOptions
from routoo.predictor.manifest import Manifest
from routoo.settings import load_settings
from routoo.training.general import GeneralPredictor, fit_general
from routoo.training.predictor_settings import PredictorSettings
from routoo.training.train import manifest_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=GENERAL_CHECKPOINT)
    parser.add_argument("--cache", type=Path, help="folder of cached embeddings")
    options = parser.parse_args(arguments)
    feedback = ConsoleFeedback()
    cache = options.cache or load_settings().embeddings
    settings = PredictorSettings(cache=cache)
    tables, encoder = read_general_tables(), settings.load_encoder()
    features = settings.read_prompts(tables.matrix, encoder, feedback)
    general = fit_general(
        tables.matrix, features, encoder.width, tables.facts, settings.fit, feedback
    )
    weights = pack(general.estimator, encoder.adapters)
    manifest = _manifest(tables, encoder, general, settings.fit, weights)
    write_checkpoint(options.out, weights, manifest)
    (options.out / "LICENCES.md").write_text(_licences(tables), encoding="utf-8")
    feedback.note(f"{options.out}: {len(weights) / 1e6:.1f} MB, {manifest.metrics['mean']}")
    return 0


def _manifest(
    tables: GeneralTables,
    encoder: Encoder,
    general: GeneralPredictor,
    fit: FitOptions,
    weights: bytes,
) -> Manifest:
    anchors, held_out = general.anchors, general.fitted.held_out_quality
    by_model = metrics_by_model(
        (anchors.score > np.float32(0.5)).astype(np.float32), held_out, anchors.models
    )
    metrics = {
        "protocol": f"{fit.folds} folds grouped by text; an anchor's answer counts as right where "
        "the item-response model gives it more than one half",
        "items": len(anchors.items),
        "mean": mean_metrics(by_model),
        "models": by_model,
    }
    return replace(
        manifest_of(encoder, tables.matrix, weights),
        models=anchors.models,
        settings=asdict(fit) | general.settings,
        metrics=metrics,
    )


_SOURCES = {
    "mmlu_pro": "TIGER-AI-Lab/MMLU-Pro, evaluation results",
    "mmlu_redux": "aryopg/mmlu-redux; WildEval/ZeroEval",
    "zeroeval_gsm8k": "WildEval/ZeroEval; questions of GSM8K",
    "zeroeval_cruxeval": "WildEval/ZeroEval; questions of CRUXEval",
    "zeroeval_math_l5": "WildEval/ZeroEval; questions of MATH",
    "bfcl": "Berkeley Function-Calling Leaderboard, results of 2024-08-11",
    "llmrouter": "ulab-uiuc/LLMRouter, without NQ, ARC and GPQA",
}


def _licences(tables: GeneralTables) -> str:
    counts = {table.name: 0 for table in TABLES}
    for item in tables.matrix.items:
        counts[item.dataset or ""] += 1
    lines = [
        "# What the general checkpoint was trained on",
        "",
        (
            "Written by `python -m examples.build_general_checkpoint`. The checkpoint holds fitted "
            "weights, vectors of prompts reduced to 256 numbers, and figures and names of models; "
            "no text of these tables."
        ),
        "",
        "| table | items | source | licence |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {table.name} | {counts[table.name]} | {_SOURCES[table.name]} | {table.licence} |"
        for table in TABLES
    ]
    lines += [
        "",
        (
            'Attribution for CC BY 4.0: MMLU-Redux, Gema et al., "Are We Done with MMLU?", 2024; '
            "items and HELM outcomes were reduced to the weights above. Tables without a licence, "
            "questions under CC BY-SA (Natural Questions, ARC) and GPQA were not used."
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
