"""Runs one setting through the whole pipeline and offline by the library; compares item by item.

The held-out items are submitted, scored, selected, answered by endpoints that replay the recorded
outcomes, graded, and read from the results; and the library alone predicts, selects and looks the
same outcomes up. The aim is a price of quality, under which a choice does not hang on what other
items really cost. Calls are charged for the prompts that are sent, not for the few-shot prompts of
the recordings.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from figures import Figure
from paper_figures import Case
from paper_settings import Table

from producer.evaluation.runs import replay_server
from routoo.domain.endpoint import Endpoint
from routoo.domain.job import Job
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.domain.tables import Outcomes, write_outcomes
from routoo.evaluation.collect import RequestForm
from routoo.evaluation.graders.grade import ITEM_KEY, recorded_answer
from routoo.pipeline.request_facts import RequestFacts
from routoo.pipeline.select.estimates import estimate_calls
from routoo.predictor.predictor import load_predictor
from routoo.selector import Problem, solve

_BIN = Path(sys.executable).parent
_READY_S = 180.0
_AMPLE_USD = 1000.0
"""Worth of a good answer beside which no call's cost counts."""
_TOLERANCE = 1e-4
"""Between expectations of the same prompt in other batches, in fp32."""


@dataclass(frozen=True, slots=True)
class _Offline:
    """What the library alone makes of a case."""

    choice: np.ndarray
    quality: np.ndarray
    """Expected, items x models."""
    worth_usd: float
    """What one more good answer is worth, so that the middle of the budgets is spent."""


def agreement(
    case: Case, checkpoint: Path, prices: dict[str, dict[str, str]], work: Path
) -> list[Figure]:
    """Run one case both ways and count the items that agree.

    Args:
        case: Its held-out items are all run.
        checkpoint: The case's router.
        prices: Rows of models.csv by model.
        work: Folder of embeddings.
    """
    pool = _pool(case, prices)
    offline = _offline(case, pool, checkpoint, work)
    # The path of a socket must be short, and the database server's own user must reach it.
    with tempfile.TemporaryDirectory(prefix="routoo-", dir="/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        _write(case.held, home)
        os.environ |= {"ROUTOO_HOME": name, "ROUTOO_CHECKPOINT": str(checkpoint.resolve())}
        with replay_server(pool, [home / "outcomes.parquet"], 0.0) as served, _stack(home):
            (home / "pool.yaml").write_text(json.dumps(served.model_dump(mode="json")))
            rows = _pipeline(home, offline.worth_usd)
    return _compare(case, offline, rows)


def _compare(case: Case, offline: _Offline, rows: list[dict[str, Any]]) -> list[Figure]:
    scores = dict(
        zip(
            zip(case.held.outcomes.item_ids, case.held.outcomes.models, strict=True),
            case.held.outcomes.score.tolist(),
            strict=True,
        )
    )
    assert [row["custom_id"] for row in rows] == [item.item_id for item in case.held.items]
    plan = [case.models[column] for column in offline.choice.tolist()]
    told = offline.quality[np.arange(len(plan)), offline.choice]
    alone = [scores[row["custom_id"], model] for row, model in zip(rows, plan, strict=True)]
    pairs = list(zip(rows, plan, told.tolist(), alone, strict=True))
    agree = {
        "model": [row["model"] == model for row, model, _, _ in pairs],
        "expected_quality": [
            abs(row["expected_quality"] - value) <= _TOLERANCE for row, _, value, _ in pairs
        ],
        "score": [row["quality"] == score for row, _, _, score in pairs],
    }
    for row, model, _, _ in pairs:
        if row["model"] != model:
            said = f"{row['custom_id']}: {row['status']} by {row['model']}, offline {model}"
            print(f"# {case.name}: {said}", file=sys.stderr)
    count = float(len(rows))
    quality = float(np.mean([row["quality"] for row in rows]))
    return [
        *(
            Figure(f"{case.name}/agree/{name}", sum(same), "items", count, sum(same) / count)
            for name, same in agree.items()
        ),
        Figure(f"{case.name}/agree/quality", quality, "quality", float(np.mean(alone)), None),
    ]


def _offline(case: Case, pool: Pool, checkpoint: Path, work: Path) -> _Offline:
    predictor = load_predictor(checkpoint, cache=work / "embeddings")
    told = predictor.predict([item.prompt for item in case.held.items], case.models)
    form = RequestForm()
    jobs = [Job(n, item.item_id, form.body(item)) for n, item in enumerate(case.held.items)]
    known = estimate_calls(RequestFacts.of(jobs), pool, told.quality, told.completion_tokens)
    whole = known.cost_usd.sum(axis=0)
    # The middle of the range of budgets that the table goes over, as there in its logarithm.
    middle = float(np.sqrt(whole.min() * whole.max()))
    price = solve(Problem(told.quality, known.cost_usd, known.allowed, budget_usd=middle))
    # At the shadow price itself the marginal item is worth either model: step off the tie.
    # Where the best models for every item cost less than that, the price is 0.
    worth = min(1.001 / max(price.shadow_price_per_usd, 1e-9), _AMPLE_USD)
    problem = Problem(told.quality, known.cost_usd, known.allowed, willingness_to_pay_usd=worth)
    return _Offline(np.asarray(solve(problem).choice), told.quality, worth)


def _pipeline(home: Path, worth_usd: float) -> list[dict[str, Any]]:
    """Submit, grade, and return the rows of the results, as a user would."""
    _produce(
        *("submit", home / "jobs.jsonl", "--pool", home / "pool.yaml", "--name", "paper"),
        *("--willingness-to-pay-usd", repr(worth_usd), "--watch"),
    )
    _produce("grade", "paper", "--references", home / "references.jsonl")
    _produce("results", "paper", "--out", home / "results.parquet")
    return list(pq.read_table(home / "results.parquet").to_pylist())


def _produce(*arguments: str | Path) -> None:
    subprocess.run([_BIN / "routoo-producer", *arguments], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _stack(home: Path) -> Iterator[None]:
    with (home / "worker.log").open("wb") as log:
        command = [_BIN / "routoo-worker", "up"]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + _READY_S
        while not _is_ready(home, process.pid):
            assert process.poll() is None, (home / "worker.log").read_text()
            assert time.monotonic() < deadline, "the stack does not get ready"
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(home: Path, supervisor: int) -> bool:
    try:
        status = json.loads((home / "worker.json").read_text())
    except FileNotFoundError:
        return False
    return bool(status.get("supervisor") == supervisor and status["ready"])


def _write(held: Table, home: Path) -> None:
    form, right = RequestForm(), recorded_answer(1.0)
    with (home / "jobs.jsonl").open("w") as jobs, (home / "references.jsonl").open("w") as known:
        for item in held.items:
            body = form.body(item) | {"metadata": {ITEM_KEY: item.item_id}}
            call = {"method": "POST", "url": "/v1/chat/completions"}
            jobs.write(json.dumps({"custom_id": item.item_id, **call, "body": body}) + "\n")
            answer = {"custom_id": item.item_id, "answer": right, "grader": "exact"}
            known.write(json.dumps(answer) + "\n")
    found = held.outcomes
    unknown = np.full(len(found.models), np.nan, np.float32)
    rest = (found.completion_tokens, found.cost_usd, found.latency_s)
    sent = Outcomes(found.item_ids, found.models, found.score, unknown, *rest)
    write_outcomes(home / "outcomes.parquet", sent)


def _pool(case: Case, prices: dict[str, dict[str, str]]) -> Pool:
    return Pool(
        models=tuple(
            CandidateModel(
                name=name,
                # Replaced by the replay server's when the run begins.
                endpoint=Endpoint(base_url="http://127.0.0.1:1/v1"),
                price_usd_per_mtok=Tariff(
                    prompt=Decimal(prices[name]["usd_per_mtok_in"]),
                    completion=Decimal(prices[name]["usd_per_mtok_out"]),
                ),
                context_window_tokens=32_768,
                max_completion_tokens=8_192,
            )
            for name in case.models
        )
    )
