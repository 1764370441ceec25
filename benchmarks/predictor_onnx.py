"""Runs the backbone in onnxruntime, for predictor.py, by the interpreter of the peers.

`python predictor_onnx.py BACKBONE_FOLDER THREADS` exports the backbone, prints a line when it is
ready, and for every line of standard input, a JSON list of prompts, a line when they are embedded.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import AutoModel, AutoTokenizer

BATCH_PROMPTS = 32
LONGEST_TOKENS = 512


def export(folder: str, target: Path) -> None:
    """Write the backbone as a graph from token numbers to the last hidden states."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.ones(2, 16, dtype=torch.long)
    axes = {0: torch.export.Dim("prompts", min=1), 1: torch.export.Dim("tokens", min=2, max=512)}
    program = torch.onnx.export(
        model,
        kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
        dynamo=True,
        verbose=False,
    )
    program.save(str(target))


def main() -> None:
    """Export, then embed what comes."""
    folder, threads = sys.argv[1], int(sys.argv[2])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as name:
        graph = Path(name) / "backbone.onnx"
        export(folder, graph)
        session = onnxruntime.InferenceSession(str(graph), options)
    print("ready", flush=True)
    for line in sys.stdin:
        # Longest first and in batches of 32, as sentence-transformers' encode does.
        prompts = sorted(json.loads(line), key=len, reverse=True)
        for start in range(0, len(prompts), BATCH_PROMPTS):
            batch = tokenizer(
                prompts[start : start + BATCH_PROMPTS],
                padding=True,
                truncation=True,
                max_length=LONGEST_TOKENS,
                return_tensors="np",
            )
            mask = batch["attention_mask"]
            states = session.run(None, {"input_ids": batch["input_ids"], "attention_mask": mask})[0]
            mean = (states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1)[:, None]
            mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        print("done", flush=True)


if __name__ == "__main__":
    main()
