"""The tie between the supervisor and a child: two pipes and one word.

The supervisor holds the other end of the child's standard input. When the supervisor is gone, even
by kill -9, the child reads the end of the file and stops by itself: no orphans on any platform.
"""

import os
import signal
import sys
import threading
import time

READY = "ready"
"""The line on a child's standard output that says that it consumes messages."""
_DRAIN_S = 10.0


def hold_on_to_supervisor() -> None:
    """Stop this process warmly as soon as its standard input ends, and hard 10 s later."""
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def say_ready() -> None:
    """Tell the supervisor that this child consumes messages."""
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()


def _watch() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_DRAIN_S)
    os._exit(1)
