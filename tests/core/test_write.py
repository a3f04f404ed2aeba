"""A file is the former one or the new one, whatever stops the writer, and it is on the disk."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bias_clip.core import write
from bias_clip.core.write import PARTIAL, whole_file, write_file


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b"old")
    return path


def names(path):
    return sorted(p.name for p in path.parent.iterdir())


@pytest.mark.parametrize("content", ["grün\n", b"\x00\xff"])
def test_what_is_written_is_what_is_read(path, content):
    write_file(path, content)
    raw = content if isinstance(content, bytes) else content.encode("utf-8")
    assert (path.read_bytes(), names(path)) == (raw, [path.name])


@pytest.mark.parametrize("error", [OSError("full"), ValueError("x"), KeyboardInterrupt()])
def test_an_error_in_between_leaves_the_former_file_and_nothing_else(path, error):
    def write_half():
        with whole_file(path) as partial:
            partial.write_bytes(b"half")
            assert path.read_bytes() == b"old"
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert (path.read_bytes(), names(path)) == (b"old", [path.name])


def test_a_full_disk_names_the_file(path):
    def write_half():
        with whole_file(path) as partial, partial.open("wb") as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")  # as of `write`, without a name

    with pytest.raises(OSError, match=r"No space left.*file\.json"):
        write_half()
    assert (path.read_bytes(), names(path)) == (b"old", [path.name])


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="pipe is a device or a pipe"):
        write_file(pipe, "text")
    assert names(pipe) == ["pipe"]


@pytest.mark.parametrize("before", [b"old", None])
def test_a_kill_in_between_leaves_the_former_file_and_a_part_of_another_name(path, before):
    if before is None:
        path.unlink()
    lines = f"""
import os, signal
from bias_clip.core.write import whole_file
with whole_file({str(path)!r}) as partial:
    partial.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    status = subprocess.run([sys.executable, "-c", lines], check=False).returncode
    assert status == -signal.SIGKILL
    assert (path.read_bytes() if path.exists() else None) == before
    assert set(names(path)) - {path.name} == {path.name + PARTIAL}
    write_file(path, b"new")
    assert (path.read_bytes(), names(path)) == (b"new", [path.name])


def test_the_bytes_are_on_the_disk_before_the_name_and_then_the_name_is(path, monkeypatch):
    calls, real, rename = [], os.fsync, Path.replace

    def fsync(handle):
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{handle}"), path.read_bytes()))
        real(handle)

    def replace(partial, target):
        assert partial.read_bytes() == b"new"
        calls.append(("rename", str(target), path.read_bytes()))
        return rename(partial, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_file(path, b"new")
    assert calls == [
        ("fsync", f"{path}{PARTIAL}", b"old"),
        ("rename", str(path), b"old"),
        ("fsync", str(path.parent), b"new"),
    ]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_mount_that_cannot_sync_folders_is_no_error_and_a_broken_disk_is(
    path, monkeypatch, number
):
    def fsync(handle):
        if os.readlink(f"/proc/self/fd/{handle}") == str(path.parent):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if number != errno.EIO:
        write_file(path, b"new")
        return
    with pytest.raises(OSError, match="rror"):
        write_file(path, b"new")


def test_a_file_that_cannot_be_synced_does_not_get_the_name(path, monkeypatch):
    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write.os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new")
    assert (path.read_bytes(), names(path)) == (b"old", [path.name])


def test_several_writers_of_one_file_do_not_meet(path):
    with whole_file(path, suffix=".1") as one, whole_file(path, suffix=".2") as two:
        one.write_bytes(b"first")
        two.write_bytes(b"second")
    assert (path.read_bytes(), names(path)) == (b"first", [path.name])


def test_it_loads_the_standard_library_only():
    lines = "import sys, bias_clip.core.write; print(*{n.partition('.')[0] for n in sys.modules})"
    out = subprocess.run([sys.executable, "-c", lines], capture_output=True, check=True).stdout
    loaded = set(out.decode().split()) - {"bias_clip"}
    assert not loaded & {"numpy", "jax", "etils", "pyarrow"}
