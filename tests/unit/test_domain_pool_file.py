"""Pool files: exact prices, and every problem named with its line."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.domain.pool import Pool
from routoo.domain.pool_file import load_pool, parse_pool
from routoo.errors import ConfigError

GOOD = """\
models:
  - name: small
    endpoint: {base_url: "http://127.0.0.1:8000/v1", max_concurrency: 4}
    price_usd_per_mtok: {prompt: 0.1, completion: 0.30}
    context_window_tokens: 8_192
  - name: large
    endpoint:
      base_url: https://api.example.test/v1
      model: large-2026-01
      api_key_env: EXAMPLE_KEY
      timeout_s: 2.5
    price_usd_per_mtok:
      prompt: 1e1
      completion: 0
    context_window_tokens: 128000
    max_completion_tokens: 512
"""


def problems_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_pool(text, name="p.yaml")
    return str(caught.value)


def test_a_pool_is_read_in_the_files_order(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(GOOD, encoding="utf-8")
    pool = load_pool(path)
    assert pool.names == ("small", "large")
    assert pool.models[0].context_window_tokens == 8192
    assert pool.models[1].endpoint.timeout_s == 2.5
    assert pool.models[1].model_at_endpoint == "large-2026-01"


def test_prices_are_exactly_what_the_file_shows() -> None:
    small, large = parse_pool(GOOD).models
    assert small.price_usd_per_mtok.prompt == Decimal("0.1")
    assert small.price_usd_per_mtok.completion == Decimal("0.30")
    assert large.price_usd_per_mtok.prompt == 10


@given(st.decimals(0, 10**6, allow_nan=False, places=9))
def test_any_price_survives_the_file_exactly(price: Decimal) -> None:
    text = GOOD.replace("prompt: 0.1", f"prompt: {price:f}")
    assert parse_pool(text).models[0].price_usd_per_mtok.prompt == price


def test_an_endpoint_may_declare_its_rates_and_how_long_a_call_takes() -> None:
    declared = (
        "requests_per_minute: 500, tokens_per_minute: 200_000,"
        " expected_latency: {base_s: 0.5, per_completion_token_s: 0.02}"
    )
    endpoint = parse_pool(GOOD.replace("max_concurrency: 4", declared)).models[0].endpoint
    assert (endpoint.requests_per_minute, endpoint.tokens_per_minute) == (500, 200_000)
    assert endpoint.expected_latency is not None
    assert endpoint.expected_latency.per_completion_token_s == 0.02


def test_candidates_of_one_url_model_and_key_are_one_endpoint() -> None:
    pool = parse_pool(GOOD.replace("name: large", "name: other"))
    small, other = pool.models
    twin = small.model_copy(
        update={"name": "twin", "endpoint": small.endpoint.model_copy(update={"model": "small"})}
    )
    assert twin.endpoint_key == small.endpoint_key != other.endpoint_key


def test_a_snapshot_is_the_same_pool_again() -> None:
    pool = parse_pool(GOOD)
    assert Pool.model_validate_json(pool.model_dump_json()) == pool


def test_a_missing_price_says_what_to_do_when_it_is_free() -> None:
    text = GOOD.replace("    price_usd_per_mtok: {prompt: 0.1, completion: 0.30}\n", "")
    message = problems_of(text)
    assert message.startswith("p.yaml:2: price_usd_per_mtok of model 'small'")
    assert "say 0 if it is free" in message


@pytest.mark.parametrize("price", ["", "unknown", "~", "-1", ".inf", ".nan", "yes", "[1]"])
def test_an_unusable_price_is_refused(price: str) -> None:
    message = problems_of(GOOD.replace("      completion: 0\n", f"      completion: {price}\n"))
    assert "p.yaml:14" in message
    assert "say 0 if it is free" in message


def test_all_problems_are_listed_at_once_in_the_files_order() -> None:
    text = (
        GOOD.replace("timeout_s", "timeout")
        .replace("128000", "0")
        .replace("- name: small\n    endpoint", "- endpoint")
    )
    message = problems_of(text)
    lines = [line.split(": ")[0] for line in message.splitlines()[1:]]
    assert message.startswith("3 problems")
    assert lines == ["p.yaml:2", "p.yaml:10", "p.yaml:14"]
    assert "known here are base_url, model, api_key_env" in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: small", "name: 3.5", "p.yaml:2: name of model 1 of the list"),
        ("name: large", "name: small", "p.yaml:6: candidate model 'small' is listed twice"),
        ("name: large", "name: large\n    name: again", "p.yaml:7: name: the key comes twice"),
        ("http://127.0.0.1:8000/v1", "ftp://x", "p.yaml:3: endpoint.base_url"),
        ("8_192", "1:30", "p.yaml:5: context_window_tokens"),
        ("max_concurrency: 4", "max_concurrency: 1.5", "p.yaml:3: endpoint.max_concurrency"),
        ("max_concurrency: 4", "max_concurrency: 0", "p.yaml:3: endpoint.max_concurrency"),
        (
            "max_concurrency: 4",
            "requests_per_minute: 0",
            "p.yaml:3: endpoint.requests_per_minute",
        ),
        (
            "max_concurrency: 4",
            "expected_latency: {base_s: 1, slope: 2}",
            "known here are base_s, per_completion_token_s",
        ),
        ("timeout_s: 2.5", "timeout_s: .inf", "p.yaml:11: endpoint.timeout_s"),
        ("models:", "model:", "p.yaml:1: model: no such key"),
    ],
)
def test_a_problem_is_named_with_its_line(old: str, new: str, expected: str) -> None:
    assert expected in problems_of(GOOD.replace(old, new))


def test_credentials_in_a_url_are_refused_and_not_shown() -> None:
    message = problems_of(GOOD.replace("http://127", "http://me:hunter2@127"))
    assert "api_key_env" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("text", "line"),
    [("models: [", "p.yaml:1"), ("a: b: c", "p.yaml:1"), ("models: []\n---\na: 1\n", "p.yaml:2")],
)
def test_broken_yaml_is_named_with_its_line(text: str, line: str) -> None:
    assert problems_of(text).startswith(f"{line}: not valid YAML")


@pytest.mark.parametrize("text", ["", "[]", "3", "models: []", "models: 3", "models:", "{}"])
def test_a_file_without_models_is_refused(text: str) -> None:
    assert "p.yaml" in problems_of(text)


@pytest.mark.parametrize("text", ["models: [*x]", "models: !!python/object:os.system {}"])
def test_yaml_that_wants_more_than_data_is_refused(text: str) -> None:
    assert "not valid YAML" in problems_of(text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml.*--pool"):
        load_pool(tmp_path / "gone.yaml")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_pool(path)


def test_a_tokenizers_path_begins_at_the_pool_file_and_a_package_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    text = GOOD.replace("8_192", "8_192\n    tokenizer: files/small.json")
    path.write_text(text.replace("128000", "128000\n    tokenizer: a_package"), encoding="utf-8")
    small, large = load_pool(path).models
    assert small.tokenizer == str(tmp_path / "files" / "small.json")
    assert large.tokenizer == "a_package"


EFFORTS = """
models:
  - &low
    name: low
    endpoint: {base_url: "https://api.example.com/v1", model: thinker}
    price_usd_per_mtok: {prompt: 1, completion: 2}
    context_window_tokens: 1000
    parameters: {reasoning_effort: low, temperature: 0.5, thinking: {budget_tokens: 100}}
  - <<: *low
    name: high
    parameters: {reasoning_effort: high}
"""


def test_one_model_with_two_parameters_is_two_candidates_of_one_endpoint() -> None:
    low, high = parse_pool(EFFORTS).models
    assert low.endpoint_key == high.endpoint_key
    assert low != high
    assert hash(low) != hash(high)
    thinking = {"budget_tokens": 100}
    asked = {"messages": [], "reasoning_effort": "low", "temperature": 0.5, "thinking": thinking}
    assert low.with_parameters({"messages": []}) == asked


def test_a_requests_own_value_comes_before_the_candidates() -> None:
    low = parse_pool(EFFORTS).models[0]
    body = {"messages": [], "reasoning_effort": "medium", "thinking": None, "temperature": 0}
    assert low.with_parameters(body) == body


def test_parameters_survive_the_snapshot_of_a_batch() -> None:
    pool = parse_pool(EFFORTS)
    assert Pool.model_validate(pool.model_dump(mode="json")) == pool


@pytest.mark.parametrize("name", ["model", "messages", "max_tokens", "n", "stream", "3"])
def test_parameters_that_are_a_rows_own_are_refused(name: str) -> None:
    text = EFFORTS.replace("parameters: {reasoning_effort: high}", f"parameters: {{{name}: 1}}")
    message = problems_of(text)
    assert f"parameters names {name}" in message
