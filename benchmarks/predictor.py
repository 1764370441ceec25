"""Prompts/s of the predictor, text in and estimates out, beside sentence-transformers' encode.

Both read the same prompts with the same backbone and threads, taking turns on slices of 1,000. The
reference only embeds; ours also counts surface features, runs all views and calibrates. Needs
sentence-transformers (`pip install --no-deps sentence-transformers`); without it only our rate is
printed.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from figures import Figure, show

from routoo.domain.tables import read_items
from routoo.predictor.backbone import find_backbone
from routoo.predictor.predictor import CheckpointPredictor, load_predictor

Work = Callable[[Sequence[str]], object]
SLICE_PROMPTS = 1000
EXAMPLE_ITEMS = Path("examples/training_questions.jsonl")


def main() -> None:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(options.threads)
    prompts = _prompts(options.items or [EXAMPLE_ITEMS], options.prompts)
    predictor = load_predictor(options.checkpoint, device=options.device)
    work: list[Work] = [lambda part: predictor.predict(part, predictor.models)]
    if importlib.util.find_spec("sentence_transformers"):
        work.append(_reference(predictor, options.device))
    rate, *reference = _rates(work, prompts)
    figures = [Figure("predict_prompts_per_s", rate, "prompts/s")]
    figures += [
        Figure("predict_vs_sentence_transformers", rate, "prompts/s", other, rate / other)
        for other in reference
    ]
    show(figures, as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("examples/checkpoint"))
    parser.add_argument(
        "--items", type=Path, action="append", help="default: the example's questions"
    )
    parser.add_argument("--prompts", type=int, default=10_000, help="repeated up to this number")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _prompts(paths: Sequence[Path], count: int) -> list[str]:
    texts = [item.prompt for item in read_items(*paths)]
    # A stride that shares no factor with most lengths mixes the tables.
    return [texts[(n * 7919) % len(texts)] for n in range(count)]


def _rates(work: Sequence[Work], prompts: Sequence[str]) -> list[float]:
    """Take turns on slices of the prompts, so that other load on the machine hits all alike."""
    times = [0.0] * len(work)
    for one in work:
        one(prompts[:8])  # warm up: the first call allocates
    for start in range(0, len(prompts), SLICE_PROMPTS):
        part = prompts[start : start + SLICE_PROMPTS]
        for number, one in enumerate(work):
            started = time.perf_counter()
            one(part)
            times[number] += time.perf_counter() - started
    return [len(prompts) / seconds for seconds in times]


def _reference(predictor: CheckpointPredictor, device: str) -> Work:
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - optional

    path = find_backbone(predictor.manifest.backbone).path
    model = SentenceTransformer(str(path), device=device)
    model.max_seq_length = 512
    return lambda part: model.encode(list(part), batch_size=32)


if __name__ == "__main__":
    main()
