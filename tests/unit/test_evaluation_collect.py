"""Collecting outcomes: each model asked once a question, whatever interrupts the run."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.completion import Completion, FinishReason, Usage
from routoo.domain.endpoint import Endpoint
from routoo.domain.items import Item
from routoo.domain.pool import CandidateModel, Tariff
from routoo.domain.tables import read_items, read_outcomes, write_outcomes
from routoo.errors import EndpointError, InputError, RequestRejectedError
from routoo.evaluation import collect as collect_module
from routoo.evaluation.answer_log import AnswerLog, CollectedAnswer
from routoo.evaluation.collect import GIVE_UP_AFTER, Collection, Failure, RequestForm
from routoo.evaluation.item_grading import check_gradable, collected_outcome, summarise, to_outcomes
from tests.fakes.permit import OpenPermit

ITEMS = [Item(f"q{n}", f"What is {n} + {n}?", answer=str(2 * n)) for n in range(5)]


class InMemoryClient:
    """Answers with a function; counts calls and the most that were open at once."""

    def __init__(self, answer: Callable[[str, str], str]) -> None:
        self.answer = answer
        self.behaviour = KnownBehaviour()
        self.bodies: list[Mapping[str, Any]] = []
        self.open = self.most_open = 0

    @asynccontextmanager
    async def admit(
        self, model: CandidateModel, _tokens: int, *, retry: bool = False
    ) -> AsyncIterator[OpenPermit]:
        del retry
        yield OpenPermit(model)

    async def complete(
        self, model: CandidateModel, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Completion:
        assert timeout_s is None
        self.bodies.append(body)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        text = self.answer(model.name, body["messages"][-1]["content"])
        return Completion(text, {}, Usage(10, 2), 200, 0.5)


def candidate(name: str, *, max_concurrency: int = 2) -> CandidateModel:
    return CandidateModel(
        name=name,
        endpoint=Endpoint(base_url="http://endpoint.test/v1", max_concurrency=max_concurrency),
        price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(3)),
        context_window_tokens=100,
    )


def collect(
    client: InMemoryClient, path: Path, form: RequestForm | None = None, *models: CandidateModel
) -> list[Failure]:
    with AnswerLog(path) as log:
        collection = Collection(client, log, form or RequestForm())
        return asyncio.run(collection.run(ITEMS, models or [candidate("a"), candidate("b")]))


def test_every_model_answers_every_item_once(tmp_path: Path) -> None:
    client = InMemoryClient(lambda _model, _prompt: "4")
    assert collect(client, tmp_path / "j") == []
    assert len(client.bodies) == 10


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    collect(InMemoryClient(lambda _model, _prompt: "4"), tmp_path / "j")
    again = InMemoryClient(lambda _model, _prompt: "5")
    assert collect(again, tmp_path / "j") == []
    assert again.bodies == []


class FilteringClient(InMemoryClient):
    """Has its filter withhold each answer."""

    async def complete(
        self, model: CandidateModel, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Completion:
        answer = await super().complete(model, body, timeout_s=timeout_s)
        return replace(answer, finish_reason=FinishReason.CONTENT_FILTER)


def test_what_a_filter_withheld_is_no_answer_whatever_an_older_log_says(tmp_path: Path) -> None:
    client = FilteringClient(lambda _model, _prompt: "")
    assert {one.code for one in collect(client, tmp_path / "j")} == {"content_filter"}
    assert (tmp_path / "j").read_bytes() == b""
    collect(InMemoryClient(lambda _model, _prompt: ""), tmp_path / "j")
    rows = [orjson.loads(line) for line in (tmp_path / "j").read_bytes().splitlines()]
    withheld = [orjson.dumps({**row, "finish_reason": "content_filter"}) for row in rows]
    (tmp_path / "j").write_bytes(b"\n".join(withheld) + b"\n")
    again = InMemoryClient(lambda _model, _prompt: "4")
    collect(again, tmp_path / "j")
    assert len(again.bodies) == 10


def test_prompt_tokens_from_a_cache_cost_their_own_price() -> None:
    tariff = Tariff(prompt=Decimal(10), completion=Decimal(0), cached_prompt=Decimal(1))
    model = candidate("a").model_copy(update={"price_usd_per_mtok": tariff})
    usage = {"prompt_tokens": 1000, "cached_prompt_tokens": 800, "completion_tokens": 5}
    answer = CollectedAnswer("q0", "a", "", "0", usage_estimated=False, latency_s=0.1, **usage)
    assert collected_outcome(ITEMS[0], model, answer).cost_usd == pytest.approx(0.0028)


def test_another_instruction_asks_anew(tmp_path: Path) -> None:
    collect(InMemoryClient(lambda _model, _prompt: "4"), tmp_path / "j")
    again = InMemoryClient(lambda _model, _prompt: "4")
    collect(again, tmp_path / "j", RequestForm(instruction="Digits only."))
    assert len(again.bodies) == 10


def test_an_endpoint_sees_no_more_calls_at_once_than_it_allows(tmp_path: Path) -> None:
    client = InMemoryClient(lambda _model, _prompt: "4")
    collect(client, tmp_path / "j", None, candidate("a", max_concurrency=3))
    assert client.most_open == 3


def test_a_request_carries_system_instruction_and_the_items_own_limit() -> None:
    form = RequestForm(system="Be brief.", instruction="Digits only.", max_tokens=9)
    body = form.body(Item("q", "2+2?", max_tokens=4))
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2+2?\n\nDigits only."},
    ]
    assert (body["max_tokens"], body["temperature"]) == (4, 0)
    assert form.body(Item("q", "2+2?"))["max_tokens"] == 9
    assert "max_tokens" not in RequestForm().body(Item("q", "2+2?"))


def test_what_failed_is_listed_and_asked_again_next_time(tmp_path: Path) -> None:
    def answer(model: str, prompt: str) -> str:
        if model == "b" and "3" in prompt:
            raise RequestRejectedError("no")
        return "4"

    failures = collect(InMemoryClient(answer), tmp_path / "j")
    assert [(f.item_id, f.model, f.code) for f in failures] == [("q3", "b", "request_rejected")]
    healed = InMemoryClient(lambda _model, _prompt: "4")
    assert collect(healed, tmp_path / "j") == []
    assert len(healed.bodies) == 1


def test_a_dead_endpoint_is_given_up_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DownError(EndpointError):
        retryable = True

    async def no_retries(client: InMemoryClient, model: CandidateModel, body: Any, **_: Any) -> Any:
        return await client.complete(model, body)

    def answer(model: str, _prompt: str) -> str:
        if model == "dead":
            raise DownError("gone")
        return "4"

    monkeypatch.setattr(collect_module, "call_with_retries", no_retries)
    items = [Item(f"q{n}", f"{n}?") for n in range(50)]
    client = InMemoryClient(answer)
    with AnswerLog(tmp_path / "j") as log:
        models = [candidate("dead", max_concurrency=1), candidate("alive")]
        failures = asyncio.run(Collection(client, log, RequestForm()).run(items, models))
    assert len(failures) == 50
    assert sum(failure.code == "given_up" for failure in failures) == 50 - GIVE_UP_AFTER
    assert len(client.bodies) == 50 + GIVE_UP_AFTER


def test_an_answer_log_that_a_crash_cut_off_keeps_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "j"
    collect(InMemoryClient(lambda _model, _prompt: "4"), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    again = InMemoryClient(lambda _model, _prompt: "4")
    assert collect(again, path) == []
    assert len(again.bodies) == 1
    assert len(path.read_bytes().splitlines()) == 10


def test_an_answer_log_has_one_writer(tmp_path: Path) -> None:
    with (
        AnswerLog(tmp_path / "j"),
        pytest.raises(InputError, match="another collection"),
        AnswerLog(tmp_path / "j"),
    ):
        pass


def test_graded_answers_become_a_table_with_null_for_the_ungraded(tmp_path: Path) -> None:
    answers = {"0": "0", "1": "3", "2": "4 or 5"}
    client = InMemoryClient(lambda _model, prompt: answers.get(prompt[8], "none"))
    model = candidate("a")
    with AnswerLog(tmp_path / "j") as log:
        collection = Collection(client, log, RequestForm())
        asyncio.run(collection.run(ITEMS[:3], [model]))
        found = [(item, collection.answered(item, model)) for item in ITEMS[:3]]
    rows = [collected_outcome(item, model, answer) for item, answer in found if answer]
    table = tmp_path / "out.parquet"
    write_outcomes(table, to_outcomes(rows), answers=[row.answer.answer for row in rows])
    assert pq.read_table(table)["score"].to_pylist() == [1, 0, None]
    assert pq.read_table(table)["answer"].to_pylist() == ["0", "3", "4 or 5"]
    outcomes = read_outcomes(table)
    assert outcomes.item_ids == ["q0", "q1"], "an ungraded answer teaches nothing"
    assert np.allclose(outcomes.cost_usd, (10 * 1 + 2 * 3) / 1e6)
    summary = summarise("a", rows, 2)
    assert (summary.answers, summary.ungraded, summary.failed, summary.score) == (3, 1, 2, 0.5)


@pytest.mark.parametrize(
    "item",
    [
        Item("q9", "?", answer="x", grader="vibes"),
        Item("q9", "?", answer="many", grader="numeric"),
        Item("q9", "?", answer="x", grader="exact", grader_options="[]"),
        Item("q9", "?", answer="x", grader="exact", grader_options="{"),
    ],
)
def test_a_reference_that_cannot_be_graded_is_told_before_a_call_is_paid(item: Item) -> None:
    with pytest.raises(InputError, match="item q9"):
        check_gradable([item])


def test_items_of_a_jsonl_file_name_their_grader_and_limit(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(
        '{"item_id": "q", "prompt": "?", "answer": 3, "grader": "numeric",'
        ' "grader_options": {"tolerance": 0.5}, "max_tokens": 8}\n',
        encoding="utf-8",
    )
    (item,) = read_items(path)
    assert (item.answer, item.grader, item.max_tokens) == ("3", "numeric", 8)
    check_gradable([item])


@pytest.mark.parametrize("limit", ['"8"', "0", "-1", "true", "1.5"])
def test_a_limit_that_is_no_count_is_refused(tmp_path: Path, limit: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(f'{{"prompt": "?", "max_tokens": {limit}}}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"items\.jsonl:1.*max_tokens"):
        read_items(path)
