"""Measures prompts/s of the predictor, text to estimates, beside others that run its backbone.

All read the same prompts with the same backbone and threads, taking turns on slices of them. The
others only embed; ours also counts surface features, runs all views and calibrates. They are
sentence-transformers, where it is installed (`pip install --no-deps sentence-transformers`), and
onnxruntime, where --peers-python names an interpreter that has benchmarks/peers.txt. Beside them
stands the physical limit: what the device multiplies in large products, measured in the same run.
The last ratio is the model-FLOPs utilisation. `--layers 2,4` also reads the prompts by these hidden
states alone, for which the layers above the last one are not computed, and `--precision float32` in
single precision. sentence-transformers is run as it is by default, in single precision, and where
ours reads in bfloat16, so too. On a busy machine `--cpu-time` counts seconds of the processor
instead of the clock's.
"""

import argparse
import importlib.util
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from figures import Figure, show
from predictor_limit import limit_flops_per_s, read_work

from routoo.domain.tables import read_items
from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.options import Precision
from routoo.predictor.predictor import load_predictor

Work = Callable[[Sequence[str]], object]
EXAMPLE_ITEMS = Path("examples/training_questions.jsonl")


def main() -> None:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(options.threads)
    prompts = _prompts(options.items or [EXAMPLE_ITEMS], options.prompts)
    predictor = load_predictor(options.checkpoint, device=options.device)
    encoder = predictor.encoder
    assert isinstance(encoder, Encoder), "without a cache of embeddings"
    work: dict[str, Work] = {"routoo": lambda part: predictor.predict(part, predictor.models)}
    work |= _others(encoder, options)
    peer = _onnxruntime(encoder, options) if options.peers_python else nullcontext()
    clock = time.process_time if options.cpu_time else time.perf_counter
    with peer as onnxruntime:
        if onnxruntime is not None:
            work["onnxruntime"] = onnxruntime
        rates = _rates(work, prompts, options.slice, clock)
    rate = rates.pop("routoo")
    figures = [Figure("predict_prompts_per_s", rate, "prompts/s")]
    figures += [
        Figure(f"predict_vs_{name}", rate, "prompts/s", other, rate / other)
        for name, other in rates.items()
    ]
    figures += _limit(encoder, prompts, rate, clock)
    show(figures, as_json=options.json)


def _others(encoder: Encoder, options: argparse.Namespace) -> dict[str, Work]:
    """Return other ways to read prompts in this process, by their names."""
    readings = {
        precision: replace(encoder.reading, precision=Precision(precision))
        for precision in options.precision
    }
    for layers in options.layers:
        numbers = tuple(int(number) for number in layers.split(","))
        readings[f"layers_{layers}"] = replace(encoder.reading, layers=numbers)
    others: dict[str, Work] = {
        name: Encoder(encoder.backbone, reading, device=options.device).encode
        for name, reading in readings.items()
    }
    if importlib.util.find_spec("sentence_transformers"):
        for dtype in dict.fromkeys((torch.float32, encoder.model.dtype)):
            name = f"sentence_transformers_{str(dtype).rpartition('.')[2]}"
            others[name] = _sentence_transformers(encoder, options.device, dtype)
    return others


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("examples/checkpoint"))
    parser.add_argument(
        "--items", type=Path, action="append", help="default: the example's questions"
    )
    parser.add_argument("--prompts", type=int, default=10_000, help="repeated up to this number")
    parser.add_argument("--slice", type=int, default=1000, help="prompts of a turn")
    parser.add_argument(
        "--layers", action="append", default=[], metavar="N,N", help="hidden states to read alone"
    )
    parser.add_argument(
        "--precision", action="append", default=[], choices=[*Precision], help="to read in as well"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peers-python", help="interpreter with benchmarks/peers.txt installed")
    parser.add_argument("--cpu-time", action="store_true", help="of this process alone: no peers")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.cpu_time and options.peers_python:
        parser.error("--cpu-time does not see the process of --peers-python")
    return options


def _prompts(paths: Sequence[Path], count: int) -> list[str]:
    texts = [item.prompt for item in read_items(*paths)]
    # A stride that shares no factor with most lengths mixes the tables.
    return [texts[(n * 7919) % len(texts)] for n in range(count)]


def _rates(
    work: dict[str, Work], prompts: Sequence[str], turn: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Take turns on slices of the prompts, so that other load on the machine hits all alike."""
    taken_s = dict.fromkeys(work, 0.0)
    for one in work.values():
        one(prompts[:8])  # warm up: the first call allocates
    for start in range(0, len(prompts), turn):
        part = prompts[start : start + turn]
        for name, one in work.items():
            started = clock()
            one(part)
            taken_s[name] += clock() - started
    return {name: len(prompts) / seconds for name, seconds in taken_s.items()}


def _limit(
    encoder: Encoder, prompts: Sequence[str], rate: float, clock: Callable[[], float]
) -> Iterator[Figure]:
    """Set our rate, in prompts/s, beside what the device can multiply."""
    tokens, flops = read_work(encoder, prompts)
    yield Figure("predict_tokens_per_s", rate * tokens / len(prompts), "tokens/s")
    limit = limit_flops_per_s(encoder.model.device, encoder.model.dtype, clock) / 1e9
    ours = rate * flops / len(prompts) / 1e9
    yield Figure("predict_gflops_per_s", ours, "GFLOP/s", limit, ours / limit)


def _sentence_transformers(encoder: Encoder, device: str, dtype: torch.dtype) -> Work:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(encoder.backbone.path), device=device, model_kwargs={"dtype": dtype}
    )
    model.max_seq_length = 512
    return lambda part: model.encode(list(part), batch_size=32)


@contextmanager
def _onnxruntime(encoder: Encoder, options: argparse.Namespace) -> Iterator[Work]:
    script = Path(__file__).with_name("predictor_onnx.py")
    command = [options.peers_python, script, encoder.backbone.path, str(options.threads)]
    peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert peer.stdin is not None
    assert peer.stdout is not None
    assert "ready\n" in peer.stdout, "the peer did not start"

    def embed(part: Sequence[str]) -> None:
        peer.stdin.write(json.dumps(list(part)) + "\n")
        peer.stdin.flush()
        assert peer.stdout.readline() == "done\n", "the peer failed"

    try:
        yield embed
    finally:
        peer.stdin.close()
        peer.wait(10)


if __name__ == "__main__":
    main()
