"""Submits batches to workers that are to be killed, by the real command."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.stack import ChaosStack

PRODUCER = Path(sys.executable).with_name("routoo-producer")


KNOWN_MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
"""Models that the example's checkpoint knows: with a single one nothing would be scored."""


def model(
    base_url: str,
    name: str = KNOWN_MODELS[0],
    *,
    concurrency: int = 12,
    has_batch_channel: bool = False,
    **limits: float,
) -> dict[str, Any]:
    """Return a candidate model of a pool file; the fake endpoint calls it small.

    With a batch channel, at half the price, its provider's batch API is asked too. Further limits
    are those of its endpoint.
    """
    half = {"price_usd_per_mtok": {"prompt": "0.5", "completion": "0.5"}}
    return {
        **({"batch_channel": half} if has_batch_channel else {}),
        "name": name,
        "endpoint": {
            "base_url": base_url,
            "model": "small",
            "max_concurrency": concurrency,
            "timeout_s": 20,
            "api_key_env": "CHAOS_KEY",
            **limits,
        },
        "price_usd_per_mtok": {"prompt": "1", "completion": "1"},
        "context_window_tokens": 4096,
        "max_completion_tokens": 20,
    }


def ample_usd(jobs: int) -> str:
    """Return a budget, in USD, that jobs don't use up though each is called twice."""
    return f"{max(0.05, 0.00015 * jobs):.4f}"


def begin(
    stack: ChaosStack,
    prompts: Sequence[str],
    models: Sequence[dict[str, Any]],
    *options: str,
    budget_usd: str | None = None,
) -> "subprocess.Popen[str]":
    """Start to submit prompts as `job-0`, `job-1`, ...; the command prints the batch's id.

    Where it is unset, the budget covers calls that are lost and count at their worst case, too.
    """
    budget_usd = budget_usd or ample_usd(len(prompts))
    rows, pool = stack.home / "jobs.jsonl", stack.home / "pool.json"
    lines = [{"custom_id": f"job-{no}", "prompt": prompt} for no, prompt in enumerate(prompts)]
    rows.write_text("\n".join(map(json.dumps, lines)))
    pool.write_text(json.dumps({"models": list(models)}))
    command = [PRODUCER, "submit", rows, "--pool", pool, "--budget-usd", budget_usd, "--no-ping"]
    return subprocess.Popen(
        [*command, *options],
        env=stack.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(submission: "subprocess.Popen[str]") -> tuple[str, str]:
    """Wait for a submission, and return the batch's id and what else the command said."""
    printed, said = submission.communicate()
    assert submission.returncode == 0, said
    return printed.strip(), said
