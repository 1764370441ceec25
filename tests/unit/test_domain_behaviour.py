"""What is known of endpoints beside their pools, and models that allow for it."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.domain.behaviour import (
    EndpointBehaviour,
    KnownBehaviour,
    behaviour_key,
    found_in,
    pool_as_found,
)
from routoo.domain.completion import Usage
from routoo.domain.endpoint import Endpoint, LimitField
from routoo.domain.pool import BatchChannel, CandidateModel, Pool, Tariff
from routoo.domain.prompt import bound_cost_usd

BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
ONE, OTHER = (Endpoint(base_url=f"http://{host}.test/v1") for host in "ab")
PRICE = Tariff(prompt=Decimal(1), completion=Decimal(1))


def candidate(*endpoints: Endpoint, **changes: Any) -> CandidateModel:
    return CandidateModel(
        name="m",
        endpoints=endpoints or (ONE,),
        price_usd_per_mtok=PRICE,
        context_window_tokens=4096,
        **changes,
    )  # type: ignore[call-arg]  # `endpoint` is the first of `endpoints`


behaviours = st.builds(
    EndpointBehaviour,
    st.sampled_from([None, *LimitField]),
    st.integers(0, 9_000),
    st.integers(0, 9_000),
)


@given(behaviours, behaviours, behaviours)
def test_what_is_found_merges_in_any_order_and_any_number_of_times(
    one: EndpointBehaviour, two: EndpointBehaviour, three: EndpointBehaviour
) -> None:
    assert one.merged(two) == two.merged(one)
    assert one.merged(two).merged(three) == one.merged(two.merged(three))
    assert one.merged(two).merged(two) == one.merged(two)


@given(st.lists(behaviours, max_size=4))
def test_a_model_costs_no_less_the_more_is_known_of_it(found: list[EndpointBehaviour]) -> None:
    known, model = KnownBehaviour(), candidate(ONE, OTHER)
    costs_usd = [bound_cost_usd(BODY, model)]
    for one in found:
        known.update({behaviour_key(model): one})
        costs_usd.append(bound_cost_usd(BODY, known.apply(model)))
    assert costs_usd == sorted(costs_usd)


def test_a_model_is_the_same_object_until_something_new_is_known() -> None:
    known, model = KnownBehaviour(), candidate()
    assert known.apply(model) is model
    known.update({behaviour_key(candidate(OTHER)): EndpointBehaviour(None, 1, 1)})
    assert known.apply(model) is model
    known.note_refusal(model)
    learned = known.apply(model)
    assert learned.endpoint.completion_limit_field is LimitField.MAX_COMPLETION_TOKENS
    assert known.apply(model) is learned
    assert known.apply(learned) is learned


def test_a_refusal_of_the_second_field_leaves_none() -> None:
    known, model = KnownBehaviour(), candidate()
    known.note_refusal(model)
    known.note_refusal(model)  # a call that was in flight with the first field
    assert known.of(model).limit_field is LimitField.MAX_COMPLETION_TOKENS
    known.note_refusal(known.apply(model))
    assert known.of(model).limit_field is LimitField.NONE


def test_a_field_that_the_pool_names_is_not_learned_otherwise() -> None:
    stated = ONE.model_copy(update={"completion_limit_field": LimitField.MAX_TOKENS})
    known, model = KnownBehaviour(), candidate(stated)
    known.note_refusal(model)
    known.update({behaviour_key(model): EndpointBehaviour(LimitField.NONE)})
    assert known.apply(model) is model


def test_only_the_endpoint_that_was_called_is_changed() -> None:
    known, model = KnownBehaviour(), candidate(ONE, OTHER)
    assert known.note_usage(model.at(OTHER), BODY, Usage(1, 110))
    first, second = known.apply(model).all_endpoints
    assert (first.extra_completion_tokens, second.extra_completion_tokens) == (0, 100)


@pytest.mark.parametrize(
    ("usage", "extra"),
    [
        (Usage(1, 10), None),
        (Usage(1, 3600), (0, 3590)),
        (Usage(5_000_000, 10), (4096, 0)),  # no more than the window: the count may be absurd
        (Usage(1, 3600, estimated=True), None),
    ],
)
def test_a_bill_above_the_bound_raises_it_by_the_excess(
    usage: Usage, extra: tuple[int, int] | None
) -> None:
    known, model = KnownBehaviour(), candidate()
    assert known.note_usage(model, BODY, usage) is (extra is not None)
    found = known.of(model)
    assert (found.extra_prompt_tokens, found.extra_completion_tokens) == (extra or (0, 0))
    assert not known.note_usage(known.apply(model), BODY, usage) or usage.prompt_tokens > 4096


def test_what_was_found_is_unsaved_until_just_that_is_saved() -> None:
    known, model = KnownBehaviour(), candidate()
    known.note_usage(model, BODY, Usage(1, 20))
    saving = dict(known.unsaved)
    known.note_usage(known.apply(model), BODY, Usage(1, 30))
    known.saved(saving)
    assert [one.extra_completion_tokens for one in known.unsaved.values()] == [20]
    known.saved(dict(known.unsaved))
    assert known.unsaved == {}


def test_a_batch_channel_behaves_as_the_endpoint_at_its_address() -> None:
    model = candidate(batch_channel=BatchChannel(price_usd_per_mtok=PRICE))
    pool = Pool(models=(model,)).with_batch_channels()
    stored = {behaviour_key(model): EndpointBehaviour(LimitField.NONE, 7, 0)}
    assert {one.endpoint.extra_prompt_tokens for one in pool_as_found(pool, stored).models} == {7}
    assert [one.model for one in found_in(pool, stored)] == ["m", "m@batch"]
    assert found_in(pool, {}) == ()
