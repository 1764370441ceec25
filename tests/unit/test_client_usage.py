"""What answers say was billed, in the words of many providers."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from routoo.client.formats.openai import MOST_TOKENS, read_usage
from routoo.domain.completion import Usage
from routoo.domain.pool import Tariff
from routoo.errors import InvalidResponseError

URL = "http://endpoint.test/v1"


def read(reported: object) -> Usage | None:
    return read_usage(reported, where=URL, http_status=200)


def usage(prompt: int, completion: int, cached: int = 0, written: int = 0) -> Usage:
    return Usage(prompt, completion, cached_prompt_tokens=cached, cache_write_tokens=written)


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        pytest.param(
            {
                "prompt_tokens": 20,
                "completion_tokens": 505,
                "total_tokens": 525,
                "completion_tokens_details": {"reasoning_tokens": 500},
            },
            usage(20, 505),
            id="reasoning inside (OpenAI)",
        ),
        pytest.param(
            {
                "prompt_tokens": 20,
                "completion_tokens": 5,
                "total_tokens": 525,
                "completion_tokens_details": {"reasoning_tokens": 500},
            },
            usage(20, 505),
            id="reasoning beside (xAI)",
        ),
        pytest.param(
            {
                "prompt_tokens": 10120,
                "completion_tokens": 1499,
                "total_tokens": 14428,
                "prompt_tokens_details": {"cached_tokens": 128},
                "completion_tokens_details": {"reasoning_tokens": 2809},
            },
            usage(10120, 4308, 128),
            id="reasoning beside, part of the prompt cached (xAI)",
        ),
        pytest.param(
            {
                "prompt_tokens": 12,
                "completion_tokens": 1,
                "completion_tokens_details": {"reasoning_tokens": 386},
            },
            usage(12, 387),
            id="reasoning beside, no total",
        ),
        pytest.param(
            {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623},
            usage(20, 603),
            id="thoughts in the total only (Gemini)",
        ),
        pytest.param(
            {"prompt_tokens": 20, "completion_tokens": 0, "total_tokens": 20},
            usage(20, 0),
            id="nothing written",
        ),
        pytest.param(
            {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 3},
            usage(20, 5),
            id="a total that is too small",
        ),
        pytest.param(
            {
                "prompt_tokens": 33,
                "completion_tokens": 7163,
                "total_tokens": 7196,
                "citation_tokens": 20016,
                "num_search_queries": 18,
                "reasoning_tokens": 73997,
            },
            usage(33 + 20016, 7163 + 73997),
            id="citations and reasoning beside (Perplexity)",
        ),
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 5,
                "total_tokens": 105,
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 36,
            },
            usage(100, 5, 64),
            id="cached (DeepSeek)",
        ),
        pytest.param(
            {
                "input_tokens": 3,
                "cache_creation_input_tokens": 12304,
                "cache_read_input_tokens": 0,
                "output_tokens": 550,
            },
            usage(12307, 550, 0, 12304),
            id="written to a cache beside the input (Anthropic)",
        ),
        pytest.param(
            {
                "prompt_tokens": 12307,
                "completion_tokens": 550,
                "total_tokens": 12857,
                "cache_read_input_tokens": 12000,
                "cache_creation_input_tokens": 300,
            },
            usage(12307, 550, 12000, 300),
            id="a cache inside the prompt (LiteLLM)",
        ),
        pytest.param(
            {
                "prompt_tokens": 7,
                "completion_tokens": 550,
                "total_tokens": 12857,
                "cache_read_input_tokens": 12000,
                "cache_creation_input_tokens": 300,
            },
            usage(12307, 550, 12000, 300),
            id="a cache beside the prompt, in the total",
        ),
        pytest.param(
            {"queue_time": 0.02, "prompt_tokens": 18.0, "completion_tokens": 3, "total_time": 0.1},
            usage(18, 3),
            id="times beside the counts (Groq)",
        ),
        pytest.param(
            {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "total_tokens": None,
                "prompt_tokens_details": None,
                "completion_tokens_details": {"reasoning_tokens": None},
            },
            usage(9, 1),
            id="empty details",
        ),
    ],
)
def test_what_is_billed_is_read_in_each_providers_words(
    reported: dict[str, Any], expected: Usage
) -> None:
    assert read(reported) == expected


@pytest.mark.parametrize("reported", [None, {}, [], "12", {"prompt_tokens": 3}])
def test_no_usage_is_no_usage(reported: object) -> None:
    assert read(reported) is None


@pytest.mark.parametrize(
    "count", [4294967295, 9e18, -1, "3", "many", True, 2.5, float("nan"), float("inf"), [], {}]
)
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "total_tokens"])
def test_a_count_that_cannot_be_fails_its_own_call(name: str, count: object) -> None:
    reported = {"prompt_tokens": 3, "completion_tokens": 2, name: count}
    with pytest.raises(InvalidResponseError, match=name) as caught:
        read(reported)
    assert caught.value.http_status == 200


counts = st.integers(-5, 2**33) | st.floats() | st.sampled_from(["3", "", None, True, [1], {}])
details = st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens"]), counts)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "prompt_tokens",
                "completion_tokens",
                "total_tokens",
                "input_tokens",
                "cache_read_input_tokens",
                "prompt_tokens_details",
                "completion_tokens_details",
                "citation_tokens",
                "reasoning_tokens",
            ]
        ),
        st.integers(0, 2**31) | counts | details,
    )
)
def test_any_usage_is_read_within_bounds_or_refused(reported: dict[str, Any]) -> None:
    try:
        found = read(reported)
    except InvalidResponseError:
        return
    if found is not None:
        assert 0 <= found.cached_prompt_tokens <= found.prompt_tokens
        assert found.completion_tokens >= 0
        assert found.total_tokens <= MOST_TOKENS


prices = st.decimals(0, 10_000, places=6)
tokens = st.integers(0, MOST_TOKENS)


@given(prices, prices, prices, tokens, tokens, tokens)
def test_a_cost_is_exact_and_never_above_the_uncached_price(
    one: Decimal, other: Decimal, completion: Decimal, prompt: int, answer: int, cached: int
) -> None:
    tariff = Tariff(prompt=max(one, other), cached_prompt=min(one, other), completion=completion)
    cost = tariff.cost_usd(prompt, answer, cached)
    assert 0 <= cost <= tariff.cost_usd(prompt, answer)
    known = min(cached, prompt)
    micros = max(one, other) * (prompt - known) + min(one, other) * known + completion * answer
    assert cost * 1_000_000 == micros


def test_a_tariff_without_a_cached_price_takes_the_full_one() -> None:
    tariff = Tariff(prompt=Decimal(3), completion=Decimal(4))
    assert tariff.cost_usd(100, 10, 50) == tariff.cost_usd(100, 10) == Decimal("0.00034")


def test_a_cached_price_above_the_prompts_is_refused() -> None:
    with pytest.raises(ValidationError, match="cached_prompt must not be above prompt"):
        Tariff(prompt=Decimal(1), cached_prompt=Decimal(2), completion=Decimal(1))
