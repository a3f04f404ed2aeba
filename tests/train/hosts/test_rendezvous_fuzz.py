"""Thousands of strangers say random and nearly right lines to the meeting of the processes, and change nothing."""

import contextlib
import json
import random
import socket
import threading
import time
from collections import Counter

import pytest

from bias_clip.core.launching import TOKEN
from bias_clip.train.hosts import greeting
from bias_clip.train.hosts.cluster import Cluster
from bias_clip.train.hosts.rendezvous import rendezvous
from tests.fuzzing import PIECES, SEED, VALUES, count_of, damage
from tests.train.hosts.pod import free_port

TIMEOUT = 100.0


def near_line(rng, token, nonce):
    """A line as process 1 would say it, with something wrong about it; and what."""
    call = greeting.Call(1, 2, "host", greeting.new_nonce())
    match rng.randrange(5):
        case 0:
            return "other token", greeting.sign_call(call, token + "x", nonce)
        case 1:
            return "other nonce", greeting.sign_call(call, token, greeting.new_nonce())
        case 2:
            good = greeting.sign_call(call, token, nonce)
            line = damage(good.rstrip(b"\n"), rng, PIECES[:10]) + b"\n"
            return (
                ("damaged", line) if greeting.read_call(line, token, nonce) is None else ("", b"")
            )
        case 3:
            said = json.loads(greeting.sign_call(call, token, nonce))
            said[rng.choice(sorted(said))] = rng.choice(VALUES)
            line = json.dumps(said).encode() + b"\n"
            return (
                ("changed", line) if greeting.read_call(line, token, nonce) is None else ("", b"")
            )
        case _:
            return "answer", greeting.sign_answer(greeting.Answer("ok", ""), token, nonce, "0" * 32)


def visit(port, rng, token):
    """One stranger; returns what it did."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as call:
        nonce = greeting.read_challenge(call.recv(4096))
        if rng.random() < 0.5:
            kind, line = "random", rng.randbytes(rng.randrange(0, 300)) + rng.choice((b"", b"\n"))
        else:
            kind, line = near_line(rng, token, nonce or "")
        with contextlib.suppress(OSError):  # hung up on in the midst of it
            call.sendall(line)
            if rng.random() < 0.3 and b"\n" in line:
                call.settimeout(5)
                assert call.recv(4096) == b"", f"{kind}: a stranger got an answer"
    return kind or "nothing"


@pytest.mark.slow
def test_strangers_with_any_lines_change_nothing_and_get_no_answer(monkeypatch, capsys):
    token, rng, counts = greeting.new_nonce(), random.Random(SEED), Counter()
    monkeypatch.setenv(TOKEN, token)
    port = free_port()
    zero = Cluster(f"127.0.0.1:{port}", 0, 2, "flags", ())
    ended: list[object] = []

    def meet():
        try:
            ended.append(rendezvous(zero, timeout=TIMEOUT))
        except (TimeoutError, ValueError) as error:
            ended.append(error)

    thread = threading.Thread(target=meet, daemon=True)
    thread.start()
    start = time.monotonic()
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
            break
    for _ in range(count_of(4_000)):
        counts[visit(port, rng, token)] += 1
        assert not ended, f"after {counts}: {ended}"
    passed = time.monotonic() - start
    assert passed < TIMEOUT - 20
    asking = Cluster(f"127.0.0.1:{port}", 1, 2, "flags", ())
    rendezvous(asking, timeout=20)
    thread.join(20)
    with capsys.disabled():
        print(f"\nstrangers: {counts.total()}: {dict(sorted(counts.items()))}; {passed:.0f} s")
    assert ended == [None]
