"""The loop closes through the real programs: runs train, promote, drift and roll back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer.commands.evaluation import ALERTED
from routoo.domain.items import Item
from routoo.domain.tables import Outcomes, read_items, write_items, write_outcomes
from tests.acceptance.batch import write_pool
from tests.acceptance.stack import LocalStack
from tests.fakes.openai_process import FakeServerProcess

ITEMS = 30
RIGHT, WRONG = "yes", "no"
WORTH = ("--willingness-to-pay-usd", "0.01")
"""Of a good answer: much more than a call, so that who can't answer is not asked."""
QUALITY, ROLLBACK = "quality", "rollback"


def questions(kind: str, verbs: tuple[str, ...] = ("Prove", "Name")) -> list[str]:
    """Return prompts, hard ones and easy ones in turn."""
    return [f"{verbs[n % 2]} the {kind} number {n}, please" for n in range(ITEMS)]


@pytest.fixture
def models() -> Iterator[FakeServerProcess]:
    """Two models: the large one is always right, the small one where nothing is to be proved."""
    answers = {"small": {"answers": {"rove": WRONG}, "answer": RIGHT}, "large": {"answer": RIGHT}}
    with FakeServerProcess({"models": answers}) as server:
        yield server


class Loop:
    """The commands of the loop, on one stack."""

    def __init__(self, stack: LocalStack, folder: Path, pool: Path) -> None:
        self._stack, self._folder, self._pool = stack, folder, pool

    def add_set(self, name: str, prompts: list[str], *options: str) -> None:
        """Keep a set of questions whose answers are all the same."""
        rows = ({"prompt": prompt, "answer": RIGHT} for prompt in prompts)
        items = self._folder / f"{name}.jsonl"
        items.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._stack.command("routoo-producer", "evalset", "add", name, "--items", items, *options)

    def measure(self, name: str, *options: str) -> dict[str, Any]:
        """Run a set once, by hand, and return what came of it."""
        command = ("routoo-producer", "eval", "run", name, "--watch", "--json", "--pool")
        # The batches of other tests on this stack may be an alert: they are far from the training.
        statuses = (0, ALERTED)
        said = self._stack.command(*command, self._pool, *options, statuses=statuses)
        return dict(json.loads(said))

    def schedule(self, name: str, eval_set: str, *options: str) -> None:
        """Have a set run in a far night."""
        when = ("--cron", "0 2 1 1 *", "--pool", self._pool)
        command = ("routoo-producer", "schedule", "add", name, "--evalset", eval_set)
        self._stack.command(*command, *when, *options)

    def fire(self, name: str) -> tuple[dict[str, Any], set[str]]:
        """Let a schedule run now, wait for its grades, and return the run and its alerts."""
        run_id = self._stack.command("routoo-producer", "schedule", "run-now", name)
        self._stack.wait_for_run(run_id)
        shown = self._stack.command(
            *("routoo-producer", "eval", "show", run_id, "--json"), statuses=(0, ALERTED)
        )
        found = dict(json.loads(shown))
        # Other tests' batches on this stack may be far from its tiny training set.
        return found, {alert["kind"] for alert in found["alerts"]} - {"novelty"}

    def train(self, out: str, *options: str | Path) -> Path:
        """Train from runs; return the checkpoint's folder."""
        folder = self._folder / out
        command = ("routoo", "train", "--from-runs", "--no-curve", "--out", folder)
        self._stack.command(*command, *options)
        return folder

    def promote(self, checkpoint: Path) -> None:
        """Put a checkpoint into use by hand."""
        self._stack.command("routoo", "checkpoint", "promote", checkpoint)

    def in_use(self) -> str:
        """Return the folder of the checkpoint that the next batch is scored by."""
        sql = """
            SELECT path FROM checkpoint_promotions p JOIN checkpoints c ON c.id = p.checkpoint_id
            ORDER BY promotion_no DESC LIMIT 1
        """
        return str(self._stack.query(sql)[0][0])

    def exported(self) -> tuple[dict[str, int], set[str]]:
        """Return what the outcomes' export says, and the prompts in it."""
        items = self._folder / "exported.parquet"
        tables = ("--items", items, "--outcomes", self._folder / "exported_outcomes.parquet")
        said = self._stack.command("routoo", "outcomes", "export", *tables, "--json")
        return json.loads(said), {item.prompt for item in read_items(items)}


def write_lies(folder: Path) -> tuple[str | Path, ...]:
    """Write outcomes by which the small model proves and the large one does not."""
    prompts = [prompt for kind in ("lemma", "axiom") for prompt in questions(kind)]
    items = [Item(f"lie-{n}", prompt) for n, prompt in enumerate(prompts)]
    pairs = [(item, name) for item in items for name in ("small", "large")]
    score = [not item.prompt.startswith("Prove") or name == "small" for item, name in pairs]
    same = np.full(len(pairs), 5, np.float32)
    ids, names = [item.item_id for item, _ in pairs], [name for _, name in pairs]
    cost_usd = np.full(len(pairs), 1e-5)
    told = Outcomes(ids, names, np.array(score, np.float32), same, same, cost_usd, same)
    write_items(folder / "lies.parquet", items)
    write_outcomes(folder / "lies_outcomes.parquet", told)
    return "--items", folder / "lies.parquet", "--outcomes", folder / "lies_outcomes.parquet"


@pytest.mark.timeout(900)  # two trainings, and twenty commands beside them
def test_runs_train_a_predictor_that_is_used_and_a_worse_one_is_rolled_back(
    stack: LocalStack, models: FakeServerProcess, checkpoint: Path, tmp_path: Path
) -> None:
    loop = Loop(stack, tmp_path, write_pool(tmp_path / "pool.yaml", models.base_url))
    exam, practice = questions("theorem"), questions("river")
    loop.add_set("exam", exam)
    # The same words in other clothes stand among the training questions: they must not be learnt.
    loop.add_set(
        "practice", [*practice, *(f"{one.upper()}!" for one in exam[:3])], "--for-training"
    )
    loop.schedule("nightly", "exam", "--rollback", *WORTH)

    first, alerts = loop.fire("nightly")
    assert (first["checkpoint"], alerts) == (None, set())
    loop.measure("practice", "--full", "--sample", str(len(practice) + 3))
    said, prompts = loop.exported()
    assert said["evaluation_items_left_out"] >= ITEMS
    assert prompts >= set(practice)
    assert not {prompt for prompt in prompts if "theorem" in prompt.lower()}

    learnt = loop.train("learnt")
    assert loop.in_use() == str(learnt)
    second, alerts = loop.fire("nightly")
    assert (second["checkpoint"], alerts) == (weights(learnt), set())
    assert second["figures"]["quality"]["mean"] == 1

    misled = loop.train("misled", *write_lies(tmp_path))
    assert loop.in_use() == str(learnt), "a worse checkpoint was promoted"
    loop.promote(misled)
    third, alerts = loop.fire("nightly")
    assert third["checkpoint"] == weights(misled)
    assert alerts >= {QUALITY, ROLLBACK}
    assert third["figures"]["quality"]["mean"] < 1 - 1 / 4
    assert loop.in_use() == str(learnt)

    fourth, alerts = loop.fire("nightly")
    assert (fourth["checkpoint"], QUALITY in alerts) == (weights(learnt), False)
    assert fourth["figures"]["models"] == second["figures"]["models"]
    stack.command("routoo", "checkpoint", "rollback")
    assert loop.in_use() == str(checkpoint)


def weights(checkpoint: Path) -> str:
    """Return the hash by which a checkpoint is known."""
    return str(json.loads((checkpoint / "manifest.json").read_text())["weights_sha256"])
