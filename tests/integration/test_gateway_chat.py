"""Single completions of the gateway: routed by a real predictor, answered by a fake endpoint."""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import openai
import psycopg
import pytest

from routoo.domain.caller import Scope
from routoo.settings import REPOSITORY
from tests.fakes.openai_process import FakeServerProcess
from tests.gateway_server import RunningGateway, pool_of, running_gateway
from tests.services import Databases

SMALL, MIDDLE, LARGE = (
    "smollm2-135m-instruct",
    "qwen2.5-coder-0.5b-instruct",
    "qwen2.5-coder-1.5b-instruct",
)
PRICES = {SMALL: "0.02", MIDDLE: "0.1", LARGE: "0.4"}
TOO_LONG = [{"role": "user", "content": "word " * 20_000}]
ASKED: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def models() -> Iterator[FakeServerProcess]:
    with FakeServerProcess({"models": {"*": {"answer": "It is Paris ."}}}) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(
    migrated_databases: Databases,
    models: FakeServerProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningGateway]:
    pools = {
        "default": pool_of(models.base_url, **PRICES),
        "other": pool_of(models.base_url, unheard="5"),
    }
    checkpoint = REPOSITORY / "examples" / "checkpoint"
    home = tmp_path_factory.mktemp("gateway")
    with (
        migrated_databases.clone() as url,
        running_gateway(url, home, pools=pools, checkpoint=checkpoint) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=gateway.base_url, api_key=gateway.add_key("chat"), max_retries=0
    ) as client:
        yield client


@contextmanager
def script(models: FakeServerProcess, by_model: Mapping[str, Any]) -> Iterator[None]:
    """Let models behave otherwise while the block runs."""
    usual: dict[str, Any] = {"*": {"answer": "It is Paris ."}}
    models.set_script({"models": usual | dict(by_model)})
    try:
        yield
    finally:
        models.set_script({"models": usual})


def ask(client: openai.OpenAI, model: str = "routoo/auto", **extra: Any) -> Any:
    return client.chat.completions.create(model=model, messages=ASKED, extra_body=extra or None)


def calls_of(gateway: RunningGateway, name: str, count: int) -> list[tuple[Any, ...]]:
    """Return a key's calls once so many are settled: that happens behind the answer."""
    sql = (
        "SELECT model, status, c.cost_usd, error_code, k.id FROM single_calls c"
        " JOIN api_keys k ON k.id = key_id WHERE k.name = %s AND settled_at IS NOT NULL"
        " ORDER BY c.created_at"
    )
    deadline = time.monotonic() + 30
    while True:
        with psycopg.connect(gateway.database_url) as conn:
            found = conn.execute(sql, [name]).fetchall()
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def money_of(gateway: RunningGateway, key_id: Any) -> tuple[Decimal, Decimal, Decimal]:
    with psycopg.connect(gateway.database_url) as conn:
        row = conn.execute(
            "SELECT reserved_usd, spent_usd, overrun_usd FROM key_ledgers WHERE key_id = %s",
            [key_id],
        ).fetchone()
    assert row is not None
    return row


def test_a_request_is_answered_by_a_model_of_the_pool(
    gateway: RunningGateway, client: openai.OpenAI
) -> None:
    answer = ask(client)

    assert answer.choices[0].message.content == "It is Paris ."
    assert answer.model in PRICES
    told = answer.model_extra["routoo"]
    assert (told["model"], told["reason"]) == (answer.model, "best_quality")
    assert 0 <= told["expected_quality"] <= 1
    usage = answer.usage
    price = Decimal(PRICES[answer.model])
    cost_usd = price * (usage.prompt_tokens + usage.completion_tokens) / 1_000_000
    assert told["cost_usd"] == pytest.approx(float(cost_usd))
    model, status, settled_usd, _, key_id = calls_of(gateway, "chat", 1)[0]
    assert (model, status, settled_usd) == (answer.model, "succeeded", cost_usd)
    assert money_of(gateway, key_id)[:2] == (0, cost_usd)


def test_what_an_answer_is_worth_decides_between_quality_and_price(client: openai.OpenAI) -> None:
    dear, cheap = (ask(client, routoo={"willingness_to_pay_usd": worth}) for worth in (1000, 1e-9))

    assert cheap.model == SMALL
    assert (
        dear.model_extra["routoo"]["expected_quality"]
        >= (cheap.model_extra["routoo"]["expected_quality"])
    )
    assert dear.model_extra["routoo"]["reason"] == "best_value"


def test_limits_come_in_headers_too(client: openai.OpenAI) -> None:
    headers = {"X-Routoo-Min-Quality": "0.0001", "X-Routoo-Denied-Models": SMALL}
    answer = client.chat.completions.with_raw_response.create(
        model="auto", messages=ASKED, extra_headers=headers
    )

    assert answer.headers["x-routoo-model"] == MIDDLE
    assert answer.headers["x-routoo-reason"] == "cheapest_good_enough"
    assert float(answer.headers["x-routoo-cost-usd"]) > 0
    assert answer.parse().model == MIDDLE


def test_a_named_model_is_asked_without_a_prediction(client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(model="unheard", messages=ASKED)

    assert answer.parse().model == "unheard"
    assert (answer.headers["x-routoo-reason"], answer.headers["x-routoo-predict-ms"]) == (
        "named",
        "0.000",
    )


def test_a_budget_bounds_the_worst_case_of_a_call(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, routoo={"budget_usd": "0.0000001"})
    assert refusal.value.code == "budget_exhausted"
    assert ask(client, routoo={"budget_usd": "0.00001"}).model == SMALL


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "gpt-9", "messages": ASKED}, 404, "model_not_found"),
        ({"messages": []}, 400, "missing_field"),
        (
            {"messages": [{"role": "user", "content": "word " * 20_000}]},
            400,
            "context_length_exceeded",
        ),
        ({"messages": ASKED, "routoo": {"base_url": "http://evil.example"}}, 400, None),
        ({"messages": ASKED, "routoo": {"pool": "http://evil.example"}}, 400, None),
        ({"messages": ASKED, "routoo": {"min_quality": 1}}, 400, "no_eligible_model"),
        ({"messages": ASKED, "routoo": {"budget_usd": "many"}}, 400, None),
    ],
)
def test_requests_that_cannot_be_answered_are_refused(
    client: openai.OpenAI, body: dict[str, Any], status: int, code: str | None
) -> None:
    with pytest.raises(openai.APIStatusError) as refusal:
        client.post("/chat/completions", body=body, cast_to=object)

    assert (refusal.value.status_code, refusal.value.code) == (status, code)


def test_another_model_answers_where_the_first_fails(
    client: openai.OpenAI, models: FakeServerProcess
) -> None:
    first = ask(client).model
    fault = {"faults": [{"kind": "status", "status": 500, "message": "down"}]}
    with script(models, {first: fault}):
        answer = ask(client)

    assert answer.model != first
    assert answer.model_extra["routoo"]["reason"] == "fallback"
    assert answer.model_extra["routoo"]["failed_before"] == [f"{first}: endpoint_unavailable"]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"kind": "rate_limit"}, 429),
        ({"kind": "context_length"}, 400),
        ({"kind": "content_filter"}, 400),
        ({"kind": "wrong_json"}, 502),
    ],
)
def test_a_failure_of_a_named_model_is_told_in_openais_words(
    client: openai.OpenAI, models: FakeServerProcess, fault: dict[str, Any], status: int
) -> None:
    with script(models, {LARGE: {"faults": [fault]}}), pytest.raises(openai.APIStatusError) as told:
        ask(client, LARGE)

    assert told.value.status_code == status
    assert "127.0.0.1" not in json.dumps(told.value.body)


def test_an_answer_is_streamed_word_by_word(gateway: RunningGateway) -> None:
    with openai.OpenAI(base_url=gateway.base_url, api_key=gateway.add_key("streams")) as client:
        chunks = list(
            client.chat.completions.create(
                model="routoo/auto",
                messages=ASKED,
                stream=True,
                stream_options={"include_usage": True},
            )
        )

        text = [c.choices[0].delta.content for c in chunks if c.choices]
        assert [word for word in text if word] == ["It", " is", " Paris", " ."]
        assert {chunk.model for chunk in chunks} <= PRICES.keys()
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 4
        bare = list(client.chat.completions.create(model=SMALL, messages=ASKED, stream=True))
        assert all(chunk.usage is None and chunk.choices for chunk in bare)
        # Calls without a limit are recorded in groups: their order isn't that of the answers.
        assert (SMALL, "succeeded") in [call[:2] for call in calls_of(gateway, "streams", 2)]


def test_a_stream_whose_endpoint_refuses_stream_options_is_asked_without(
    client: openai.OpenAI, models: FakeServerProcess
) -> None:
    refusal = {"refuses": {"stream_options": "Unknown field: stream_options"}}
    with script(models, {MIDDLE: {"answer": "Yes .", **refusal}}):
        chunks = list(client.chat.completions.create(model=MIDDLE, messages=ASKED, stream=True))

    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Yes ."


def test_a_stream_that_breaks_off_counts_at_its_worst_case(
    gateway: RunningGateway, models: FakeServerProcess
) -> None:
    with openai.OpenAI(base_url=gateway.base_url, api_key=gateway.add_key("broken")) as client:
        breaks = {"answer": "a b c d e f", "faults": [{"kind": "half_body"}]}
        with script(models, {LARGE: breaks}), pytest.raises(openai.APIError):
            list(client.chat.completions.create(model=LARGE, messages=ASKED, stream=True))

        model, status, cost_usd, _, _ = calls_of(gateway, "broken", 1)[0]
        assert (model, status) == (LARGE, "failed")
        assert cost_usd > 0


async def test_calls_at_the_same_time_share_a_pass_of_the_model(gateway: RunningGateway) -> None:
    key = await asyncio.to_thread(gateway.add_key, "many")
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=key, max_retries=0) as client:
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(
                    model="auto", messages=[{"role": "user", "content": f"Name {number}"}]
                )
                for number in range(20)
            )
        )

    assert {answer.choices[0].message.content for answer in answers} == {"It is Paris ."}
    settled = await asyncio.to_thread(calls_of, gateway, "many", 20)
    assert len(settled) == 20


async def test_a_key_spends_no_more_a_day_than_its_limit_at_any_concurrency(
    gateway: RunningGateway, models: FakeServerProcess
) -> None:
    # A call of 30 prompt and 4 completion tokens or so; its worst case is some 150 tokens.
    key, key_id = await asyncio.to_thread(gateway.add_key_with_id, "poor", usd_per_day="0.0003")
    slow = {LARGE: {"answer": "It is Paris .", "latency_s": 0.3}}
    with script(models, slow):
        async with openai.AsyncOpenAI(
            base_url=gateway.base_url, api_key=key, max_retries=0
        ) as client:
            outcomes = await asyncio.gather(
                *(client.chat.completions.create(model=LARGE, messages=ASKED) for _ in range(30)),
                return_exceptions=True,
            )
    answered = [one for one in outcomes if not isinstance(one, BaseException)]
    refused = [one for one in outcomes if isinstance(one, openai.RateLimitError)]
    assert len(answered) + len(refused) == 30
    assert answered
    assert refused
    assert {one.code for one in refused} == {"insufficient_quota"}
    await asyncio.to_thread(calls_of, gateway, "poor", len(answered))
    reserved, spent, overrun = await asyncio.to_thread(money_of, gateway, key_id)
    assert (reserved, overrun) == (0, 0)
    assert 0 < spent <= Decimal("0.0003")


def test_models_are_listed_with_the_name_that_has_one_chosen(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["routoo/auto", *PRICES, "unheard"]
    assert client.models.retrieve("routoo/auto").id == "routoo/auto"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_a_key_that_may_only_read_makes_no_calls(gateway: RunningGateway) -> None:
    key = gateway.add_key("looks", [Scope.READ])
    with (
        openai.OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0) as client,
        pytest.raises(openai.PermissionDeniedError),
    ):
        ask(client)


def test_the_description_needs_no_foreign_file(gateway: RunningGateway) -> None:
    with openai.OpenAI(base_url=gateway.url, api_key="none") as plain:
        page = plain.get("/docs", cast_to=str)
        described = plain.get("/openapi.json", cast_to=object)

    assert "https://" not in page
    assert "/v1/batches" in json.dumps(described)
