"""How a process that prepares images handles signals and the end of its run, and what is said of its own end."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable

# Seconds after SIGTERM, for the batches that a run still takes before it saves. A run whose processes have
# ended stops with an error, so this is longer than the steps of a run that stops can take.
GRACE = 600.0
_POLL = 1.0
# As shells say it. Not 0: of a process that ended with 0 grain expects more examples.
_TERMINATED = 128 + signal.SIGTERM
# grain's words: its error has no class of its own.
_ENDED = re.compile(r"Worker process was terminated unexpectedly with exit code (-?\d+)")
_REASONS = {
    -signal.SIGKILL: "killed, as the system does when memory runs out. Lower data.num_workers, data.prefetch "
    "or data.num_threads, or give the machine or container more memory",
    _TERMINATED: f"ended by SIGTERM, which the run itself outlived by {GRACE:.0f} s",
}
_CRASHED = "a crash outside of Python, or whoever sent it a signal; the log above may say more"


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


def ended(error: RuntimeError, *, host: int) -> ChildProcessError | None:
    """Returns the error of a process that has ended: why, and what to do. None if grain's is about something else."""
    found = _ENDED.match(str(error))
    if found is None:
        return None
    code = int(found[1])
    return ChildProcessError(
        f"a process that prepares images on host {host} has ended with status {code}: "
        f"{_REASONS.get(code, _CRASHED)}. What was saved stays: start the run again."
    )


def _start(function: Callable[..., None], argument: float) -> None:
    threading.Thread(target=function, args=[argument], daemon=True).start()


def _end_after(seconds: float) -> None:
    time.sleep(seconds)
    os._exit(_TERMINATED)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL)
    os._exit(1)
