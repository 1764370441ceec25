"""Counting tokens without a tokenizer."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.domain.endpoint import Endpoint, LimitField
from routoo.domain.pool import CandidateModel, Tariff
from routoo.domain.prompt import (
    bound_completion_tokens,
    bound_prompt_tokens,
    bound_text_tokens,
    estimate_prompt_tokens,
    estimate_text_tokens,
    part_counts,
    prompt_text,
    requested_completion_tokens,
)

MODEL = CandidateModel(
    name="m",
    endpoint=Endpoint(base_url="http://localhost:1/v1"),
    price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(2)),
    context_window_tokens=4096,
    max_completion_tokens=256,
)


def chat(*contents: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


def test_the_text_of_a_chat_is_its_messages_in_order() -> None:
    assert prompt_text(chat("one", [{"type": "text", "text": "two"}])) == "one\n\ntwo"


def test_the_text_of_a_plain_request_is_its_prompt() -> None:
    assert prompt_text({"prompt": "once upon a time"}) == "once upon a time"


def test_parts_without_text_count_no_text() -> None:
    assert prompt_text(chat([{"type": "image_url", "image_url": {"url": "x"}}], None)) == ""


def test_of_two_completion_limits_the_smaller_one_counts() -> None:
    assert requested_completion_tokens({"max_tokens": 5, "max_completion_tokens": 7}) == 5
    assert requested_completion_tokens({"max_tokens": 7, "max_completion_tokens": 5}) == 5


def test_where_no_limit_is_obeyed_the_pools_limit_bounds_an_answer() -> None:
    endpoint = MODEL.endpoint.model_copy(update={"completion_limit_field": LimitField.NONE})
    free = MODEL.model_copy(update={"endpoint": endpoint})
    bodies: list[dict[str, Any]] = [{}, {"max_tokens": 10}, {"max_tokens": 9, "n": 2}]
    assert [bound_completion_tokens(body, free) for body in bodies] == [256, 256, 512]


def test_what_an_endpoint_bills_beside_is_in_the_bounds() -> None:
    extra = {"extra_prompt_tokens": 30, "extra_completion_tokens": 500}
    more = MODEL.model_copy(update={"endpoint": MODEL.endpoint.model_copy(update=extra)})
    body = chat("hi")
    assert bound_prompt_tokens(body, more) == bound_prompt_tokens(body, MODEL) + 30
    assert bound_completion_tokens(body, more) == bound_completion_tokens(body, MODEL) + 500


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "text", "text": "x"}, None),
        ({"type": "input_text", "text": "x", "cache_control": {"type": "ephemeral"}}, None),
        ({"type": "thinking", "thinking": "so"}, None),
        ({"text": "x"}, None),
        ({"type": "image", "source": {}}, "image"),
        ({"image_url": {"url": "x"}}, "image"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "input_audio"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file"),
        ({"type": "video_url", "video_url": {"url": "x"}}, "video_url"),
        ({"type": "document", "source": {}}, "document"),
        ({"type": ["text"], "video": "x"}, "video"),
    ],
)
def test_a_part_that_is_not_text_counts_by_its_kind(part: dict[str, Any], kind: str | None) -> None:
    assert part_counts(chat("one", [part, part])) == ({} if kind is None else {kind: 2})


def test_an_earlier_answer_that_was_spoken_is_a_part_of_its_own() -> None:
    spoken = {"role": "assistant", "audio": {"id": "audio_1"}}
    assert part_counts({"messages": [*chat("hi")["messages"], spoken]}) == {"audio": 1}


def test_a_parts_bound_counts_in_the_estimate_and_in_the_worst_case() -> None:
    text = {"type": "text", "text": "Sum up."}
    taking = MODEL.model_copy(update={"part_prompt_tokens": (("file", 50_000),)})
    named, plain = chat([text, {"type": "file", "file": {"file_id": "f"}}]), chat([text])
    for tokens in (estimate_prompt_tokens, bound_prompt_tokens):
        assert 50_000 <= tokens(named, taking) - tokens(plain, taking) <= 50_000 + 2


@pytest.mark.parametrize("limit", [None, "5", True])
def test_a_limit_that_is_no_number_is_no_limit(limit: object) -> None:
    assert requested_completion_tokens({"max_tokens": limit}) is None


@pytest.mark.parametrize(("body", "tokens"), [({}, 256), ({"max_tokens": 9, "n": 3}, 27)])
def test_the_completion_bound_covers_every_choice(body: dict[str, Any], tokens: int) -> None:
    assert bound_completion_tokens(body, MODEL) == tokens


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_the_bound_is_above_a_token_a_byte(text: str) -> None:
    assert bound_prompt_tokens(chat(text), MODEL) > len(text.encode())


def test_tools_count_as_prompt() -> None:
    with_tools = {**chat("hi"), "tools": [{"type": "function", "function": {"name": "f" * 400}}]}
    assert estimate_text_tokens(with_tools) > estimate_text_tokens(chat("hi")) + 90


def test_an_image_counts_by_the_models_rule_and_not_by_its_bytes() -> None:
    data = "data:image/png;base64," + "A" * 100_000
    shown = chat([{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": data}])
    seeing = MODEL.model_copy(update={"image_prompt_tokens": 1105})
    assert prompt_text(shown) == "What?"
    assert estimate_text_tokens(shown) < 100
    assert bound_text_tokens(shown) < 200
    assert bound_prompt_tokens(shown, seeing) == bound_text_tokens(shown) + 1105


def test_a_cost_is_exact_in_decimal() -> None:
    assert MODEL.cost_usd(3, 1) == Decimal("0.000005")
