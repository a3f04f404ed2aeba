"""The log of a run, stderr, which may be full or closed: a run does not end for what it cannot say."""

import contextlib
import os
import sys


def log(text: str) -> None:
    """Prints a line to stderr, if that can be written."""
    if sys.stderr is None:  # closed before the start
        return
    # A full disk, or a pipe whose reader has gone: the metrics and the report hold what matters.
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def settle_log() -> None:
    """Call it at the end: lets go of what stderr could not take, so that the exit status stays.

    Python ends with status 120 where its last flush fails, and no launcher knows that one.
    """
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stderr.fileno())
        os.close(null)
