"""All hosts come, or every host says who did not."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from bias_clip.train.hosts import rendezvous as module
from bias_clip.train.hosts.cluster import ONE, Cluster
from bias_clip.train.hosts.rendezvous import rendezvous
from tests.train.hosts.pod import free_port


@pytest.fixture(autouse=True)
def _distinct_processes(monkeypatch):
    """Threads play the hosts here; each needs a name of its own."""
    import threading

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


def test_strangers_at_the_port_are_no_hosts():
    zero, one = clusters([0, 1], 2)
    port = int(zero.coordinator.split(":")[1])
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(rendezvous, zero, timeout=20)
        for said in (b"GET / HTTP/1.1\r\n", b"[1]\n", b""):
            while True:
                try:
                    stranger = socket.create_connection(("127.0.0.1", port))
                    break
                except OSError:
                    continue
            with stranger:
                stranger.sendall(said)
        pool.submit(rendezvous, one, timeout=20).result()
        assert first.result() is None


def test_a_taken_port_is_an_error_that_says_so():
    (zero,) = clusters([0], 2)
    with socket.create_server(("", int(zero.coordinator.split(":")[1]))):
        (error,) = call([zero], timeout=0.3)
    assert "is taken" in str(error)


def test_one_process_waits_for_nobody():
    rendezvous(ONE, timeout=0.0)
