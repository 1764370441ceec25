"""Options that say what a batch aims at become an objective, or a message that names them."""

import inspect

import pytest

from producer.commands.batch_options import BatchOptions
from producer.commands.evaluation import run_command
from producer.commands.evaluation_options import RunOptions
from producer.commands.options import AimOptions
from producer.commands.plan import plan_command
from producer.commands.schedule import ScheduleOptions, add_command
from producer.commands.stream import StreamOptions, stream_command
from producer.commands.submit import submit_command
from routoo.domain.batch_options import CallOptions, Objective
from routoo.errors import InputError
from tests.batch_factory import pool_of

POOL = pool_of("small", "large", "org/model@2026")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Objective()),
        ({"match": "large"}, Objective(match_model="large")),
        ({"match": "large@0.98"}, Objective(match_model="large", match_ratio=0.98)),
        ({"match": "org/model@2026"}, Objective(match_model="org/model@2026")),
        (
            {"match": "org/model@2026@0.9"},
            Objective(match_model="org/model@2026", match_ratio=0.9),
        ),
        ({"min_mean_quality": "0.9", "risk": "1"}, Objective(min_mean_quality=0.9, risk=1)),
        ({"willingness_to_pay_usd": "0.01"}, Objective(willingness_to_pay_usd=0.01)),
    ],
)
def test_an_aim_is_read(options: dict[str, str], expected: Objective) -> None:
    objective = BatchOptions(**options).objective(POOL)
    assert objective == expected
    assert Objective.from_json(objective.as_json()) == objective


def test_runs_and_schedules_take_the_aims_of_batches() -> None:
    aims = set(inspect.signature(AimOptions).parameters)
    for command in (submit_command, plan_command, run_command, add_command):
        assert aims <= set(inspect.signature(command).parameters)
    aim = {"match": "large@0.98", "risk": "1"}
    assert RunOptions(**aim).objective(POOL) == BatchOptions(**aim).objective(POOL)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"match": "huge@0.9"}, "--match: the model to match is not in the pool"),
        ({"match": "small@much"}, "--match: the share to match is not a number"),
        ({"match": "small", "min_mean_quality": "0.9"}, "a batch has one aim"),
        ({"min_mean_quality": "9"}, "--min-mean-quality: the mean quality is not between 0 and 1"),
        ({"willingness_to_pay_usd": "0"}, "--willingness-to-pay-usd: the worth of an answer"),
        ({"risk": "-1"}, "--risk: the risk is out of range"),
    ],
)
def test_an_aim_that_makes_no_sense_is_reported(options: dict[str, str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        BatchOptions(**options).objective(POOL)
    assert said in str(caught.value)


@pytest.mark.parametrize("command", [submit_command, plan_command])
def test_a_shared_record_of_options_stands_between_arguments_and_own_options(
    command: object,
) -> None:
    names = list(inspect.signature(command).parameters)
    assert names[:2] == ["file", "budget_usd"]
    assert "options" not in names
    assert names[-1] == "as_json"


def test_probes_are_left_out_and_named_alike_wherever_batches_are_made() -> None:
    names = {"no_cascade", "cascade_only"}
    for command in (submit_command, plan_command, run_command, add_command, stream_command):
        assert names <= set(inspect.signature(command).parameters)
    for options in (BatchOptions, RunOptions, ScheduleOptions, StreamOptions):
        none, only = options(no_cascade=True), options(cascade_only=["small", "large"])
        assert CallOptions(**none.call_facts(POOL.names)) == CallOptions(cascade=False)
        named = CallOptions(cascade_only=("small", "large"))
        assert CallOptions(**only.call_facts(POOL.names)) == named
        assert CallOptions.from_json(named.as_json()) == named
        with pytest.raises(InputError, match="contradicts --no-cascade"):
            options(no_cascade=True, cascade_only=["small"]).call_facts(POOL.names)
        with pytest.raises(InputError, match="--cascade-only"):
            options(cascade_only=["huge"]).call_facts(POOL.names)


def test_a_derived_plan_keeps_the_call_options_that_are_not_given() -> None:
    source = CallOptions(dedupe=True, cascade_only=("small",))
    assert BatchOptions().changed(source, POOL.names) == source
    changed = BatchOptions(no_cascade=True).changed(source, POOL.names)
    assert changed == CallOptions(dedupe=True, cascade=False, cascade_only=("small",))
