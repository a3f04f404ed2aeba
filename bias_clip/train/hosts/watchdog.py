"""Is the run stuck, and in what? A thread that watches and reports it; it never ends the run."""

import faulthandler
import json
import tempfile
import threading
import time
from pathlib import Path

import jax

from bias_clip.core.json_object import read_object
from bias_clip.core.storage import NotSavedError, storage_errors, write_whole
from bias_clip.train.hosts.log import log

_LONGEST_NAP = 30.0  # seconds between two signs of life in the workdir


def check_seconds(seconds: float | None) -> None:
    """Raises ValueError unless None (never look) or a positive number of seconds."""
    if seconds is not None and not 0 < seconds < threading.TIMEOUT_MAX:
        raise ValueError(
            f"stall_seconds is {seconds}; expected a positive number, or None for no watchdog."
        )


class Watchdog:
    """Writes the stacks of all threads when no step ends for `seconds`.

    The loop tells it which part begins. The stacks go to stderr and to `stacks_<process>.txt` of the
    workdir, once per stall, under a line that names the loop's part. If there are many processes, each
    also writes a sign of life, `heartbeat_<process>`. The report compares these: a process that waits
    for data, is steps behind, or gives no sign is holding up the others.
    """

    def __init__(self, workdir: Path, *, seconds: float | None, step: int):
        """Starts to watch after `step`; with `seconds=None` it starts nothing.

        Raises:
          ValueError: as `check_seconds`.
        """
        check_seconds(seconds)
        self._workdir, self._seconds = workdir, seconds
        self._step, self._part = step, "start"
        self._since = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watchdog", daemon=True)
        if seconds is not None:
            self._thread.start()

    def doing(self, part: str) -> None:
        """Notes that the loop begins `part`: "input", "compile", "step", "evaluate" or "save"."""
        self._part = part

    def done(self, step: int) -> None:
        """Notes that step `step` has ended."""
        self._step, self._since = step, time.monotonic()

    def close(self) -> None:
        """Stops the thread."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look_on(self) -> None:
        seconds = float(self._seconds or 0)
        nap, reported = min(seconds / 4, _LONGEST_NAP), None
        while not self._end.wait(nap):
            since = self._since
            try:
                self._give_sign()
                if time.monotonic() - since > seconds and since != reported:
                    reported = since
                    self._report(time.monotonic() - since)
            except storage_errors(self._workdir, NotSavedError) as error:
                # The loop reports a full disk itself; keep watching.
                log(f"watchdog: {self._workdir} cannot be used: {error}")

    def _give_sign(self) -> None:
        if jax.process_count() > 1:
            sign = {"time": time.time(), "step": self._step, "part": self._part}
            path = self._workdir / f"heartbeat_{jax.process_index()}"
            write_whole(path, json.dumps(sign))  # another host may be reading

    def _report(self, passed: float) -> None:
        text = (
            f"watchdog: no step has ended for {passed:.0f} s; after step {self._step} the loop is in "
            f"{self._part!r}. The run goes on; end it if nothing moves.\n"
        )
        text += describe_hosts(self._workdir, jax.process_count()) + _stacks()
        log(text)
        write_whole(self._workdir / f"stacks_{jax.process_index()}.txt", text)


def describe_hosts(workdir: Path, process_count: int) -> str:
    """Returns a line per process from the signs of life in `workdir`; "" if there is one process."""
    if process_count == 1:
        return ""
    lines = []
    for i in range(process_count):
        path = workdir / f"heartbeat_{i}"
        try:
            sign = read_object(path, advice="it is written again")
            age = time.time() - float(sign["time"])
            where = f"after step {sign['step']} in {sign['part']!r}"
        except FileNotFoundError:
            lines.append(f"  process {i}: has given no sign")
            continue
        except (ValueError, KeyError, TypeError):
            lines.append(f"  process {i}: its sign {path} is damaged")
            continue
        late = "  <- silent" if age > 3 * _LONGEST_NAP else ""
        lines.append(f"  process {i}: {where}, {age:.0f} s ago{late}")
    return "\n".join(lines) + "\n"


def _stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:  # faulthandler needs a file descriptor
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        return file.read()
