"""Before processes join: are all there? jax itself waits, and then aborts without a name."""

import os
import selectors
import socket
import time
from typing import NamedTuple

from bias_clip.core.launching import TOKEN
from bias_clip.train.hosts.cluster import Cluster
from bias_clip.train.hosts.greeting import (
    LONGEST_ANSWER,
    LONGEST_CALL,
    Answer,
    Call,
    new_nonce,
    read_answer,
    read_call,
    read_challenge,
    sign_answer,
    sign_call,
    write_challenge,
)
from bias_clip.train.hosts.listening import listen

_RETRY = 0.5  # seconds between two knocks at a door that is not open yet
_GRACE = 10.0  # seconds that the others wait longer for an answer than process 0 for the others
_PATIENCE = 10.0  # seconds in which a caller has to say its line
_WAITING = 256  # callers that have not said it yet; one more, and the oldest is hung up on


class _Caller(NamedTuple):
    """Someone who has connected."""

    socket: socket.socket
    nonce: str
    since: float
    said: bytearray


class _Member(NamedTuple):
    """A process of ours, which waits for the answer."""

    name: str
    caller: _Caller
    call: Call


def rendezvous(cluster: Cluster, *, timeout: float) -> None:
    """Returns when every process of the cluster has called; the same answer for all.

    Process 0 listens at the coordinator's address, whose port jax's own service takes over
    afterwards; each of the others says its number, its count and its name. A process that is not
    there is named on every host that is. Both sides prove that they know the token which the
    launcher has put in the environment (`core.launching.TOKEN`); whoever does not is a stranger, and
    is ignored, as is whoever says anything else, says it slowly, or says nothing.

    Args:
      cluster: of this process; with one process there is nothing to do.
      timeout: seconds to wait for the last.

    Raises:
      TimeoutError: if one is missing; says which.
      ValueError: if two have the same number, or different ideas of how many there are.
    """
    if cluster.process_count == 1:
        return
    token = os.environ.get(TOKEN, "")
    meet = _ask if cluster.process_id else _listen
    answer = meet(cluster, token, timeout)
    if answer.kind == "missing":
        raise TimeoutError(answer.text)
    if answer.kind == "wrong":
        raise ValueError(answer.text)


def _listen(cluster: Cluster, token: str, timeout: float) -> Answer:
    deadline = time.monotonic() + timeout
    servers = _servers(cluster, deadline)
    members: dict[int, _Member] = {}
    waiting: list[_Caller] = []
    strangers, answer = 0, Answer("ok", "")
    try:
        with selectors.DefaultSelector() as selector:
            for server in servers:
                selector.register(server, selectors.EVENT_READ)
            while len(members) + 1 < cluster.process_count and answer.kind == "ok":
                if time.monotonic() >= deadline:
                    answer = _missing(cluster, members, strangers, timeout)
                    break
                calls = _heard(selector, waiting, min(deadline - time.monotonic(), 1.0))
                for caller, whole in calls:
                    call = read_call(bytes(caller.said), token, caller.nonce) if whole else None
                    if call is None:
                        caller.socket.close()
                        strangers += 1
                    elif answer.kind == "ok":
                        answer = _enter(cluster, members, _Member(call.name, caller, call))
        for member in members.values():
            _reply(member, answer, token)
    finally:
        for open_socket in [*servers, *(c.socket for c in waiting)]:
            open_socket.close()
        for member in members.values():
            member.caller.socket.close()
    return answer


def _heard(
    selector: selectors.BaseSelector, waiting: list[_Caller], seconds: float
) -> list[tuple[_Caller, bool]]:
    """Waits a while, and returns the callers that are done, and whether they said a whole line."""
    done = []
    for key, _ in selector.select(seconds):
        if key.data is None:
            if (caller := _accept(key.fileobj)) is not None:
                waiting.append(caller)
                selector.register(caller.socket, selectors.EVENT_READ, caller)
        elif (whole := _listen_to(key.data)) is not None:
            done.append((key.data, whole))
    now = time.monotonic()
    slow = {id(c) for c in waiting if now - c.since > _PATIENCE}
    slow |= {id(c) for c in waiting[: max(len(waiting) - _WAITING, 0)]}
    finished = {id(caller) for caller, _ in done}
    done += [(c, False) for c in waiting if id(c) in slow - finished]
    for caller, _ in done:
        selector.unregister(caller.socket)
        waiting.remove(caller)
    return done


def _accept(server: object) -> _Caller | None:
    """The next caller, to whom the challenge is sent; None if it has hung up."""
    assert isinstance(server, socket.socket)
    try:
        call, _ = server.accept()
    except OSError:
        time.sleep(0.01)  # out of descriptors, or hung up: either passes
        return None
    call.setblocking(False)
    nonce = new_nonce()
    try:
        call.sendall(write_challenge(nonce))
    except OSError:
        call.close()
        return None
    return _Caller(call, nonce, time.monotonic(), bytearray())


def _listen_to(caller: _Caller) -> bool | None:
    """Reads what has come: True, the line is whole; False, it never will be; None, not yet."""
    try:
        part = caller.socket.recv(LONGEST_CALL)
    except BlockingIOError:
        return None
    except OSError:
        return False
    caller.said.extend(part)
    if b"\n" in part:
        return True
    return None if part and len(caller.said) < LONGEST_CALL else False


def _enter(cluster: Cluster, members: dict[int, _Member], member: _Member) -> Answer:
    """Notes the caller among the members, also the one whose call shows that something is wrong."""
    place, count, name = member.call.process, member.call.total, member.name
    known = members.get(place)
    answer = Answer("ok", "")
    if count != cluster.process_count or not 0 < place < count:
        answer = Answer(
            "wrong",
            f"{name} calls itself process {place} of {count}, process 0 ({_name()}) expects "
            f"{cluster.process_count}: start the same line everywhere.",
        )
        place = -len(members) - 1  # a place of its own, where the answer finds it
    elif known is not None and known.name != name:
        answer = Answer(
            "wrong",
            f"{known.name} and {name} both call themselves process {place} of {count}; each "
            "needs a number of its own, and no process of an earlier run may be left.",
        )
        place = -len(members) - 1
    elif known is not None:
        known.caller.socket.close()  # it has called again
    members[place] = member
    return answer


def _reply(member: _Member, answer: Answer, token: str) -> None:
    call = member.caller.socket
    try:
        call.settimeout(_PATIENCE)
        call.sendall(sign_answer(answer, token, member.caller.nonce, member.call.nonce))
        call.shutdown(socket.SHUT_WR)
    except OSError:
        call.close()  # it is gone; jax will miss it, and a later call finds the same


def _ask(cluster: Cluster, token: str, timeout: float) -> Answer:
    host, _, port = str(cluster.coordinator).rpartition(":")
    deadline = time.monotonic() + timeout
    reason = "no connection"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5.0) as call:
                answer, reason = _ask_once(call, cluster, token, deadline + _GRACE)
            if answer is not None:
                return answer
        except OSError as error:
            reason = str(error)
        time.sleep(_RETRY)
    return Answer(
        "missing",
        f"process 0 of {cluster.process_count} did not answer at {cluster.coordinator} within "
        f"{timeout:.0f} s ({reason}): it did not start, or the port is closed between the hosts.",
    )


def _ask_once(
    call: socket.socket, cluster: Cluster, token: str, deadline: float
) -> tuple[Answer | None, str]:
    """The answer, or None and why there is none."""
    challenge = _read_line(call, LONGEST_CALL, min(deadline, time.monotonic() + _PATIENCE))
    nonce = read_challenge(challenge)
    if nonce is None:
        return None, "connected, but something else listens there"
    mine = Call(cluster.process_id, cluster.process_count, _name(), new_nonce())
    call.sendall(sign_call(mine, token, nonce))
    said = _read_line(call, LONGEST_ANSWER, deadline)
    if not said:  # an earlier run's, about to end
        return None, f"connected, but got no answer; is {TOKEN} the same on all hosts?"
    answer = read_answer(said, token, nonce, mine.nonce)
    return answer, f"connected, but the answer was not signed with {TOKEN}"


def _read_line(call: socket.socket, most: int, deadline: float) -> bytes:
    """What comes up to a line feed, the end, `most` bytes, or the deadline."""
    said = bytearray()
    while len(said) < most and b"\n" not in said:
        call.settimeout(max(deadline - time.monotonic(), 0.01))
        part = call.recv(most - len(said))
        if not part or time.monotonic() > deadline:
            break
        said.extend(part)
    return bytes(said)


def _missing(
    cluster: Cluster, members: dict[int, _Member], strangers: int, timeout: float
) -> Answer:
    lost = [i for i in range(1, cluster.process_count) if i not in members]
    shown = ", ".join(f"{i} ({cluster.hosts[i]})" if cluster.hosts else str(i) for i in lost[:20])
    more = f" and {len(lost) - 20} more" if len(lost) > 20 else ""
    here = {0: _name()} | {i: member.name for i, member in sorted(members.items())}
    other = (
        f" {strangers} connections were not of this run: is {TOKEN} the same on all hosts?"
        if strangers
        else ""
    )
    return Answer(
        "missing",
        f"{len(lost)} of {cluster.process_count} processes did not come within {timeout:.0f} s: "
        f"process {shown}{more}. Look at their logs, or raise --wait_for_hosts. Here are: "
        + ", ".join(f"{i} ({name})" for i, name in list(here.items())[:20])
        + other,
    )


def _servers(cluster: Cluster, deadline: float) -> list[socket.socket]:
    port = int(str(cluster.coordinator).rpartition(":")[2])
    while True:
        try:
            return listen(str(cluster.coordinator))
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"port {port} of this host is taken ({error}): an earlier run has not ended, or "
                    "another program uses it; give another port in --coordinator."
                ) from error
        time.sleep(_RETRY)


def _name() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"
