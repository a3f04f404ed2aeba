"""Before processes join: are all there? jax itself waits, and then aborts without a name."""

import json
import os
import socket
import time
from typing import Any

from bias_clip.train.hosts.cluster import Cluster

_RETRY = 0.5  # seconds between two knocks at a door that is not open yet
_GRACE = 10.0  # seconds that the others wait longer for an answer than process 0 for the others


def rendezvous(cluster: Cluster, *, timeout: float) -> None:
    """Returns when every process of the cluster has called; the same answer for all.

    Process 0 listens at the coordinator's port, which jax's own service takes over afterwards; each
    of the others says its number, its count and its name. A process that is not there is named on
    every host that is.

    Args:
      cluster: of this process; with one process there is nothing to do.
      timeout: seconds to wait for the last.

    Raises:
      TimeoutError: if one is missing; says which.
      ValueError: if two have the same number, or different ideas of how many there are.
    """
    if cluster.process_count == 1:
        return
    kind, text = _ask(cluster, timeout) if cluster.process_id else _listen(cluster, timeout)
    if kind == "missing":
        raise TimeoutError(text)
    if kind == "wrong":
        raise ValueError(text)


def _listen(cluster: Cluster, timeout: float) -> tuple[str, str]:
    deadline = time.monotonic() + timeout
    here, open_calls = {0: _name()}, []
    answer = "ok", ""
    with _server(cluster, deadline) as server:
        while len(here) < cluster.process_count and answer[0] == "ok":
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                call, _ = server.accept()
            except TimeoutError:
                answer = "missing", _missing(cluster, here, timeout)
                continue
            said = _read(call, timeout=5.0)
            if said is None:
                call.close()  # not one of ours: a port scan, a process that died
                continue
            open_calls.append(call)
            answer = _enter(cluster, here, said)
        for call in open_calls:
            _send(call, answer)
            call.close()
    return answer


def _enter(cluster: Cluster, here: dict[int, str], said: Any) -> tuple[str, str]:
    """Notes the caller in `here`."""
    place, count, name = said
    if count != cluster.process_count or not 0 < place < count:
        return "wrong", (
            f"{name} calls itself process {place} of {count}, process 0 ({here[0]}) expects "
            f"{cluster.process_count}: start the same line everywhere."
        )
    if here.get(place, name) != name:
        return "wrong", (
            f"{here[place]} and {name} both call themselves process {place} of {count}; each "
            "needs a number of its own, and no process of an earlier run may be left."
        )
    here[place] = name
    return "ok", ""


def _ask(cluster: Cluster, timeout: float) -> tuple[str, str]:
    host, _, port = str(cluster.coordinator).rpartition(":")
    deadline = time.monotonic() + timeout
    reason = "no connection"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5.0) as call:
                _send(call, (cluster.process_id, cluster.process_count, _name()))
                answer = _read(call, timeout=deadline + _GRACE - time.monotonic())
            if answer is not None:
                return answer[0], answer[1]
            reason = "connected, but got no answer"  # an earlier run's, about to end
        except OSError as error:
            reason = str(error)
        time.sleep(_RETRY)
    return "missing", (
        f"process 0 of {cluster.process_count} did not answer at {cluster.coordinator} within "
        f"{timeout:.0f} s ({reason}): it did not start, or the port is closed between the hosts."
    )


def _missing(cluster: Cluster, here: dict[int, str], timeout: float) -> str:
    lost = [i for i in range(cluster.process_count) if i not in here]
    shown = ", ".join(f"{i} ({cluster.hosts[i]})" if cluster.hosts else str(i) for i in lost[:20])
    more = f" and {len(lost) - 20} more" if len(lost) > 20 else ""
    return (
        f"{len(lost)} of {cluster.process_count} processes did not come within {timeout:.0f} s: "
        f"process {shown}{more}. Look at their logs, or raise --wait_for_hosts. Here are: "
        + ", ".join(f"{i} ({name})" for i, name in sorted(here.items())[:20])
    )


def _server(cluster: Cluster, deadline: float) -> socket.socket:
    port = int(str(cluster.coordinator).rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    while True:
        try:
            return socket.create_server(
                ("", port), family=family, dualstack_ipv6=both, backlog=1024
            )
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"port {port} of this host is taken ({error}): an earlier run has not ended, or "
                    "another program uses it; give another port in --coordinator."
                ) from error
        time.sleep(_RETRY)


def _send(call: socket.socket, message: tuple) -> None:
    try:
        call.sendall(json.dumps(message).encode() + b"\n")
        call.shutdown(socket.SHUT_WR)
    except OSError:
        call.close()  # it is gone; jax will miss it, and a later call finds the same


def _read(call: socket.socket, *, timeout: float) -> Any:
    """The message, or None if it is none of ours."""
    call.settimeout(max(timeout, 0.01))
    try:
        with call.makefile("rb") as file:
            said = json.loads(file.readline(100_000))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, list) and len(said) in (2, 3) else None


def _name() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"
