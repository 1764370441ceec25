"""What a backbone computes in, and that the memory a layer frees is kept for the next one."""

import subprocess
import sys

import pytest
import torch

from routoo.predictor.backbone.language_model import choose_dtype
from routoo.predictor.options import Precision

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


@pytest.mark.parametrize(
    ("device", "cpu", "dtype"),
    [
        ("cpu", {"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ("cpu", {"avx512_f": True, "avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ("cpu", {"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ("cpu", {}, torch.float32),
        ("cuda", {}, torch.bfloat16),
    ],
)
def test_the_device_computes_in_bfloat16_where_it_has_hardware_for_it(
    device: str, cpu: dict[str, bool], dtype: torch.dtype
) -> None:
    assert choose_dtype(Precision.AUTO, torch.device(device), cpu) is dtype


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("able", [True, False])
def test_a_precision_that_is_asked_for_is_kept_whatever_the_device(device: str, able: bool) -> None:
    cpu = {"amx_bf16": able, "avx512_bf16": able}
    chosen = {one: choose_dtype(one, torch.device(device), cpu) for one in Precision}
    assert chosen[Precision.FLOAT32] is torch.float32
    assert chosen[Precision.BFLOAT16] is torch.bfloat16
