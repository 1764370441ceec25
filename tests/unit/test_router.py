"""`routoo.Router`: choices for prompts in a program of one's own, without a database."""

import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pytest

import routoo
from routoo.domain.pool import Pool
from routoo.domain.prediction import Predictions
from routoo.errors import CheckpointError, InputError
from routoo.router import Limits, Router
from routoo.settings import REPOSITORY
from tests.batch_factory import pool_of

PROMPTS = [f"Question {number}?" for number in range(40)]


class SteadyPredictor:
    """Expects the same of every prompt, but that the large model is better at the later ones."""

    def predict(self, prompts: Sequence[str], models: Sequence[str]) -> Predictions:
        assert len(models) == 2
        gain = np.linspace(0.0, 0.4, max(len(prompts), 1), dtype=np.float32)[: len(prompts)]
        quality = np.stack([np.full_like(gain, 0.5), 0.5 + gain], axis=1)
        tokens = np.full(quality.shape, 100, np.float32)
        std, none = np.full_like(quality, 0.01), np.zeros(len(prompts), np.float32)
        return Predictions(quality, std, tokens, none, none.astype(np.bool_))

    def prompt_factors(self, models: Sequence[str]) -> list[float]:
        return [1.0] * len(models)

    def floor_margins(self, models: Sequence[str], confidence: float) -> list[float]:
        return [confidence] * len(models)


@pytest.fixture
def router() -> Router:
    small, large = pool_of("small", "large").models
    dear = large.price_usd_per_mtok.model_copy(update={"completion": Decimal(20)})
    large = large.model_copy(update={"price_usd_per_mtok": dear})
    return Router(Pool(models=(small, large)), SteadyPredictor())


def test_a_budget_buys_the_dearer_model_where_it_gains_most(router: Router) -> None:
    free = router.choose(PROMPTS)
    budget_usd = free.expected_cost_usd / 2
    choices = router.choose(np.array(PROMPTS), budget_usd=budget_usd)
    assert len(choices) == choices.served == len(PROMPTS)
    assert choices.expected_cost_usd <= budget_usd
    assert 0.5 < choices.expected_quality < free.expected_quality
    asked = [name == "large" for name in choices.models]
    assert asked == sorted(asked)
    assert 0 < sum(asked) < len(asked)
    assert choices.shadow_price_per_usd > 0


def test_choices_are_a_sequence_and_arrays_that_agree(router: Router) -> None:
    choices = router.choose(PROMPTS, budget_usd=Decimal("0.01"))
    assert [one.model for one in choices] == choices.models
    assert [one.model for one in choices[-2:]] == choices.models[-2:]
    assert [one.cost_usd for one in choices] == choices.cost_usd.tolist()
    assert choices[-1].quality == choices.quality[-1]
    assert [choices.names[column] for column in choices.column] == choices.models
    assert choices.predictions.quality.shape == (len(PROMPTS), 2)


def test_each_aim_and_limit_is_heeded(router: Router) -> None:
    least = router.choose(PROMPTS, min_mean_quality=0.6)
    assert 0.6 <= least.expected_quality < 0.62
    matched = router.choose(PROMPTS, match_model="large", match_ratio=0.9)
    assert matched.expected_quality >= 0.9 * 0.7 - 1e-6
    assert set(router.choose(PROMPTS, willingness_to_pay_usd=1e-9).models) == {"small"}
    assert set(router.choose(PROMPTS, denied_models=["large"]).models) == {"small"}
    assert router.choose(PROMPTS, min_quality=0.8).models[:5] == [None] * 5
    capped = router.choose(PROMPTS, max_completion_tokens=10)
    assert capped.expected_cost_usd < router.choose(PROMPTS).expected_cost_usd


def test_what_can_not_be_reached_is_a_status_with_advice(router: Router) -> None:
    choices = router.choose(PROMPTS, min_mean_quality=0.99)
    assert (choices.status, choices.served, choices.expected_quality) == ("infeasible", 0, 0.0)
    assert "Lower the target by 0.29" in choices.advice
    assert choices[0] == routoo.Choice(None, 0.0, 0.0)


def test_equal_requests_with_a_seed_share_one_call(router: Router) -> None:
    request = {"messages": [{"role": "user", "content": "Who?"}], "seed": 1}
    choices = router.choose([request, request, "Who?"])
    assert choices.cost_usd[1] == 0.0
    assert choices.models[0] == choices.models[1]
    assert choices.cost_usd[0] > 0


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(match_model="medium"), "Give one of small, large"),
        (Limits(min_mean_quality=0.5, willingness_to_pay_usd=1.0), "one aim"),
    ],
)
def test_limits_that_make_no_sense_are_refused(router: Router, limits: Limits, said: str) -> None:
    with pytest.raises(InputError, match=said):
        router.choose(PROMPTS, **limits)


def test_what_is_no_prompt_is_refused(router: Router) -> None:
    with pytest.raises(InputError, match="this is no prompt"):
        router.choose([5])  # type: ignore[list-item]


def test_no_prompts_are_no_choices(router: Router) -> None:
    choices = router.choose([])
    assert (len(choices), choices.expected_quality, choices.expected_cost_usd) == (0, 0.0, 0.0)


def test_the_examples_checkpoint_routes_its_own_pool_with_probes() -> None:
    examples = REPOSITORY / "examples"
    router = routoo.Router.load(examples / "checkpoint", examples / "pool.yaml", device="cpu")
    prompts = ["What is the capital of Peru?", "Add 17 and 25.", "Spell table backwards."]
    choices = router.choose(prompts, budget_usd=0.0001)
    assert set(choices.models) <= {*router.pool.names, None}
    assert 0 < choices.expected_cost_usd <= 0.0001
    assert not choices.judged.any()
    with pytest.raises(CheckpointError, match="not trained on"):
        routoo.Router.load(examples / "checkpoint", pool_of("unknown"), device="cpu")


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, routoo; print('torch' in sys.modules, 'numpy' in sys.modules, dir(routoo))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("False False")
    assert "Router" in shown.stdout
    with pytest.raises(AttributeError, match="no attribute 'Rooter'"):
        routoo.Rooter  # noqa: B018
