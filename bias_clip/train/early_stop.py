"""A signal before the first step, while libraries load or a checkpoint is read: nothing is lost by it."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from bias_clip.core.launching import RUN_AGAIN

_SIGNALS: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


@contextlib.contextmanager
def stops_early() -> Iterator[None]:
    """Within, SIGINT and SIGTERM end the process with `RUN_AGAIN`, so that launchers start it again.

    The loop has handlers of its own, under which it saves. A second signal acts as usual.
    """
    here = threading.current_thread() is threading.main_thread()  # where alone handlers can be set
    before: dict[int, Any] = {}
    for number in _SIGNALS if here else ():
        before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def usual(number: int, handler: Any) -> Any:
    """The handler; in place of ours, what a process has by itself: a step that is cut short is lost."""
    return handler if handler is not _stop else _SIGNALS[number]


def _stop(number: int, _frame: Any) -> None:
    signal.signal(number, _SIGNALS[number])
    with contextlib.suppress(OSError):
        print(
            f"stopped by signal {signal.Signals(number).name} while no step was running; nothing is "
            "lost. Run the same line again to continue.",
            file=sys.stderr,
        )
    sys.exit(RUN_AGAIN)
