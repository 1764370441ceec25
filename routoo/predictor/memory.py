"""Memory of this process, kept for the next layer instead of given back after each."""

import ctypes

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Tell the C library to keep what is freed, up to 1 GiB, for what is asked for next.

    A layer's intermediate results are tens of megabytes. By default glibc gives such blocks back to
    the kernel at once, and every layer waits for fresh pages: a fifth to a third of the time of a
    decoder on a CPU. Another C library is left as it is.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_MMAP_THRESHOLD, _KEPT_BYTES)
        tune(_TRIM_THRESHOLD, _KEPT_BYTES)
