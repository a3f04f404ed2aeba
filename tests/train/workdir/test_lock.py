"""Of two starts on one workdir one runs; an owner that has gone is replaced, and never a live one."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bias_clip.core.storage import NotSavedError, run_folder
from bias_clip.train.workdir import lock
from tests.train.workdir import bucket


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "_POLL", 0.02)


def left_by(path, **changes):
    """A lock that another process has left."""
    said = json.loads(lock._content("theirs")) | {"host": "gone", "pid": 7, "life": ""} | changes
    path.write_text(json.dumps(said))


def test_a_held_workdir_is_refused_and_free_again_when_it_is_let_go(tmp_path):
    with contextlib.closing(lock.take(tmp_path)) as held:
        with pytest.raises(ValueError, match=rf"at work in .*process {os.getpid()} on .*UTC"):
            lock.take(tmp_path)
        held.check()
    assert not list(tmp_path.iterdir())
    lock.take(tmp_path).close()


def test_an_owner_here_that_has_ended_is_replaced_at_once(tmp_path, capsys):
    line = f"from bias_clip.train.workdir import lock; import os, pathlib; lock.take(pathlib.Path({str(tmp_path)!r})); os._exit(9)"
    subprocess.run([sys.executable, "-c", line], check=False)
    assert (tmp_path / "lock").exists()
    start = time.monotonic()
    lock.take(tmp_path).close()
    assert time.monotonic() - start < 5
    assert "taking it over" in capsys.readouterr().err


def test_a_takeover_is_said_while_the_lock_is_still_the_former_owners(tmp_path, monkeypatch):
    left_by(tmp_path / "lock", life=lock._life(os.getpid()).rpartition(" ")[0] + " ended")
    held = []

    def say(text):
        held.append((text, json.loads((tmp_path / "lock").read_text())["token"]))

    monkeypatch.setattr(lock, "log", say)
    lock.take(tmp_path).close()
    ((said, token),) = held
    assert (said.endswith("taking it over."), token) == (True, "theirs")


def test_a_number_of_a_process_that_came_later_does_not_keep_the_lock(tmp_path):
    life = lock._life(os.getpid()).rpartition(" ")[0] + " 1"  # same number, another start
    left_by(tmp_path / "lock", pid=os.getpid(), life=life)
    lock.take(tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_an_owner_elsewhere_is_replaced_after_it_gave_no_sign(tmp_path, capsys):
    left_by(tmp_path / "lock")
    start = time.monotonic()
    held = lock.take(tmp_path, patience=0.5)
    assert time.monotonic() - start >= 0.5
    held.close()
    said = capsys.readouterr().err
    assert "is held by process 7 on gone" in said
    assert "was left by process 7 on gone" in said
    assert not list(tmp_path.iterdir())


def test_an_owner_elsewhere_that_lives_is_refused(tmp_path):
    path, end = tmp_path / "lock", threading.Event()
    left_by(path)

    def live():
        while not end.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ValueError, match=r"another run is at work .*process 7 on gone"):
            lock.take(tmp_path, patience=5.0)
    finally:
        end.set()
        thread.join()
    assert json.loads(path.read_text())["token"] == "theirs"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": 1}', "\0" * 40])
def test_a_damaged_lock_is_watched_and_then_replaced(tmp_path, content):
    (tmp_path / "lock").write_text(content)
    lock.take(tmp_path, patience=0.2).close()
    assert not list(tmp_path.iterdir())


def test_of_many_that_find_a_lock_left_one_gets_it(tmp_path):
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        left_by(folder / "lock")

        def one(_, folder=folder):
            try:
                return lock.take(folder, patience=0.2)
            except ValueError:
                return None

        with ThreadPoolExecutor(8) as pool:
            held = [x for x in pool.map(one, range(8)) if x is not None]
        assert len(held) == 1
        held[0].close()
        assert not list(folder.iterdir())


def test_who_was_replaced_learns_it_before_it_writes(tmp_path):
    held = lock.take(tmp_path)
    left_by(tmp_path / "lock", host="other")
    end = time.monotonic() + 20
    while held._taken_by is None and time.monotonic() < end:
        time.sleep(0.02)
    with pytest.raises(NotSavedError, match="now belongs to process 7 on other"):
        held.check()
    held.close()
    assert json.loads((tmp_path / "lock").read_text())["host"] == "other"  # and stays theirs


def test_a_lock_in_a_bucket_is_exclusive_too(monkeypatch):
    with bucket.running() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        folder = run_folder("gs://bucket/locked")
        with contextlib.closing(lock.take(folder)):
            with pytest.raises(ValueError, match="another run is at work"):
                lock.take(folder)
            assert not lock._create(folder / "lock", "another")
        left_by(folder / "lock")
        lock.take(folder, patience=0.3).close()
        assert not (folder / "lock").exists()
