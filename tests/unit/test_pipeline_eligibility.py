"""Lists of models and capabilities rule candidates out before any number is looked at."""

from typing import Any

import numpy as np
import pytest

from routoo.domain.job import SLA
from routoo.domain.pool import Capability, Pool
from routoo.domain.prompt import required_capabilities
from routoo.pipeline.request_facts import RequestKind
from routoo.pipeline.select.eligibility import capable, describe_ineligibility, usable
from routoo.selector.job_limits import IneligibilityReason
from tests.batch_factory import pool_of

POOL = pool_of("small", "middle", "large")


def kind(sla: SLA | None = None, **body: Any) -> RequestKind:
    return RequestKind.of(body, sla or SLA())


def test_lists_and_the_named_model_hold_together() -> None:
    kinds = [
        kind(),
        kind(SLA(allowed_models=("small", "large"))),
        kind(SLA(allowed_models=("small", "large"), denied_models=("small",))),
        kind(SLA(denied_models=("small",)), model="small"),
    ]
    assert usable(kinds, POOL).astype(int).tolist() == [[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("body", "needed"),
    [
        ({"messages": [{"role": "user", "content": "x"}]}, set()),
        ({"tools": []}, set()),
        ({"tools": [{}]}, {Capability.TOOLS}),
        ({"functions": [{}]}, {Capability.TOOLS}),
        ({"response_format": {"type": "text"}}, set()),
        ({"response_format": {"type": ["json_object"]}}, set()),
        ({"response_format": {"type": "json_object"}}, {Capability.JSON_MODE}),
        ({"response_format": {"type": "json_schema"}}, {Capability.JSON_SCHEMA}),
    ],
)
def test_a_request_shows_what_it_needs(body: dict[str, Any], needed: set[Capability]) -> None:
    assert required_capabilities(body) == needed


def test_a_model_that_declares_nothing_is_asked_for_anything() -> None:
    declared = (None, frozenset[Capability](), frozenset({Capability.TOOLS}))
    models = [
        model.model_copy(update={"capabilities": capabilities})
        for model, capabilities in zip(POOL.models, declared, strict=True)
    ]
    pool = Pool(models=tuple(models))
    kinds = [kind(), kind(tools=[{}])]
    assert capable(kinds, pool).tolist() == [[True] * 3, [True, False, True]]
    assert Pool.model_validate(pool.model_dump(mode="json")) == pool


def test_a_model_takes_only_parts_whose_tokens_the_pool_bounds() -> None:
    bounded = ((), (("input_audio", 2000),), (("input_audio", 2000), ("file", 50_000)))
    models = [
        model.model_copy(update={"part_prompt_tokens": kinds})
        for model, kinds in zip(POOL.models, bounded, strict=True)
    ]
    pool = Pool(models=tuple(models))
    parts = [["input_audio"] * 2, ["file", "input_audio"], ["hologram"], []]
    kinds = [
        kind(messages=[{"role": "user", "content": [{"type": one} for one in some]}])
        for some in parts
    ]
    assert capable(kinds, pool).astype(int).tolist() == [
        [0, 1, 1],
        [0, 0, 1],
        [0, 0, 0],
        [1, 1, 1],
    ]
    assert Pool.model_validate_json(pool.model_dump_json()) == pool


def test_a_part_that_no_model_takes_is_named_with_the_remedy() -> None:
    shown = kind(messages=[{"role": "user", "content": [{"type": "video_url", "video_url": {}}]}])
    reasons = np.full(3, IneligibilityReason.CAPABILITY, np.uint8)
    text = describe_ineligibility(shown, reasons, np.zeros(3), np.zeros(3))
    assert "takes video_url parts: set image_prompt_tokens, or part_prompt_tokens" in text
