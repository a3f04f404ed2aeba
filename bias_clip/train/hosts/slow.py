"""Which host is slower than the others? Times of all hosts, compared at each logged step."""

import os
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

DEVIATIONS = 3.0
_LEAST = 0.05  # of the middle value: below it a difference is not worth a name
_NAME_BYTES = 64


class Slow(NamedTuple):
    """A host that took longer than the others for a part of the work.

    Attributes:
      host: its name and process number.
      part: of the work.
      seconds: that it took.
      middle: the median of all hosts.
    """

    host: str
    part: str
    seconds: float
    middle: float


def host_names() -> list[str]:
    """The name of every process, "process 3 (worker-3)"; all processes call it together."""
    own = os.environ.get("HOSTNAME") or socket.gethostname()
    raw = np.frombuffer(own.encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"), np.uint8)
    rows = multihost_utils.process_allgather(raw).reshape(-1, _NAME_BYTES)
    names = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in rows.astype(np.uint8)]
    return [f"process {i} ({name})" for i, name in enumerate(names)]


def gather_times(parts: Mapping[str, float], names: Sequence[str]) -> dict[str, np.ndarray]:
    """The seconds of each part on every host; all processes call it together."""
    own = np.array([parts.get(name, 0.0) for name in names], np.float32)
    rows = multihost_utils.process_allgather(own).reshape(jax.process_count(), len(names))
    return {name: rows[:, i] for i, name in enumerate(names)}


def slow_hosts(times: Mapping[str, Float[np.ndarray, " h"]], names: Sequence[str]) -> list[Slow]:
    """The hosts that are more than three deviations above the median of all.

    The deviation is 1.4826 times the median distance from the median, which equals the standard one for
    a normal distribution. One slow host of a few does not hide itself in it, as it would in the
    standard deviation: of n numbers none is further than (n - 1) / sqrt(n) of those from the mean.

    Args:
      times: seconds of each part by process.
      names: of the processes.
    """
    found = []
    for part, seconds in times.items():
        middle = float(np.median(seconds))
        spread = max(1.4826 * float(np.median(np.abs(seconds - middle))), _LEAST * middle)
        for i in np.flatnonzero(seconds > middle + DEVIATIONS * spread):
            found.append(Slow(names[int(i)], part, float(seconds[i]), middle))
    return found


def describe(found: Sequence[Slow]) -> str:
    """One line for each slow host."""
    return "\n".join(
        f"slow host: {slow.host} took {slow.seconds:.2f} s for {slow.part!r}, the median host "
        f"{slow.middle:.2f} s"
        for slow in found
    )
