"""Priors of models that nobody graded: how pools state them, and what they and answers do."""

import re

import numpy as np
import pytest

from producer.pool_check import shared_doubt
from routoo.domain.model_prior import GENERAL_CHECKPOINT, find_reference, reference_models
from routoo.domain.pool import CandidateModel
from routoo.domain.pool_file import parse_pool
from routoo.errors import ConfigError
from routoo.predictor.manifest import read_manifest
from routoo.predictor.placement import PlacedModel, Placer, read_placer
from routoo.training.general import fit_item_response

POOL = """models:
  - name: {name}
    endpoint: {{base_url: "http://localhost:1/v1"}}
    price_usd_per_mtok: {{prompt: {price}, completion: {price}}}
    context_window_tokens: 4096
    {prior}
"""


def _model(prior: str = "", name: str = "mine", price: float = 0) -> CandidateModel:
    line = f"prior: {prior}" if prior else ""
    return parse_pool(POOL.format(name=name, price=price, prior=line)).models[0]


@pytest.fixture(scope="module")
def placer() -> Placer:
    found = read_placer(GENERAL_CHECKPOINT)
    assert found is not None
    return found


def _placed(placer: Placer, *arguments: object) -> PlacedModel:
    return placer.place([_model(*arguments)])[0]


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ("{mmlu_pro: 1.2}", r"pool.yaml:6: prior.mmlu_pro of model 'mine'.*less than 1"),
        ("{mmlu: 0.5}", r"pool.yaml:6: prior.mmlu of model.*known here are like, parameters_b"),
        ("{}", r"pool.yaml:6.*a prior needs one of like"),
        ("{like: gpt-4o-mini-2024-07-18, mmlu_pro: 0.5}", r"pool.yaml:6.*like stands alone"),
        ("{like: gpt-9}", r"pool.yaml:6: prior.like of model 'mine': no such reference.*gpt-4"),
    ],
)
def test_a_prior_that_can_not_be_used_is_refused_with_its_line(prior: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _model(prior)


def test_a_reference_model_is_found_however_its_name_is_written() -> None:
    known = reference_models()
    assert find_reference("meta-llama/Meta-Llama-3_1-8B-Instruct", known) is not None
    assert find_reference("openai/gpt-4o-mini", known) == "gpt-4o-mini-2024-07-18"
    assert find_reference("no-such-model", known) is None


def test_the_general_checkpoint_is_small_and_names_no_text() -> None:
    weights = GENERAL_CHECKPOINT / "model.safetensors"
    assert weights.stat().st_size < 8_000_000
    assert (GENERAL_CHECKPOINT / "LICENCES.md").exists()
    assert len(read_manifest(GENERAL_CHECKPOINT).settings["reference_models"]) > 50


def test_better_facts_place_a_model_higher_and_more_surely(placer: Placer) -> None:
    weak, strong = _placed(placer, "{mmlu_pro: 0.3}"), _placed(placer, "{mmlu_pro: 0.75}")
    assert strong.level.low > weak.level.quality
    small, large = _placed(placer, "{parameters_b: 3}"), _placed(placer, "{parameters_b: 70}")
    assert large.level.quality > small.level.quality + 0.1
    nothing = _placed(placer)
    width = {one.name + one.by: one.level.high - one.level.low for one in (strong, small, nothing)}
    assert width[strong.name + strong.by] < width[small.name + small.by]
    assert width[small.name + small.by] < width[nothing.name + nothing.by]


def test_a_model_is_placed_by_prior_then_name_then_price_and_says_by_which(placer: Placer) -> None:
    name = "gpt-4o-mini-2024-07-18"
    assert _placed(placer, "{parameters_b: 8}", name).by == "its parameters_b 8"
    assert name in _placed(placer, "", name).by
    assert "like" in _placed(placer, "{like: gpt-4o-mini-2024-07-18}").by
    assert "price" in _placed(placer, "", "mine", 2.5).by
    assert "nothing" in _placed(placer).by
    itself, alike = _placed(placer, "", name), _placed(placer, f"{{like: {name}}}")
    assert itself.level.high - itself.level.low < alike.level.high - alike.level.low


def test_answers_are_expected_to_narrow_what_a_prior_leaves_open(placer: Placer) -> None:
    one = _placed(placer, "{parameters_b: 8}")
    now, after = (level.high - level.low for level in (one.level, one.after_answers))
    assert 0 < after < now / 2


def test_a_plan_on_priors_says_how_far_all_of_it_may_be_off(placer: Placer) -> None:
    placed = [_placed(placer, "{parameters_b: 8}")]
    plan = {"models": [{"model": "mine", "share": 1.0}], "expected_quality": 0.5}
    said = shared_doubt(plan, placed)
    assert said is not None
    low, high = map(int, re.findall(r"(\d+)%", said))
    assert high - low > 100 * (placed[0].level.high - placed[0].level.low)
    unused = plan | {"models": [{"model": "mine", "share": 0.0}]}
    assert shared_doubt(unused, placed) is None


def test_item_response_recovers_strength_over_tables_that_share_some_models() -> None:
    generator = np.random.default_rng(0)
    strength = np.linspace(-2, 2, 20)
    ease = generator.normal(size=400)
    chance = 1 / (1 + np.exp(-(ease[:, None] + strength)))
    score = (generator.random(chance.shape) < chance).astype(np.float32)
    tasks = np.repeat([0, 1], 200)
    score[tasks == 0, :7] = np.nan
    score[tasks == 1, 13:] = np.nan
    found = fit_item_response(score, tasks)
    assert np.corrcoef(found.ability[:, 0], strength)[0, 1] > 0.97
    expected = found.chance(found.ability)
    assert np.corrcoef(expected.mean(axis=1), chance.mean(axis=1))[0, 1] > 0.75
