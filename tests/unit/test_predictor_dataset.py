"""Outcome tables as matrices, and how items are dealt into folds."""

import numpy as np
import pytest

from routoo.domain.items import Item
from routoo.domain.tables import Outcomes
from routoo.errors import InputError
from routoo.predictor.dataset import grouped_folds, outcome_matrix, text_groups


def _outcomes(rows: list[tuple[str, str, float]]) -> Outcomes:
    nothing = np.full(len(rows), np.nan)
    return Outcomes(
        [row[0] for row in rows],
        [row[1] for row in rows],
        np.array([row[2] for row in rows], np.float32),
        nothing.astype(np.float32),
        nothing.astype(np.float32),
        nothing,
        nothing.astype(np.float32),
    )


def test_models_that_did_not_answer_an_item_leave_a_missing_value() -> None:
    items = [Item("1", "one"), Item("2", "two"), Item("3", "three")]
    matrix = outcome_matrix(items, _outcomes([("1", "a", 1), ("1", "b", 0), ("2", "b", 0.5)]))
    assert matrix.models == ("a", "b")
    assert [item.item_id for item in matrix.items] == ["1", "2"]
    np.testing.assert_array_equal(matrix.score, [[1, 0], [np.nan, 0.5]])


def test_an_outcome_of_an_unknown_item_is_refused() -> None:
    with pytest.raises(InputError, match="not in the items"):
        outcome_matrix([Item("1", "one")], _outcomes([("9", "a", 1)]))


def test_a_model_without_outcomes_is_refused_and_the_present_ones_are_named() -> None:
    with pytest.raises(InputError, match="The table has a"):
        outcome_matrix([Item("1", "one")], _outcomes([("1", "a", 1)]), ["z"])


def test_questions_on_one_passage_share_a_group() -> None:
    passage = "It was a long passage about many things. " * 8
    groups = text_groups([f"{passage}\nWho?", f"{passage}\nWhen?", "Who?", "who? "])
    assert groups.tolist() == [0, 0, 1, 1]


def test_a_template_that_prompts_share_is_no_passage() -> None:
    template = "You are given a function and an input; say what it returns. " * 5
    passage = "It was a long passage about many things. " * 8
    many = [f"{template}\nf({n})" for n in range(60)]
    about = [f"{template}\n{passage}\n{ask}" for ask in ("Who?", "When?")]
    groups = text_groups([*many, *about, "Who?", many[0]]).tolist()
    assert groups[:60] == list(range(60))
    assert groups[60:] == [60, 60, 61, 0], "the passage counts, whatever stands before it"
    few = [f"{template}\nf({n})" for n in range(3)]
    assert text_groups(few).tolist() == [0, 1, 2], "all of them share it"
    assert text_groups([*few, "Who?"]).tolist() == [0, 0, 0, 1]


def test_folds_keep_groups_together_and_are_of_nearly_equal_size() -> None:
    groups = np.repeat(np.arange(300), np.random.default_rng(0).integers(1, 4, 300))
    folds = grouped_folds(groups, 5, seed=1)
    assert all(len(set(folds[groups == group])) == 1 for group in range(300))
    assert np.ptp(np.bincount(folds)) <= 3
    assert folds.tolist() == grouped_folds(groups, 5, seed=1).tolist()
