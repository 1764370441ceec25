"""Serves one model in this process, for no longer than the process that started it lives."""

import os
import signal
import threading
from pathlib import Path

from examples.local_models.catalogue import CONTEXT_WINDOW_TOKENS, PARALLEL_SLOTS, LocalModel

_PARENT_POLL_S = 0.5


def serve_one(model: LocalModel, path: Path, parent_pid: int) -> None:
    """Serve a model on 127.0.0.1 until SIGTERM, SIGINT or the end of the parent process.

    Args:
        model: The model and its port.
        path: Its GGUF file.
        parent_pid: Process that this server must not outlive.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = _start(model, path)
    # Polling works on every Unix and for a parent of any thread, unlike PR_SET_PDEATHSIG.
    while os.getppid() == parent_pid and not stop.wait(_PARENT_POLL_S):
        pass
    del server  # its destructor closes the port and ends the native threads


def _start(model: LocalModel, path: Path) -> object:
    # The native library is loaded here, in the server's own process, and nowhere else.
    import xllamacpp  # noqa: PLC0415

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {model.name}
    params.hostnames = ["127.0.0.1"]
    params.port = model.port
    # The context is divided evenly among the slots.
    params.n_ctx = CONTEXT_WINDOW_TOKENS * PARALLEL_SLOTS
    params.n_parallel = PARALLEL_SLOTS
    # One thread a model: on a small machine with several models, more of them only take turns.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.use_jinja = True
    params.offline = True
    params.ui = False
    params.cache_ram_mib = 0  # its default keeps up to 8 GiB of past prompts
    return xllamacpp.Server(params)
