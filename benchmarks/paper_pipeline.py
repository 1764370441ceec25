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
from routoo.domain.prediction import Predictions
from routoo.domain.tables import Outcomes, write_outcomes
from routoo.evaluation.answer_log import write_answers
from routoo.evaluation.collect import RequestForm
from routoo.evaluation.graders.grade import ITEM_KEY, recorded_answer
from routoo.judge.files import load_judge
from routoo.judge.judge import AnswerJudge, ProbeAnswer
from routoo.pipeline.request_facts import RequestFacts
from routoo.pipeline.select.estimates import CallEstimates, estimate_calls
from routoo.pipeline.select.experience import fit_experience
from routoo.predictor.predictor import load_predictor
from routoo.selector import Problem, solve
from routoo.selector.probe_model import ProbeModel
from routoo.selector.probes import with_policies

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
    told: Predictions
    """Expected of the items, models in the pool's order."""
    known: CallEstimates
    worth_usd: float
    """What one more good answer is worth, so that the middle of the budgets is spent."""


def agreement(
    case: Case, checkpoint: Path, prices: dict[str, dict[str, str]], work: Path
) -> list[Figure]:
    """Run one case both ways and count the items that agree; with judging too where it has a judge.

    Args:
        case: Its held-out items are all run.
        checkpoint: The case's router.
        prices: Rows of models.csv by model.
        work: Folder of embeddings.
    """
    pool = _pool(case, prices)
    offline = _offline(case, pool, checkpoint, work)
    judge = load_judge(checkpoint)
    probes = tuple(n for n, name in enumerate(case.models) if name in judge.probes)
    decided = _decided(case, offline, judge, probes) if probes and case.held.answers else []
    # The path of a socket must be short, and the database server's own user must reach it.
    with tempfile.TemporaryDirectory(prefix="routoo-", dir="/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        _write(case.held, home)
        os.environ |= {"ROUTOO_HOME": name, "ROUTOO_CHECKPOINT": str(checkpoint.resolve())}
        with _stack(home):
            rows = _pipeline(home, pool, offline.worth_usd, is_judged=False)
            judged = _pipeline(home, pool, offline.worth_usd, is_judged=True) if decided else []
    return [*_compare(case, offline, rows), *_compare_decided(case, decided, judged)]


def _decided(
    case: Case, offline: _Offline, judge: AnswerJudge, probes: tuple[int, ...]
) -> list[tuple[str, str, str]]:
    """Return of each item the model asked first, the one that answers, and how that came about."""
    models, known, price = case.models, offline.known, 1 / offline.worth_usd
    direct = Problem(
        offline.told.quality,
        known.cost_usd,
        known.allowed,
        willingness_to_pay_usd=offline.worth_usd,
    )
    follow = known.allowed
    model = ProbeModel(
        lambda some: judge.judgement_model(models, some).of,
        probes,
        np.asarray(offline.told.quality, np.float32),
        direct.cost_usd,
        lambda jobs, _probe: follow[jobs],
    )
    problem, policies = with_policies(direct, model)
    choice = solve(problem).choice
    first, final = (np.array(policies.first(choice)) for _ in range(2))
    for probe in probes:
        rows = np.flatnonzero((choice >= len(models)) & (first == probe))
        if len(rows):
            shown = _judged(case, offline, judge, probe, rows)
            value = shown - price * known.cost_usd[rows]
            value[:, probe] = shown[:, probe]
            final[rows] = value.argmax(axis=1)
    kept = np.where(first == final, "accepted", "escalated")
    ways = np.where(choice < len(models), "direct", kept).tolist()
    ends = zip(first.tolist(), final.tolist(), ways, strict=True)
    return [(models[one], models[end], way) for one, end, way in ends]


def _judged(
    case: Case, offline: _Offline, judge: AnswerJudge, probe: int, rows: np.ndarray
) -> np.ndarray:
    """Return what a probe's recorded answers show of each model, rows x models."""
    said = {(one.item_id, one.model): one.text for one in case.held.answers}
    found = case.held.outcomes
    scores = dict(
        zip(zip(found.item_ids, found.models, strict=True), found.score.tolist(), strict=True)
    )
    quality = judge.spread(case.models, offline.told.quality[rows])
    name, answers = case.models[probe], []
    for row, expected in zip(rows.tolist(), quality, strict=True):
        item = case.held.items[row]
        key = item.item_id, name
        text = said[key] if key in said else recorded_answer(scores[key])
        tokens = float(offline.told.completion_tokens[row, probe])
        answers.append(ProbeAnswer(item.prompt, text, expected, tokens, "stop"))
    return judge.judge(name, answers)[:, judge.columns(case.models)]


def _compare_decided(
    case: Case, decided: list[tuple[str, str, str]], rows: list[dict[str, Any]]
) -> list[Figure]:
    """Count the judged items on which pipeline and library agree, and name the others."""
    came = [(row["planned_model"], row["model"], row["decision"]) for row in rows]
    count, found = float(len(rows)), []
    for place, name in enumerate(("first_model", "model", "decision") if decided else ()):
        same = [one[place] == other[place] for one, other in zip(came, decided, strict=True)]
        metric = f"{case.name}/judged/agree/{name}"
        found.append(Figure(metric, sum(same), "items", count, sum(same) / count))
    for row, one, other in zip(rows, came, decided, strict=True):
        if one != other:
            print(f"# {case.name}: {row['custom_id']}: {one}, offline {other}", file=sys.stderr)
    for way in ("direct", "accepted", "escalated") if decided else ():
        number = sum(one[2] == way for one in came)
        found.append(Figure(f"{case.name}/judged/{way}", number, "items"))
    return found


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
    told = offline.told.quality[np.arange(len(plan)), offline.choice]
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
    factors = predictor.prompt_factors(case.models)
    experience = {
        model.name: fit_experience(model, [], prompt_factor=factor)
        for model, factor in zip(pool.models, factors, strict=True)
    }
    known = estimate_calls(
        RequestFacts.of(jobs), pool, told.quality, told.completion_tokens, experience
    )
    whole = known.cost_usd.sum(axis=0)
    # The middle of the range of budgets that the table goes over, as there in its logarithm.
    middle = float(np.sqrt(whole.min() * whole.max()))
    price = solve(Problem(told.quality, known.cost_usd, known.allowed, budget_usd=middle))
    # At the shadow price itself the marginal item is worth either model: step off the tie.
    # Where the best models for every item cost less than that, the price is 0.
    worth = min(1.001 / max(price.shadow_price_per_usd, 1e-9), _AMPLE_USD)
    problem = Problem(told.quality, known.cost_usd, known.allowed, willingness_to_pay_usd=worth)
    return _Offline(np.asarray(solve(problem).choice), told, known, worth)


def _pipeline(home: Path, pool: Pool, worth_usd: float, *, is_judged: bool) -> list[dict[str, Any]]:
    """Submit, grade, and return the rows of the results, as a user would.

    Scores are replayed, by which answers are graded; or texts, which can be judged.
    """
    name = "judged" if is_judged else "direct"
    answers = [home / "answers.parquet"] if is_judged else []
    with replay_server(pool, [home / "outcomes.parquet"], 0.0, answers) as served:
        (home / "pool.yaml").write_text(json.dumps(served.model_dump(mode="json")))
        _produce(
            *("submit", home / "jobs.jsonl", "--pool", home / "pool.yaml", "--name", name),
            *("--willingness-to-pay-usd", repr(worth_usd), "--watch"),
            *(() if is_judged else ("--no-cascade",)),
        )
    _produce("grade", name, "--references", home / "references.jsonl")
    _produce("results", name, "--out", home / "results.parquet")
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
    write_answers(home / "answers.parquet", held.answers)


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
