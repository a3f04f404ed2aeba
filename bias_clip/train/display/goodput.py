"""Where the wall time of a run went, over all its restarts: how much of it made steps that stayed.

Goodput is the share of "steps" in all seconds since the first start. Process 0 keeps the sums in the file
`goodput.json` of the workdir, because metrics.jsonl loses the lines after the checkpoint that a
restart continues from, and with them the record of the work that was lost.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bias_clip.core.json_object import read_object, to_json
from bias_clip.core.storage import write_whole
from bias_clip.report.run_page import GOODPUT
from bias_clip.train.hosts.distributed import is_main

FILE = "goodput.json"
PARTS = tuple(GOODPUT)
"""Parts of the wall time: those that the report has names for."""

_REDONE = ("steps", "input", "evaluate")  # what a restart does again after its checkpoint
_KEPT = (
    64  # saved steps whose sums are kept: more than any run keeps checkpoints beside `keep_every`
)


class Goodput(NamedTuple):
    """Seconds by part up to now, and as they were when each step was saved.

    Attributes:
      seconds: by part, since the first start.
      saved: step to the seconds when it was saved.
      alive: the last sign of life, in seconds since the epoch; the sum of `seconds` ends there.
    """

    seconds: dict[str, float]
    saved: dict[int, dict[str, float]]
    alive: float


def start(workdir: Path, *, step: int, began: float) -> Goodput:
    """The sums of a start that continues after `step`; what came after it in an earlier start is lost.

    The time since the last sign of life counts as waiting. It includes what ran after the last log
    line of a run that was killed, which nobody measured.

    Args:
      workdir: of the run.
      step: that the run continues after; 0 for a new one.
      began: when this process began, in seconds since the epoch.

    Raises:
      ValueError: the file is damaged; names it.
    """
    now = time.time()
    before = _read(workdir / FILE)
    if before is None:
        return Goodput(_zeros() | {"start": max(0.0, now - began)}, {}, now)
    seconds = dict(before.seconds)
    # Of a step whose sums were dropped nothing is known to be lost.
    kept = _zeros() if step == 0 else before.saved.get(step, seconds)
    for part in _REDONE:
        seconds["lost"] += max(0.0, seconds[part] - kept[part])
        seconds[part] = min(seconds[part], kept[part])
    seconds["waiting"] += max(0.0, began - before.alive)
    seconds["start"] += max(0.0, now - began)
    saved = {number: sums for number, sums in before.saved.items() if number <= step}
    return Goodput(seconds, saved, now)


def add(goodput: Goodput, elapsed: float, parts: Mapping[str, float]) -> Goodput:
    """Adds an interval: the seconds of its parts, and the rest as steps."""
    seconds = dict(goodput.seconds)
    for part, value in parts.items():
        seconds[part] += value
    seconds["steps"] += max(0.0, elapsed - sum(parts.values()))
    return goodput._replace(seconds=seconds, alive=time.time())


def mark_saved(goodput: Goodput, step: int) -> Goodput:
    """Notes that what was done up to now is in the checkpoint of `step`."""
    saved = {**goodput.saved, step: dict(goodput.seconds)}
    return goodput._replace(saved=dict(sorted(saved.items())[-_KEPT:]))


def write(workdir: Path, goodput: Goodput) -> None:
    """Writes the file, on one process only.

    Raises:
      NotSavedError: it cannot be written.
    """
    if is_main():
        write_whole(workdir / FILE, to_json(goodput._asdict()))


def line(goodput: Goodput) -> dict[str, float]:
    """Returns {"goodput/<part>": seconds} for metrics.jsonl, and "goodput": the share of steps."""
    total = sum(goodput.seconds.values())
    shares = {f"goodput/{part}": value for part, value in goodput.seconds.items()}
    return shares | {"goodput": goodput.seconds["steps"] / total if total > 0 else 0.0}


def _zeros() -> dict[str, float]:
    return dict.fromkeys(PARTS, 0.0)


def _read(path: Path) -> Goodput | None:
    """What an earlier start wrote; None where there was none."""
    advice = "remove it: the run then counts its time again from here"
    try:
        record = read_object(path, advice=advice)
    except FileNotFoundError:
        return None
    try:
        saved = {int(step): _sums(sums) for step, sums in record["saved"].items()}
        return Goodput(_sums(record["seconds"]), saved, float(record["alive"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path}: got {str(record)[:80]}, expected the seconds of a run by part ({error!r}); "
            f"{advice}."
        ) from error


def _sums(given: Mapping[str, Any]) -> dict[str, float]:
    return {part: float(given[part]) for part in PARTS}
