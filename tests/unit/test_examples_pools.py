"""The example's pools, its catalogue of local models, and the choice of shared questions."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from examples.local_models.catalogue import (
    CONTEXT_WINDOW_TOKENS,
    MODELS,
    PARALLEL_SLOTS,
    demo_models,
    named_models,
)
from examples.shared_items import as_items, select
from routoo.domain.pool_file import load_pool
from routoo.errors import ConfigError
from routoo.settings import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


@pytest.mark.parametrize(("pool", "demo"), [("pool.yaml", "full"), ("pool-small.yaml", "small")])
def test_the_example_pool_names_the_local_models_at_their_ports(pool: str, demo: str) -> None:
    for candidate, local in zip(load_pool(EXAMPLES / pool).models, demo_models(demo), strict=True):
        assert candidate.name == local.name
        assert candidate.endpoint.base_url == local.base_url
        assert candidate.endpoint.max_concurrency == PARALLEL_SLOTS
        assert candidate.context_window_tokens == CONTEXT_WINDOW_TOKENS


def test_the_small_pool_is_the_first_two_models_of_the_full_one() -> None:
    small = load_pool(EXAMPLES / "pool-small.yaml")
    assert small.models == load_pool(EXAMPLES / "pool.yaml").models[:2]


def test_stronger_example_models_are_dearer() -> None:
    prices = [model.price_usd_per_mtok.prompt for model in load_pool(EXAMPLES / "pool.yaml").models]
    assert prices == sorted(prices)
    assert prices[0] > Decimal(0)


def test_the_hosted_example_pool_loads() -> None:
    pool = load_pool(EXAMPLES / "pool-hosted.yaml")
    assert {model.endpoint.api_key_env for model in pool.models} >= {"OPENAI_API_KEY", None}


def test_an_unknown_demo_size_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"ROUTOO_DEMO.*`small`"):
        demo_models("tiny")


def test_an_unknown_local_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="smollm2-135m-instruct"):
        named_models(["gpt-5"])


def test_named_models_come_weakest_first() -> None:
    names = [model.name for model in reversed(MODELS)]
    assert named_models(names) == MODELS


def row(item_id: str, subject: str, tokens: int = 10) -> Mapping[str, Any]:
    return {
        "item_id": item_id, "dataset": "d", "subject": subject, "prompt": "Q?\nA. x\nB. y",
        "answer": "A", "prompt_tokens_cl100k": tokens,
    }  # fmt: skip


def test_shared_questions_are_spread_over_subjects_and_short() -> None:
    rows = [row(f"a{number}", "a") for number in range(9)]
    rows += [row("b0", "b"), row("c0", "c"), row("c1", "c", tokens=500)]
    chosen = select(rows, 4)
    assert sorted(found["subject"] for found in chosen) == ["a", "a", "b", "c"]
    assert "c1" not in {found["item_id"] for found in chosen}


def test_the_choice_of_shared_questions_does_not_depend_on_their_order() -> None:
    rows = [row(f"a{number}", "a") for number in range(9)]
    assert select(rows, 3) == select(rows[::-1], 3)


def test_shared_questions_ask_for_a_letter() -> None:
    (item,) = as_items([row("a0", "a")])
    assert item.prompt == "Q?\nA. x\nB. y\nAnswer with the letter only."
    assert item.grader == "choice"
