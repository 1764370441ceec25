"""What a layer frees is kept for the next one."""

import subprocess
import sys

import pytest

_PROGRAM = """
import resource
import numpy as np
{call}
for _ in range(3):
    np.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str) -> int:
    """Return the page faults of five blocks of 80 MB, each freed before the next."""
    command = [sys.executable, "-c", _PROGRAM.format(call=call)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(ran.stdout)


def test_freed_blocks_are_used_again_without_page_faults() -> None:
    without = faults("")
    if without < 1000:
        pytest.skip("this C library keeps freed memory by itself")
    call = "from routoo.predictor.backbone.language_model import keep_freed_memory as keep; keep()"
    assert faults(call) < without / 100
