"""Ctrl-C and preemption: a signal asks the run to save and end, a second one ends it at once."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import jax

from bias_clip.train.early_stop import usual


@contextlib.contextmanager
def stop_signal() -> Iterator[list[str]]:
    """Yields a list that is empty until SIGINT or SIGTERM comes; a second one acts as usual."""
    received: list[str] = []
    previous: dict[int, Any] = {}

    def handler(number, _frame):
        received.append(signal.Signals(number).name)
        signal.signal(number, usual(number, previous[number]))

    # On many hosts jax handles SIGTERM, so that one host's signal reaches all: see `asked_to_stop`.
    for number in (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ():
        previous[number] = signal.signal(number, handler)
    try:
        yield received
    finally:
        for signum, old in previous.items():
            signal.signal(signum, old)
