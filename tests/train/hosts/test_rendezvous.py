"""All hosts come, or every host says who did not."""

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bias_clip.train.hosts import greeting
from bias_clip.train.hosts import rendezvous as module
from bias_clip.train.hosts.cluster import ONE, Cluster
from bias_clip.train.hosts.listening import listen
from bias_clip.train.hosts.rendezvous import rendezvous
from tests.train.hosts.pod import free_port


@pytest.fixture(autouse=True)
def _distinct_processes(monkeypatch):
    """Threads play the hosts here; each needs a name of its own."""
    monkeypatch.setattr(module, "_name", lambda: f"host {threading.get_ident()}")
    monkeypatch.setattr(module, "_RETRY", 0.05)


def call(clusters, timeout):
    """What each gets: None or its error."""

    def one(cluster):
        try:
            return rendezvous(cluster, timeout=timeout)
        except (TimeoutError, ValueError) as error:
            return error

    with ThreadPoolExecutor(len(clusters)) as pool:
        return list(pool.map(one, clusters))


def clusters(ids, count, hosts=()):
    address = f"127.0.0.1:{free_port()}"
    return [Cluster(address, i, count, "flags", hosts) for i in ids]


def test_all_are_there_and_the_port_is_free_again():
    made = clusters([2, 0, 1], 3)
    assert call(made, timeout=20) == [None] * 3
    with socket.create_server(("", int(made[0].coordinator.split(":")[1]))):
        pass


def test_every_host_that_came_names_the_missing_one():
    got = call(clusters([0, 2], 3, ("a", "b", "c")), timeout=1.5)
    for error in got:
        assert isinstance(error, TimeoutError)
        assert "1 of 3 processes did not come within 2 s: process 1 (b)." in str(error)


def test_a_missing_first_host_is_named_with_its_address():
    (error,) = call(clusters([1], 2), timeout=0.3)
    assert isinstance(error, TimeoutError)
    assert "process 0 of 2 did not answer at 127.0.0.1:" in str(error)


def test_the_same_number_twice_is_an_error_everywhere():
    for error in call(clusters([0, 1, 1], 3), timeout=5):
        assert isinstance(error, (ValueError, TimeoutError))
        if isinstance(error, ValueError):
            assert "both call themselves process 1 of 3" in str(error)


def test_different_counts_are_an_error_on_both_sides():
    zero, _ = clusters([0, 1], 2)
    for error in call([zero, zero._replace(process_id=1, process_count=3)], timeout=5):
        assert isinstance(error, ValueError)
        assert "process 1 of 3, process 0" in str(error)


def _connect(port):
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            time.sleep(0.01)


def _meets(strangers, *, timeout=20.0, token="", theirs=""):
    """What processes 0 and 1 get when `strangers(port)` comes before process 1, and how long it took."""
    zero, one = clusters([0, 1], 2)
    port = int(zero.coordinator.split(":")[1])
    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(_kind, module._listen, zero, token, timeout)
        held = strangers(port)
        second = pool.submit(_kind, module._ask, one, theirs or token, timeout)
        answers = first.result(), second.result()
    for call in held or ():
        call.close()
    return answers, time.monotonic() - start


def _kind(meet, *arguments):
    return meet(*arguments).kind


ROUGH = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"[1]\n",
    b'["ok", ""]\n',
    b'[1, 2, "host"]\n',
    b'[true, 2, "host"]\n',
    b"",
    b"\n",
    b"\xff\xfe\x00\n",
    b"[" * 4000 + b"\n",
    b"9" * 4000 + b"\n",
    b'{"process": true, "total": 2, "name": "a", "nonce": "' + b"0" * 32 + b'", "mac": ""}\n',
    b'{"process": 1, "total": 2, "name": "a", "nonce": "' + b"0" * 32 + b'", "mac": "\\ud800"}\n',
    b"x" * 100_000,
]


@pytest.mark.parametrize("end", [True, False])
def test_strangers_at_the_port_are_no_hosts(end):
    def strangers(port):
        held = []
        for said in ROUGH:
            call = _connect(port)
            held.append(call)
            with contextlib.suppress(OSError):  # hung up on in the midst of it
                call.sendall(said)
                if end:
                    call.shutdown(socket.SHUT_WR)
        return held

    answers, seconds = _meets(strangers)
    assert answers == ("ok", "ok")
    assert seconds < 8


def test_slow_and_silent_strangers_hold_nobody_up_past_the_deadline():
    ended = threading.Event()

    def drip(call):
        with contextlib.suppress(OSError):
            while not ended.wait(0.05):
                call.sendall(b"1")

    def strangers(port):
        held = [_connect(port) for _ in range(30)]
        for call in held[:5]:
            threading.Thread(target=drip, args=[call], daemon=True).start()
        return held

    answers, seconds = _meets(strangers)
    assert answers == ("ok", "ok")
    assert seconds < 8
    zero, _ = clusters([0, 1], 2)
    with ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        alone = pool.submit(module._listen, zero, "", 1.0)
        held = strangers(int(zero.coordinator.split(":")[1]))
        assert alone.result().kind == "missing"
        assert time.monotonic() - start < 4
    ended.set()
    for call in held:
        call.close()


def test_more_strangers_than_may_wait_do_not_keep_a_process_out(monkeypatch):
    monkeypatch.setattr(module, "_WAITING", 8)
    answers, _ = _meets(lambda port: [_connect(port) for _ in range(40)])
    assert answers == ("ok", "ok")


def test_who_does_not_know_the_token_is_no_process_and_is_told_nothing():
    answers, _ = _meets(lambda _: None, timeout=1.5, token="right", theirs="wrong")
    assert answers == ("missing", "missing")
    zero, _ = clusters([0, 1], 2)
    port = int(zero.coordinator.split(":")[1])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(module._listen, zero, "right", 1.5)
        with _connect(port) as call:
            nonce = greeting.read_challenge(call.recv(4096))
            said = greeting.Call(1, 3, "a stranger", greeting.new_nonce())  # would end the run
            call.sendall(greeting.sign_call(said, "", nonce))
            assert call.recv(4096) == b""
        answer = first.result()
    assert answer.kind == "missing"
    assert "1 connections were not of this run: is BIAS_CLIP_TOKEN the same" in answer.text


def test_a_call_that_was_overheard_is_of_no_use_again():
    call, nonce = greeting.Call(1, 2, "host", greeting.new_nonce()), greeting.new_nonce()
    line = greeting.sign_call(call, "token", nonce)
    assert greeting.read_call(line, "token", nonce) == call
    assert greeting.read_call(line, "token", greeting.new_nonce()) is None
    for i in range(len(line) - 1):  # nor is one that was changed on the way
        assert greeting.read_call(line[:i] + b"7" + line[i + 1 :], "token", nonce) in (None, call)


def test_an_answer_of_somebody_else_is_not_believed(monkeypatch):
    monkeypatch.setattr(module, "_RETRY", 0.6)  # one try
    (one,) = clusters([1], 2)
    port = int(one.coordinator.split(":")[1])
    with (
        socket.create_server(("127.0.0.1", port)) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        got = pool.submit(module._ask, one, "right", 0.5)
        call, _ = server.accept()
        with call:
            nonce = greeting.new_nonce()
            call.sendall(greeting.write_challenge(nonce))
            call.recv(4096)
            call.sendall(greeting.sign_answer(greeting.Answer("ok", ""), "", nonce, "0" * 32))
        answer = got.result()
    assert answer.kind == "missing"
    assert "not signed with BIAS_CLIP_TOKEN" in answer.text


@pytest.mark.slow
def test_random_lines_are_calls_of_nobody():
    rng = np.random.default_rng(0)
    call, nonce = greeting.Call(1, 2, "host", greeting.new_nonce()), greeting.new_nonce()
    good = greeting.sign_call(call, "token", nonce)
    for number in range(50_000):
        if number % 2:
            line = rng.integers(0, 256, rng.integers(0, 300), np.uint8).tobytes()
        else:
            changed = bytearray(good)
            for place in rng.integers(0, len(good), rng.integers(1, 4)):
                changed[place] = rng.integers(0, 256)
            line = bytes(changed)
        assert greeting.read_call(line, "token", nonce) in (None, call)
        assert greeting.read_answer(line, "token", nonce, "0" * 32) is None


def test_it_listens_at_the_coordinators_address_alone():
    port = free_port()
    servers = listen(f"127.0.0.1:{port}")
    try:
        assert [server.getsockname() for server in servers] == [("127.0.0.1", port)]
        with socket.create_server(("127.0.0.2", port)):  # which another may use
            pass
    finally:
        for server in servers:
            server.close()


def test_where_the_coordinators_name_is_not_of_this_host_it_listens_at_all_addresses(capsys):
    (server,) = listen(f"192.0.2.1:{free_port()}")  # an address for documentation
    with server:
        assert server.getsockname()[0] in ("::", "0.0.0.0")
    assert "listens at all of them" in capsys.readouterr().err


def test_a_taken_port_is_an_error_that_says_so():
    (zero,) = clusters([0], 2)
    with socket.create_server(("", int(zero.coordinator.split(":")[1]))):
        (error,) = call([zero], timeout=0.3)
    assert "is taken" in str(error)


def test_one_process_waits_for_nobody():
    rendezvous(ONE, timeout=0.0)
