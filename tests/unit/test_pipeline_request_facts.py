"""Facts of requests: the same whether they are read from the requests or as they were packed."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routoo.domain import prompt
from routoo.domain.endpoint import ApiFormat, Endpoint, LimitField
from routoo.domain.job import SLA, Job
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.domain.validators import Validators
from routoo.judge.agreement import is_open
from routoo.pipeline.request_facts import (
    FORMAT,
    RequestDigests,
    RequestFacts,
    RequestKind,
    pack,
    pack_jobs,
    unpack,
)
from routoo.pipeline.select.estimates import most_usd

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.just(
    "Which?\nA) one\nB) two"
)
PARTS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.just({"url": "u"})}),
    st.fixed_dictionaries({"type": st.sampled_from(["file", "input_audio", "\x00odd"])}),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.just("user"), "content": TEXTS | st.lists(PARTS, max_size=3)}
    ),
    min_size=1,
    max_size=3,
)
BODIES = st.fixed_dictionaries(
    {"messages": MESSAGES},
    optional={
        "model": st.sampled_from(["a", "b", 7]),
        "max_tokens": st.integers(1, 2**31),
        "max_completion_tokens": st.none() | st.integers(1, 5000),
        "n": st.integers(1, 5),
        "temperature": st.sampled_from([0, 1, None]),
        "seed": st.integers(0, 9),
        "tools": st.sampled_from([[], [{"type": "function"}], None]),
        "functions": st.just([{}]),
        "response_format": st.sampled_from([{"type": "json_object"}, {"type": "json_schema"}]),
        "cache_control": st.just({"type": "ephemeral"}),
    },
)
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
UNIT = st.floats(0, 1, width=32)
NAMES = st.none() | st.lists(st.sampled_from(["a", "b", "\u00fc"]), max_size=2).map(tuple)
SLAS = st.builds(
    SLA,
    min_quality=st.none() | UNIT,
    max_cost_usd=st.none() | st.decimals(0, 10, places=9),
    max_latency_s=st.none() | st.floats(0.125, 2**20, width=32),
    deadline=st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=ZONES),  # noqa: DTZ001 - the zone is drawn
    allowed_models=NAMES,
    denied_models=NAMES,
    on_unavailable=st.sampled_from([None, "wait"]),
    validators=st.sampled_from([None, Validators(regex="x")]),
)
ASKED = st.lists(st.tuples(BODIES, SLAS | st.just(SLA())), min_size=1, max_size=6)


def jobs_of(asked: list[tuple[dict[str, Any], SLA]], first: int = 0) -> list[Job]:
    return [
        Job(first + no, str(no), orjson.loads(orjson.dumps(body)), sla)
        for no, (body, sla) in enumerate(asked)
    ]


def same(one: RequestFacts, other: RequestFacts) -> bool:
    """Whether two say the same of each request; their kinds may be numbered otherwise."""
    names = ("text_tokens", "bound_tokens", "limit_tokens", "choices", "open_prompt")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    kinds = [[facts.kinds[number] for number in facts.kind] for facts in (one, other)]
    return kinds[0] == kinds[1] and all(
        (a is None and b is None) or np.array_equal(a, b, equal_nan=name == "limit_tokens")
        for name, (a, b) in zip(names, pairs, strict=True)
    )


@settings(max_examples=300, deadline=None)
@given(asked=ASKED, reads_options=st.booleans(), first=st.integers(0, 10**6))
def test_what_was_packed_is_what_the_requests_say(
    asked: list[tuple[dict[str, Any], SLA]], reads_options: bool, first: int
) -> None:
    some = jobs_of(asked, first)
    facts, digests = (
        RequestFacts.of(some, reads_options=reads_options),
        RequestDigests.of(some),
    )
    stored = pack_jobs(some, reads_options=reads_options)
    assert stored is not None
    assert (stored.first_job, stored.job_count) == (first, len(some))
    unpacked = unpack(stored)
    assert unpacked is not None
    assert same(unpacked[0], facts)
    assert unpacked[0].kinds == facts.kinds
    assert unpacked[1] is not None
    assert np.array_equal(unpacked[1].values, digests.values)
    assert np.array_equal(unpacked[1].is_sample, digests.is_sample)
    without = unpack(replace(stored, digests=None))
    assert without is not None
    assert same(without[0], facts)
    assert without[1] is None


@settings(max_examples=150, deadline=None)
@given(asked=ASKED)
def test_facts_are_what_each_request_says_by_itself(
    asked: list[tuple[dict[str, Any], SLA]],
) -> None:
    some = jobs_of(asked)
    facts = RequestFacts.of(some, reads_options=True)
    for row, job in enumerate(some):
        body, kind = job.body, facts.kinds[facts.kind[row]]
        limit = prompt.requested_completion_tokens(body)
        assert facts.text_tokens[row] == prompt.estimate_text_tokens(body)
        assert facts.bound_tokens[row] == prompt.bound_text_tokens(body)
        assert (None if np.isnan(facts.limit_tokens[row]) else facts.limit_tokens[row]) == limit
        assert facts.choices[row] == prompt.choice_count(body)
        assert kind == RequestKind.of(body, job.sla)
        assert kind.part_counts == prompt.part_counts(body)
        assert set(kind.capabilities) == prompt.required_capabilities(body)
        assert kind.sla == replace(job.sla, on_unavailable=None, validators=None)
        assert facts.open_prompt is not None
        assert facts.open_prompt[row] == is_open(prompt.prompt_text(body))


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(ASKED, min_size=1, max_size=4), seed=st.integers(0, 99))
def test_slices_joined_are_as_if_they_had_been_read_at_once(
    pieces: list[list[tuple[dict[str, Any], SLA]]], seed: int
) -> None:
    every = jobs_of([one for piece in pieces for one in piece])
    whole = RequestFacts.of(every, reads_options=True)
    parts = [RequestFacts.of(jobs_of(piece), reads_options=True) for piece in pieces]
    assert same(RequestFacts.joined(parts), whole)
    some = np.random.default_rng(seed).permutation(len(every))[: len(every) // 2 + 1]
    chosen = RequestFacts.of([every[row] for row in some], reads_options=True)
    assert same(whole.rows(some), chosen)


POOL = Pool(
    models=tuple(
        CandidateModel(
            name=name,
            endpoint=Endpoint(base_url="http://127.0.0.1:9/v1", **endpoint),
            price_usd_per_mtok=Tariff(
                prompt=Decimal("0.5"), completion=Decimal("1.5"), cache_write=cache_write
            ),
            context_window_tokens=8192,
            max_completion_tokens=100,
            image_prompt_tokens=70,
            part_prompt_tokens=(("file", 500), ("input_audio", 30), ("\x00odd", 3)),
        )
        for name, endpoint, cache_write in (
            ("a", {}, None),
            ("b", {"format": ApiFormat.ANTHROPIC, "extra_prompt_tokens": 5}, Decimal(2)),
            ("c", {"completion_limit_field": LimitField.NONE, "extra_completion_tokens": 9}, None),
            ("d", {}, Decimal("0.1")),
        )
    )
)


@settings(max_examples=150, deadline=None)
@given(asked=ASKED)
def test_the_worst_case_is_what_dispatch_reserves(
    asked: list[tuple[dict[str, Any], SLA]],
) -> None:
    some = jobs_of(asked)
    exact = [[prompt.bound_cost_usd(job.body, model) for model in POOL.models] for job in some]
    found = most_usd(RequestFacts.of(some), POOL)
    np.testing.assert_allclose(found, np.array(exact, np.float64), rtol=1e-12)


JOBS = jobs_of(
    [
        ({"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 9}, SLA()),
        ({"messages": [{"role": "user", "content": "How?"}], "seed": 1, "n": 2}, SLA(0.5)),
    ]
)


def test_facts_that_are_damaged_or_of_another_format_are_not_read() -> None:
    stored = pack_jobs(JOBS, reads_options=True)
    assert stored is not None
    assert stored.digests is not None
    for damaged in (
        replace(stored, format=FORMAT + 1),
        replace(stored, format=FORMAT - 1),
        replace(stored, columns=stored.columns[:-1]),
        replace(stored, columns=stored.columns + b"\0"),
        replace(stored, columns=b""),
        replace(stored, digests=stored.digests[:-1]),
        replace(stored, digests=b""),
        replace(stored, job_count=3),
        replace(stored, job_count=1),
        replace(stored, kinds="[]"),
        replace(stored, kinds="[{}]"),
        replace(stored, kinds="{}"),
        replace(stored, kinds="[1, 2]"),
        replace(stored, kinds="null"),
        replace(stored, kinds='[{"max_cost_usd": "much"}, {}]'),
        replace(stored, kinds='[{"deadline": 5}, {}]'),
        replace(stored, kinds="["),
    ):
        assert unpack(damaged) is None, damaged


def test_values_that_do_not_fit_are_not_packed() -> None:
    facts, digests = RequestFacts.of(JOBS), RequestDigests.of(JOBS)
    assert pack(0, facts, digests) is not None
    assert pack(0, replace(facts, choices=np.array([1.0, 2.0**40])), digests) is None
    assert pack(0, replace(facts, text_tokens=np.array([1.0, -1.0])), digests) is None
    assert pack_jobs([], reads_options=False) is None


def test_a_prompt_that_nobody_looked_at_is_not_taken_for_one_without_options() -> None:
    stored = pack_jobs(JOBS, reads_options=False)
    assert stored is not None
    unpacked = unpack(stored)
    assert unpacked is not None
    assert unpacked[0].open_prompt is None


def test_the_format_has_not_changed_without_a_new_number() -> None:
    # Scorers and dispatchers of two versions share a database during an upgrade.
    stored = pack_jobs(JOBS, reads_options=True)
    assert stored is not None
    written = stored.columns + stored.kinds.encode() + (stored.digests or b"")
    assert (FORMAT, hashlib.sha256(written).hexdigest()[:16]) == (1, "43ad74341da5bcad")


def test_a_deadline_is_the_same_in_every_time_zone() -> None:
    here, there = (
        replace(JOBS[0], sla=SLA(deadline=datetime(2026, 1, 1, hour, tzinfo=zone)))
        for hour, zone in ((0, UTC), (2, timezone(timedelta(hours=2))))
    )
    one, other = RequestDigests.of([here, there]).values
    assert one == other


@pytest.mark.parametrize("zero", [SLA(min_quality=0.0), SLA(max_cost_usd=Decimal(0))])
def test_a_limit_of_nothing_is_not_no_limit(zero: SLA) -> None:
    kind = RequestKind.of({}, zero)
    assert RequestKind.from_json(orjson.loads(orjson.dumps(kind.as_json()))) == kind
    nobody = RequestKind.of({}, SLA(allowed_models=()))
    assert RequestKind.from_json(nobody.as_json()) == nobody
