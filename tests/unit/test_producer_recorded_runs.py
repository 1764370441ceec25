"""Recorded runs: only recorded texts can be judged."""

from pathlib import Path

import pytest

from producer.evaluation.runs import recorded_probes
from routoo.domain.batch_options import CallOptions
from routoo.domain.completion import RecordedAnswer
from routoo.evaluation.answer_log import write_answers
from tests.batch_factory import pool_of


@pytest.fixture
def answers(tmp_path: Path) -> list[Path]:
    """Return a table with an answer of the small model alone."""
    write_answers(tmp_path / "a.parquet", [RecordedAnswer("i", "small", "Four.")])
    return [tmp_path / "a.parquet"]


def test_only_models_whose_texts_are_recorded_are_asked_first(answers: list[Path]) -> None:
    pool = pool_of("small", "large")
    assert recorded_probes(CallOptions(), pool, answers).cascade_only == ("small",)
    both = CallOptions(cascade_only=("large", "small"))
    assert recorded_probes(both, pool, answers).cascade_only == ("small",)
    assert not recorded_probes(CallOptions(cascade_only=("large",)), pool, answers).cascade
    assert not recorded_probes(CallOptions(cascade=False), pool, answers).cascade


def test_without_recorded_texts_no_model_is_asked_first() -> None:
    assert not recorded_probes(CallOptions(), pool_of("small", "large"), []).cascade
