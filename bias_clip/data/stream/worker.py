"""How a process that prepares images handles signals and the end of its run."""

import os
import signal
import threading
import time
from collections.abc import Callable

# Seconds after SIGTERM, for the batches that a run still takes before it saves. A run whose processes have
# ended waits for a batch that never comes, so this is longer than the steps of a run that stops can take.
GRACE = 600.0
_POLL = 1.0


def settle(_index: int, _count: int) -> None:
    """Sets up each process before its first example (grain's `worker_init_fn`).

    Ctrl-C and preemption send their signal to all processes of a job. The run first saves its state,
    after steps that still need batches. Therefore this process ignores SIGINT, and SIGTERM ends it only
    after `GRACE`. A run that was killed cannot tell its processes: this one checks, and ends itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A handler runs in the main thread and must not wait there: another thread does.
    signal.signal(signal.SIGTERM, lambda *_: _start(_end_after, GRACE))
    _start(_end_with, os.getppid())


def _start(function: Callable[..., None], argument: float) -> None:
    threading.Thread(target=function, args=[argument], daemon=True).start()


def _end_after(seconds: float) -> None:
    time.sleep(seconds)
    os._exit(0)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL)
    os._exit(1)
