"""The judge of answers: what it learns, what it expects before, and how it is kept."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.tree import ExtraTreeRegressor

from routoo.console.output import ConsoleFeedback
from routoo.domain.completion import RecordedAnswer
from routoo.domain.items import Item
from routoo.domain.prediction import Predictions
from routoo.errors import CheckpointError
from routoo.evaluation.judged_answers import EstimatedItems, judge_recorded, write_decisions
from routoo.judge.files import (
    load_judge,
    pack_judge,
    remove_old_judges,
    unpack_judge,
    write_judge,
)
from routoo.judge.fitting import BoostingOptions, _completed, fit_boosting
from routoo.judge.judge import AnswerJudge, ProbeAnswer, features_of_answer
from routoo.judge.probe_judge import ProbeJudge
from routoo.predictor.checkpoint import write_checkpoint
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.manifest import Manifest
from routoo.training.judge import PromptEstimates, fit_judge, routing_values

MODELS = ("cheap", "other", "strong")


def _sample(count: int = 400) -> tuple[OutcomeMatrix, PromptEstimates, list[RecordedAnswer]]:
    """Return outcomes in which hedging answers of the cheap model are mostly wrong."""
    generator = np.random.default_rng(3)
    right = generator.random(count) < 0.6
    hedges = generator.random(count) < np.where(right, 0.15, 0.85)
    score = np.stack(
        [right, generator.random(count) < 0.5, generator.random(count) < 0.9], axis=1
    ).astype(np.float32)
    items = tuple(Item(f"i{n}", f"Question {n}: what is it?") for n in range(count))
    texts = ["It might perhaps be so, possibly. The answer is 4.", "It is so. The answer is 4."]
    answers = [
        RecordedAnswer(item.item_id, "cheap", texts[0] if hedge else texts[1])
        for item, hedge in zip(items, hedges, strict=True)
    ]
    quality = np.tile(np.array([0.6, 0.5, 0.9], np.float32), (count, 1))
    tokens = np.full((count, 3), 12.0, np.float32)
    matrix = OutcomeMatrix(items, MODELS, score, tokens)
    return matrix, PromptEstimates(quality, tokens), answers


@pytest.fixture(scope="module")
def judge() -> AnswerJudge:
    matrix, estimates, answers = _sample()
    return fit_judge(matrix, estimates, answers, ConsoleFeedback(), seed=0)


def _answer(text: str) -> ProbeAnswer:
    return ProbeAnswer("Question: what is it?", text, np.array([0.6, 0.5, 0.9]), 12.0)


def test_an_answer_that_sounds_like_wrong_ones_is_judged_to_be_wrong(judge: AnswerJudge) -> None:
    sure, unsure = judge.judge(
        "cheap",
        [
            _answer("It is so. The answer is 4."),
            _answer("It might perhaps be so, possibly. The answer is 4."),
        ],
    )
    assert judge.probes == ("cheap",)
    assert sure[0] > 0.75
    assert unsure[0] < 0.45
    assert sure[2] == pytest.approx(0.9, abs=0.06)


def test_an_answer_is_judged_to_the_bit_as_if_it_came_alone(judge: AnswerJudge) -> None:
    generator = np.random.default_rng(4)
    words = ["it", "is", "not", "42", "= 6 * 7", "perhaps", "\n", "The answer is", "(B)", "wait"]
    answers = [
        ProbeAnswer(
            f"Question {number}: what is {number} * 7?",
            " ".join(generator.choice(words, generator.integers(0, 60))),
            np.where(generator.random(3) < 0.2, np.nan, generator.random(3)).astype(np.float32),
            float(generator.integers(1, 400)),
        )
        for number in range(100)
    ]
    together = judge.judge("cheap", answers)
    alone = [judge.judge("cheap", [answer])[0] for answer in answers]
    assert len(np.unique(together[:, 0])) > 50
    np.testing.assert_array_equal(together, np.stack(alone))


def test_judging_no_answers_returns_none(judge: AnswerJudge) -> None:
    assert judge.judge("cheap", []).shape == (0, 3)


def test_the_mean_over_expected_judgements_is_the_estimate_before(judge: AnswerJudge) -> None:
    quality = np.random.default_rng(0).uniform(0.02, 0.98, (50, 3)).astype(np.float32)
    expected = judge.expected_judgements("cheap", quality)
    assert expected.chance.sum(axis=1) == pytest.approx(1, abs=1e-5)
    mean = np.einsum("jk,jkm->jm", expected.chance, expected.quality)
    assert mean == pytest.approx(quality, abs=2e-3)
    assert np.ptp(expected.quality[:, :, 0], axis=1).mean() > 0.2


def test_models_without_an_estimate_may_be_left_open(judge: AnswerJudge) -> None:
    quality = judge.spread(["strong"], np.array([[0.8], [0.3]]))
    assert np.isnan(quality[:, :2]).all()
    expected = judge.expected_judgements("cheap", quality)
    assert np.isfinite(expected.quality).all()


def test_a_model_that_was_not_judged_is_refused(judge: AnswerJudge) -> None:
    with pytest.raises(CheckpointError, match="strong"):
        judge.judge("strong", [_answer("x")])


def test_answers_that_tell_nothing_get_no_judge() -> None:
    matrix, estimates, answers = _sample()
    same = [RecordedAnswer(answer.item_id, answer.model, "It is 4.") for answer in answers]
    assert fit_judge(matrix, estimates, same, ConsoleFeedback(), seed=0).probes == ()


def test_too_few_answers_get_no_judge() -> None:
    matrix, estimates, answers = _sample()
    few = fit_judge(matrix, estimates, answers[:60], ConsoleFeedback(), seed=0)
    assert few.probes == ()


def test_a_model_with_few_answers_is_judged_by_what_others_answers_show() -> None:
    matrix, estimates, answers = _answers_right_by_length()
    few, others = answers[:110], [one for one in answers if one.model == "other"]
    alone, beside = (
        fit_judge(matrix, estimates, given, ConsoleFeedback(), seed=0)
        for given in (few, [*few, *others])
    )
    assert alone.probes == ()
    assert beside.figures["cheap"]["answers"] == len(few)
    assert beside.figures["cheap"]["with_answer"]["auc"] > 0.8


def _answers_right_by_length(
    count: int = 800,
) -> tuple[OutcomeMatrix, PromptEstimates, list[RecordedAnswer]]:
    """Return two models' answers whose length says in six bands whether they are right."""
    generator = np.random.default_rng(3)
    items = tuple(Item(f"i{n}", f"Question {n}: how many?") for n in range(count))
    words = generator.integers(0, 240, (count, 2))
    right = generator.random((count, 2)) < np.where(words // 40 % 2, 0.9, 0.1)
    answers = [
        RecordedAnswer(items[n].item_id, MODELS[model], "so " * int(words[n, model] + 1))
        for model in (0, 1)
        for n in range(count)
    ]
    strong = generator.random(count) < 0.9
    score = np.concatenate([right, strong[:, None]], axis=1).astype(np.float32)
    quality = np.tile(np.array([0.5, 0.5, 0.9], np.float32), (count, 1))
    tokens = np.full((count, 3), 12.0, np.float32)
    return OutcomeMatrix(items, MODELS, score, tokens), PromptEstimates(quality, tokens), answers


def _open_answers(count: int = 300) -> tuple[OutcomeMatrix, PromptEstimates, list[RecordedAnswer]]:
    """Return numbers stated by two models, the same where both are right, and hedging ones."""
    generator = np.random.default_rng(4)
    right = generator.random((count, 2)) < 0.6
    hedges = generator.random((count, 2)) < np.where(right, 0.35, 0.65)
    items = tuple(Item(f"i{n}", f"Question {n}: how many?") for n in range(count))
    texts = ("It might perhaps be so, possibly. The answer is", "It is so. The answer is")
    answers = [
        RecordedAnswer(
            item.item_id,
            MODELS[model],
            f"{texts[0] if hedges[n, model] else texts[1]} "
            f"{3 * n if right[n, model] else 3 * n + 1 + model}.",
        )
        for n, item in enumerate(items)
        for model in (0, 1)
    ]
    strong = generator.random(count) < 0.9
    score = np.concatenate([right, strong[:, None]], axis=1).astype(np.float32)
    quality = np.tile(np.array([0.6, 0.6, 0.9], np.float32), (count, 1))
    tokens = np.full((count, 3), 12.0, np.float32)
    return OutcomeMatrix(items, MODELS, score, tokens), PromptEstimates(quality, tokens), answers


@pytest.fixture(scope="module")
def pair_judge() -> AnswerJudge:
    """Return a judge of pairs; a call of the other model costs more than a tenth of the strong."""
    costs = {"cheap": 0.05, "other": 0.4, "strong": 1.0}
    return fit_judge(*_open_answers(), ConsoleFeedback(), seed=0, cost_usd=costs)


def test_answers_that_agree_are_judged_to_be_right(pair_judge: AnswerJudge) -> None:
    assert set(pair_judge.pairs) == {("other", "cheap")}  # the other is too dear to be second
    one, same, different = (
        ProbeAnswer("Question 2: how many?", text, np.array([0.6, 0.6, 0.9]), 12.0)
        for text in ("It is so. The answer is 64.", "The answer is 64.0", "The answer is 65.")
    )
    alone = pair_judge.judge("other", [one])[0]
    agreed, denied = pair_judge.judge_pair("other", "cheap", [(one, same), (one, different)])
    assert agreed[1] > alone[1] + 0.1
    assert denied[1] < alone[1] - 0.1
    assert pair_judge.judge_pair("other", "cheap", []).shape == (0, 3)


def test_expected_agreement_has_the_judged_estimate_as_its_mean(pair_judge: AnswerJudge) -> None:
    quality = np.random.default_rng(0).uniform(0.05, 0.95, (40, 3)).astype(np.float32)
    expected = pair_judge.expected_agreement("other", "cheap", quality)
    mean = np.einsum("jk,jkm->jm", expected.chance, expected.quality)
    assert mean == pytest.approx(quality, abs=5e-3)
    assert np.ptp(expected.quality[:, :, 1], axis=1).mean() > 0.2


def test_recorded_answers_are_compared_where_the_second_is_cheap(
    pair_judge: AnswerJudge, tmp_path: Path
) -> None:
    matrix, estimates, answers = _open_answers(60)
    predictions = Predictions(
        estimates.quality,
        np.zeros_like(estimates.quality),
        estimates.completion_tokens,
        np.zeros(60, np.float32),
        np.zeros(60, np.bool_),
    )
    asked, pool = EstimatedItems(matrix.items, predictions), ("other", "cheap", "strong")
    costs = np.array([0.06, 0.05, 1.0])
    known = judge_recorded(pair_judge, asked, pool, costs, answers, ConsoleFeedback())
    (pair,) = known.pairs
    assert (pool[known.probes[pair.probe].column], pool[pair.column]) == ("other", "cheap")
    assert pair.answered.all()
    assert known.probes[pair.probe].judged.shape == pair.judged.shape
    dear = judge_recorded(
        pair_judge, asked, pool, np.array([0.06, 0.2, 1.0]), answers, ConsoleFeedback()
    )
    assert dear.pairs == ()
    write_decisions(tmp_path / "d.parquet", known, matrix.items, pool)
    rows = pq.read_table(tmp_path / "d.parquet").to_pylist()
    assert len(rows) == 25 * 60
    compared = [row for row in rows if row["second_model"] is not None]
    assert compared
    for row in compared:
        assert (row["first_model"], row["second_model"]) == ("other", "cheap")
        third = 1.0 if row["final_model"] == "strong" else 0.0
        assert row["cost_usd"] == pytest.approx(0.11 + third)
        assert row["accepted"] == (row["final_model"] == "other")


def test_pairs_that_were_not_compared_are_refused(judge: AnswerJudge) -> None:
    with pytest.raises(CheckpointError, match="together"):
        judge.expected_agreement("cheap", "other", np.full((1, 3), 0.5))


def test_judges_of_pairs_are_kept_and_know_models_that_come_later(
    pair_judge: AnswerJudge, tmp_path: Path
) -> None:
    _checkpoint(tmp_path, write_judge(tmp_path, pair_judge), (*MODELS, "late"))
    read = load_judge(tmp_path)
    quality = np.full((2, 4), 0.6, np.float32)
    expected = read.expected_agreement("other", "cheap", quality)
    assert expected.quality.shape[2] == 4
    wanted = pair_judge.expected_agreement("other", "cheap", quality[:, :3])
    assert expected.quality[:, :, 2] == pytest.approx(wanted.quality[:, :, 2], abs=0.05)


def test_a_judge_that_ranks_prompts_worse_for_a_better_model_brings_nothing() -> None:
    score = np.array([[1, 1], [1, 1], [0, 1], [0, 1]], np.float32)
    own = np.zeros(4, np.int64)
    good = np.array([[2.0, 3], [2, 3], [-2, 3], [-2, 3]])
    values = [routing_values(score, own, estimate, 0).mean() for estimate in (good, good[::-1])]
    assert values[0] > values[1]
    assert routing_values(score, own, good, 1).tolist() == score[:, 0].tolist()


def _checkpoint(folder: Path, facts: dict[str, object], models: tuple[str, ...]) -> None:
    manifest = Manifest(models, "", "", (), "", "", "", {}, {}, judge=facts)
    write_checkpoint(folder, b"", manifest)


def test_a_judge_is_read_back_as_it_was(judge: AnswerJudge, tmp_path: Path) -> None:
    facts = write_judge(tmp_path, judge)
    _checkpoint(tmp_path, facts, MODELS)
    (tmp_path / "judge-old.safetensors").write_bytes(b"")
    remove_old_judges(tmp_path, facts)
    answers = [_answer("It might be so. The answer is 4."), _answer("")]
    read = load_judge(tmp_path)
    assert read.judge("cheap", answers) == pytest.approx(judge.judge("cheap", answers), abs=2e-3)
    assert [path.name for path in tmp_path.glob("judge-*")] == [facts["file"]]


def test_a_judge_leaves_features_aside_that_came_after_it(
    judge: AnswerJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [_answer("It is so. The answer is 4."), _answer("Perhaps. The answer is 5.")]
    before = judge.judge("cheap", answers)

    def with_more(answer: ProbeAnswer) -> np.ndarray:
        known = features_of_answer(answer)[: judge.of("cheap").features]
        return np.append(known, np.full(20, 7, np.float32))

    monkeypatch.setattr("routoo.judge.judge.features_of_answer", with_more)
    np.testing.assert_array_equal(judge.judge("cheap", answers), before)


def test_a_judge_that_does_not_say_how_many_features_it_knows_knows_the_first_ones(
    judge: AnswerJudge,
) -> None:
    tensors = judge.of("cheap").tensors()
    del tensors["features"]
    assert ProbeJudge.from_tensors(tensors).features == 143


def test_a_judge_travels_as_one_file(judge: AnswerJudge, tmp_path: Path) -> None:
    _checkpoint(tmp_path, write_judge(tmp_path, judge), (*MODELS, "late"))
    content = pack_judge(tmp_path)
    assert content is not None
    read = unpack_judge(content)
    assert read.models == (*MODELS, "late")
    quality = np.full((3, 4), 0.5, np.float32)
    wanted = load_judge(tmp_path).expected_judgements("cheap", quality)
    assert np.array_equal(read.expected_judgements("cheap", quality).quality, wanted.quality)
    with pytest.raises(CheckpointError):
        unpack_judge(content[:-100])
    with pytest.raises(CheckpointError):
        unpack_judge(b"{}")


def test_a_checkpoint_without_a_judge_has_nothing_that_travels(tmp_path: Path) -> None:
    _checkpoint(tmp_path, {}, MODELS)
    assert pack_judge(tmp_path) is None


def test_a_model_added_later_moves_with_the_others(judge: AnswerJudge, tmp_path: Path) -> None:
    _checkpoint(tmp_path, write_judge(tmp_path, judge), (*MODELS, "new"))
    read = load_judge(tmp_path)
    answer = ProbeAnswer("Question?", "It is so.", np.array([0.6, 0.5, 0.9, 0.7]), 12.0)
    assert read.judge("cheap", [answer]).shape == (1, 4)
    expected = read.expected_judgements("cheap", np.array([[0.6, 0.5, 0.9, 0.7]]))
    assert expected.quality.shape[2] == 4


def test_a_checkpoint_without_a_judge_judges_nothing(tmp_path: Path) -> None:
    _checkpoint(tmp_path, {}, MODELS)
    assert load_judge(tmp_path).probes == ()


def test_a_damaged_judge_is_refused(judge: AnswerJudge, tmp_path: Path) -> None:
    facts = write_judge(tmp_path, judge)
    _checkpoint(tmp_path, facts, MODELS)
    (tmp_path / facts["file"]).write_bytes(b"damaged")
    with pytest.raises(CheckpointError):
        load_judge(tmp_path)


def test_completed_trees_predict_as_the_fitted_one_does() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(300, 5)).astype(np.float32)
    target = np.stack([features[:, 0] > 0, features[:, 1]], axis=1)
    tree = ExtraTreeRegressor(max_depth=4, random_state=0).fit(features, target)
    completed = _completed(tree, tree.tree_.value[:, :, 0], 4)
    assert completed(features) == pytest.approx(tree.predict(features), abs=2e-3)


def test_boosting_leaves_unknown_scores_out() -> None:
    generator = np.random.default_rng(2)
    features = generator.normal(size=(500, 3)).astype(np.float32)
    score = np.stack([features[:, 0] > 0, np.full(500, np.nan)], axis=1).astype(np.float32)
    trees = fit_boosting(
        features, np.zeros((500, 2)), score, np.eye(2), np.ones(2), BoostingOptions(40, 0)
    )
    moved = trees(features)
    assert moved[score[:, 0] == 1, 0].mean() > 0.4
    assert (moved[:, 1] == 0).all()
