"""Runs commands one after another; after an interruption, finished ones are not run again."""

import contextlib
import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bias_clip.core.json_object import to_json
from bias_clip.core.launching import RUN_AGAIN

PATIENCE = 20.0  # seconds to wait for a folder that another process holds
_POLL = 0.2


class Stopped(Exception):
    """A signal came; the same command line continues the work."""


class Step(NamedTuple):
    """A command, the file that exists once it has succeeded, and its log."""

    command: list[str]
    done: Path
    log: Path


def call(step: Step, lock: int) -> None:
    """Runs a step unless it is done; the lock is the command's, too, and outlives this process.

    Raises:
      RuntimeError: it failed, or did not leave what it should.
      Stopped: a signal came; the command has ended.
    """
    if step.done.exists():
        return
    step.log.parent.mkdir(parents=True, exist_ok=True)
    say(f"{step.log.parent.name}: {step.log.stem}")
    with (
        step.log.open("a") as log,
        subprocess.Popen(
            step.command, stdout=log, stderr=subprocess.STDOUT, pass_fds=[lock]
        ) as child,
        _passing_on(child) as received,
    ):
        status = child.wait()
    # 75 also without a signal here: a scheduler may have signalled the child alone.
    if received or status == RUN_AGAIN:
        raise Stopped(f"stopped in {step.log.stem} of {step.log.parent.name}.")
    # Status 0 alone is not enough: the next step reads this file.
    if status == 0 and step.done.exists():
        return
    raise RuntimeError(
        f"{step.log.stem} of {step.log.parent.name} ended with status {status}"
        f"{'' if step.done.exists() else f' and without {step.done}'}; see {step.log}. What is "
        "finished is kept: start the same line again."
    )


def check_same(workdir: Path, plan: Mapping[str, Any]) -> None:
    """Writes the plan of a new workdir, or compares it with the one that is there.

    Raises:
      ValueError: they differ, or the folder holds other things; says in what.
      NotSavedError: it cannot be written.
    """
    from bias_clip.core.plans import PLAN, claim_folder
    from bias_clip.core.storage import writing

    with writing(workdir / PLAN):
        claim_folder(
            workdir,
            plan,
            claim=f"{workdir} holds stages of another line",
            advice="Give another --workdir, or the line it was started with to continue it.",
            ignore=(".lock",),
        )


@contextlib.contextmanager
def hold(workdir: Path, *, patience: float = PATIENCE) -> Iterator[int]:
    """Yields the handle of a lock on the folder, which every process that has it holds.

    A killed command holds the lock until the system has taken its memory back, so a line started
    right after the kill waits, and says so.

    Args:
      workdir: exists.
      patience: seconds to wait for the lock.

    Raises:
      ValueError: another process holds it.
    """
    end = time.monotonic() + patience
    with (workdir / ".lock").open("w") as file:
        waiting = False
        while not _locked(file.fileno()):
            if time.monotonic() >= end:
                raise ValueError(
                    f"another process works in {workdir}, perhaps a run whose driver was killed; "
                    "wait for it, or end it."
                )
            if not waiting:
                say(f"another process works in {workdir}: waiting up to {patience:.0f} s for it")
                waiting = True
            time.sleep(_POLL)
        yield file.fileno()


def _locked(handle: int) -> bool:
    try:
        # The system releases the lock with the last process that has the file open, however it ended.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all.

    Raises:
      NotSavedError: it could not be written.
    """
    from bias_clip.core.storage import write_whole

    write_whole(path, to_json(value, indent=2) + "\n")


def say(text: str) -> None:
    """Prints a line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _passing_on(child: subprocess.Popen) -> Iterator[list[int]]:
    """Waits for the child to save its state; a terminal sends SIGINT to it, too, but not SIGTERM."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handler(number: int, _frame: Any) -> None:
        received.append(number)
        if number == signal.SIGTERM:
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handler)
    try:
        yield received
    finally:
        for signum, old in previous.items():
            signal.signal(signum, old)
